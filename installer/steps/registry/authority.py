"""The CA of a site's registry, kept on the host: the builder gets it, now and whenever it is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundles.errors import Problem
from bundles.runtime.program import quote
from installer.host.files import is_writable, read_optional, write_atomically
from installer.host.host import Host
from installer.model.job import Job
from installer.model.step import Change, Step


class SiteAuthority(Step):
    """Writes the certificates that the builder has to trust besides those that everybody does."""

    name = "authority"

    def __init__(self, job: Job, host: Host) -> None:
        self._wanted, self._registry = job.options.authorities, job.destination.host
        self._path = host.places.site_authority
        self._is_needed = job.access.authority is not None
        self._certs_d = host.places.seen(Path("/etc/docker/certs.d")) / self._registry

    def problems(self) -> Sequence[Problem]:
        if self.look() and not is_writable(self._path):
            directory = quote(self._path.parent)
            return [Problem(str(self._path), "it cannot be written", f"sudo chown -R $USER {directory}")]
        return []

    def look(self) -> Sequence[Change]:
        found = read_optional(self._path)
        if self._wanted is None or found == self._wanted:
            return []
        action = "write" if found is None else "rewrite"
        return [Change(action, "file", str(self._path), f"the CA of {self._registry}", len(self._wanted))]

    def apply(self, changes: Sequence[Change]) -> None:
        if self._wanted is not None:
            write_atomically(self._path, [self._wanted], 0o644)

    def notes(self) -> Sequence[str]:
        if not self._is_needed or self._certs_d.exists():
            return []
        directory = f"/etc/docker/certs.d/{self._registry}"
        return [
            f"builds trust the CA of {self._registry}; for `docker pull` and `docker push`, unless the system trusts "
            f"it, too: sudo mkdir -p {directory} && sudo cp {quote(self._path)} {directory}/ca.crt"
        ]
