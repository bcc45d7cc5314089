"""The CA of a site's registry, kept on the host: the builder gets it, now and whenever it is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundles.errors import HostError, Problem
from bundles.runtime.program import quote
from installer.host.files import is_writable, read_optional, write_atomically
from installer.host.host import Host
from installer.model.job import Job
from installer.model.step import Change, Step


class SiteAuthority(Step):
    """Copies the file that was given with --ca to where it stays."""

    name = "authority"

    def __init__(self, job: Job, host: Host) -> None:
        self._given, self._registry = job.options.ca_file, job.destination.host
        self._path = host.places.authority

    def problems(self) -> Sequence[Problem]:
        if self._given and not is_writable(self._path):
            directory = quote(self._path.parent)
            return [Problem(str(self._path), "it cannot be written", f"sudo chown -R $USER {directory}")]
        return []

    def look(self) -> Sequence[Change]:
        if not self._given:
            return []
        found, wanted = read_optional(self._path), _read(self._given)
        if found == wanted:
            return []
        action = "write" if found is None else "rewrite"
        return [Change(action, "file", str(self._path), f"the CA of {self._registry}", len(wanted))]

    def apply(self, changes: Sequence[Change]) -> None:
        if self._given:
            write_atomically(self._path, [_read(self._given)], 0o644)


def _read(file: Path) -> bytes:
    data = read_optional(file)
    if data is None:
        raise HostError(f"the CA file `{file}` is gone")
    return data
