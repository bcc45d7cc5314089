"""Having Docker trust the CA of the registry at a LAN address: a file in /etc/docker/certs.d, which dockerd reads at
each use, so that it is neither restarted nor told.

On a loopback address Docker checks no certificate. BuildKit has the CA from its own configuration, see builder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, Problem
from bundles.runtime.program import quote
from installer.host.docker.daemon import engine_process, sees_the_same
from installer.host.files import is_writable, missing_directories, read_optional, remove_file, write_atomically
from installer.host.host import Host
from installer.model.job import DesiredState
from installer.model.step import Change, Step
from installer.registry.certificates import readable

# Whoever reads PEM passes over what stands before it.
_FIRST_LINE = b"# Written by `bundle install`.\n"


def certificate_for_docker(job: DesiredState, host: Host) -> Path:
    """Return the file in which dockerd looks for the CA of the registry."""
    return host.places.certs_d / job.destination.host / "ca.crt"


class Trust(Step):
    """Writes the CA where dockerd looks for it.

    Args:
        job: what is wanted.
        host: where.
        given: the CA, as long as its file is not written.
        drops: whether the file goes where no CA is to be trusted any more: an earlier run has written it.
    """

    name = "trust"

    def __init__(self, job: DesiredState, host: Host, *, given: Optional[bytes] = None, drops: bool = False) -> None:
        self._job, self._host, self._drops, self._given = job, host, drops, given
        self._address = str(job.destination.host)
        self._path = certificate_for_docker(job, host)

    def _authority(self) -> Optional[Path]:
        """Return the CA that dockerd is to trust; None when it needs none."""
        access = self._job.access
        return Path(access.authority) if access.tls and access.authority and not self._job.address.is_loopback else None

    def _is_ours(self) -> bool:
        return (read_optional(self._path) or b"").startswith(_FIRST_LINE)

    def _wanted(self) -> Optional[bytes]:
        """Return what the file is to hold; None as long as there is no CA."""
        authority = self._authority()
        data = self._given or (read_optional(authority) if authority else None)
        return None if data is None else _FIRST_LINE + data

    def _is_needed(self) -> bool:
        if self._authority() is None or read_optional(self._path) == (self._wanted() or b""):
            return False
        return not self._is_trusted()

    def _is_trusted(self) -> bool:
        """Tell whether Docker trusts the CA already, by a file that somebody else wrote."""
        if self._is_ours() or not self._path.parent.is_dir():
            return False
        found = {each for file in self._path.parent.glob("*.crt") for each in readable(read_optional(file))}
        wanted = readable(self._wanted())
        return bool(wanted) and found.issuperset(wanted)

    def _is_needless(self) -> bool:
        return self._drops and self._authority() is None and self._is_ours()

    def problems(self) -> Sequence[Problem]:
        try:
            problem = self._problem()
        except HostError as error:
            problem = Problem(str(self._path), error.message, "run this with sudo")
        return [problem] if problem else []

    def _problem(self) -> Optional[Problem]:
        if self._is_needless() and not is_writable(self._path):
            return Problem(str(self._path), "it cannot be removed", f"sudo rm {quote(self._path)}")
        if not self._is_needed():
            return None
        unreachable = self._unreachable()
        if unreachable:
            return unreachable
        if read_optional(self._path) is not None and not self._is_ours():
            hint = f"sudo mv {quote(self._path)} {quote(self._path)}.old, then run this again"
            return Problem(
                str(self._path), "it is another CA for this address, and this program did not write it", hint
            )
        if not is_writable(self._path):
            message = f"Docker must trust the registry's CA, and `{self._path.parent}` cannot be written to"
            return Problem("certs.d", message, self._by_hand())
        return None

    def _by_hand(self) -> str:
        """Return what root has to do, as a command."""
        source = self._authority()
        kept = read_optional(source) if source else None
        if kept is None or self._wanted() != _FIRST_LINE + kept:
            # The CA is made, or kept, after everybody has agreed: until then only the place for it can be.
            return f'sudo install -d -o "$USER" {quote(self._path.parent)}, then run this again; or run this with sudo'
        authority, path = quote(str(source)), quote(self._path)
        first = _FIRST_LINE.decode().strip()
        return f"sudo mkdir -p {quote(self._path.parent)} && {{ echo '{first}'; cat {authority}; }} | sudo tee {path}"

    def _unreachable(self) -> Optional[Problem]:
        """Find out whether dockerd looks into another directory than the one that would be written to here."""
        places, path = self._host.places, self._path
        pid = None
        with contextlib.suppress(HostError):
            pid = engine_process(self._host.engine.endpoint.socket_path, places.proc)
        if pid is not None and not sees_the_same(pid, places.certs_d.parent, places.proc, places.root):
            message = f"the engine, process {pid}, has another directory there: it is in a container"
            return Problem(str(path), message, f"put the registry's CA there under that name: {self._address}/ca.crt")
        if places.root != Path("/") and not places.seen(places.certs_d.parent).is_dir():
            hint = f"sudo mkdir -p {quote(places.certs_d.parent)}, then run this again"
            return Problem(str(path), "its directory is missing, and cannot be made from the container", hint)
        return None

    def question(self) -> Optional[str]:
        if self._is_needless():
            return f"have Docker no longer trust the CA of {self._address}: remove {self._path}"
        # Who agreed to the file has agreed to a CA of this registry, also to one that is made anew.
        if not self._is_needed() or self._is_ours():
            return None
        return f"have Docker trust the CA of the registry {self._address}, and no other host: write {self._path}"

    def look(self) -> Sequence[Change]:
        if self._is_needless():
            return [Change("remove", "file", str(self._path), "no CA is needed any more")]
        if not self._is_needed():
            return []
        action = "rewrite" if read_optional(self._path) is not None else "write"
        return [Change(action, "file", str(self._path), f"Docker trusts the CA of {self._address}")]

    def explain(self, change: Change) -> str:
        if change.action == "remove":
            return f"`{change.name}` is left of an installation with TLS"
        state = "is not the registry's CA" if change.action == "rewrite" else "is gone"
        return f"`{change.name}` {state}: Docker does not trust the registry"

    def apply(self, changes: Sequence[Change]) -> None:
        wanted = self._wanted()
        if wanted is None:
            return remove_file(self._path)
        made = missing_directories(self._path.parent)
        write_atomically(self._path, [wanted], 0o644)
        for directory in made:
            # Other tools of other users look there, too.
            directory.chmod(0o755)
        return None
