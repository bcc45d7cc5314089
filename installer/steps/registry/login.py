"""The login at a registry that is ours, or was joined, kept where Docker, buildx and this program look for it.

`docker login` does it. The password goes to docker on its standard input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import BundleError, HostError
from bundles.registry.auth import Credential
from bundles.registry.credentials import Credentials
from bundles.runtime.program import quote
from installer.host.docker.cli import CommandError
from installer.host.files import read_json_file, read_optional, remove_file
from installer.host.host import Host
from installer.model.job import DesiredState
from installer.model.registry.access import USER
from installer.model.step import Change, Step
from installer.receipt.receipt import Receipt
from installer.steps.registry.insecure import insecure_registry
from installer.steps.registry.trust import Trust, certificate_for_docker

# What is made: the login at an address, and Docker's config.json where there was none.
_LOGIN, _SETTINGS = "login", "docker settings"


class Login(Step):
    """Logs this user's Docker in.

    Args:
        job: what is wanted.
        host: where.
        given: the login for a registry that others set up; our own has its password in a file.
        drops: whether the login goes where none is wanted any more: an earlier run has made it.
    """

    name = "login"

    def __init__(
        self, job: DesiredState, host: Host, *, given: Optional[Credential] = None, drops: bool = False
    ) -> None:
        self._job, self._host, self._drops = job, host, drops
        self._address, self._given = job.destination.host, given

    @property
    def _is_wanted(self) -> bool:
        return self._given is not None or self._job.access.password is not None

    def _credential(self) -> Optional[Credential]:
        """Return what is wanted; None as long as there is no password."""
        password = self._job.access.password
        if self._given or not password:
            return self._given
        text = read_optional(Path(password))
        return None if text is None else Credential(USER, text.decode(errors="replace").strip())

    def look(self) -> Sequence[Change]:
        if not self._is_wanted:
            goes = self._drops and docker_login(self._host, self._address) is not None
            return [Change("log out", _LOGIN, self._address, "no login is needed any more")] if goes else []
        wanted = self._credential()
        if wanted is not None and docker_login(self._host, self._address) == wanted:
            return []
        config = self._host.places.docker_config / "config.json"
        made = [] if config.exists() else [Change("create", _SETTINGS, str(config), "docker keeps logins there")]
        return [*made, Change("log in", _LOGIN, self._address, f"as `{self._user}`, kept as docker keeps logins")]

    @property
    def _user(self) -> str:
        return self._given.username if self._given else USER

    def explain(self, change: Change) -> str:
        if change.action == "log out":
            return f"Docker has a login for {self._address}, which wants none"
        return f"Docker has no login for {self._address}, or not that of `{self._user}`: builds and pulls get nothing"

    def apply(self, changes: Sequence[Change]) -> None:
        if not self._is_wanted:
            return _log_out(self._host, self._address)
        wanted, file = self._credential(), self._job.access.password
        if wanted is None:
            raise HostError(f"the password in `{file}` is gone", hint="run this again; another one is made")
        try:
            words = ["login", self._address, "--username", wanted.username, "--password-stdin"]
            self._host.cli.run(words, stdin=wanted.password)
        except CommandError as error:
            # The name of a robot has a `$` in many a Harbor.
            by_hand = ["login", self._address, "--username", quote(wanted.username)]
            hint = f"docker {' '.join(by_hand)}" + (f" --password-stdin < {quote(file)}" if file else "")
            raise HostError(f"Docker cannot log in at {self._address}: {error.message}", hint=hint) from None
        return None


@dataclasses.dataclass(frozen=True)
class GivenAccess:
    """What Docker needs for a registry that others set up, as it was given now: its CA in PEM, and a login."""

    authorities: Optional[bytes] = None
    credential: Optional[Credential] = None


def docker_access(job: DesiredState, host: Host, receipt: Receipt, given: GivenAccess = GivenAccess()) -> list[Step]:
    """Return the steps that let Docker speak with the registry, and undo what an earlier run needed for it."""
    trusted = str(certificate_for_docker(job, host)) in receipt.names_made("file")
    steps: list[Step] = [insecure_registry(job, host, receipt)]
    if job.site:
        if job.site.joined and job.access.tls and (given.authorities or trusted):
            steps.append(Trust(job, host, given=given.authorities))
        return [*steps, *([Login(job, host, given=given.credential)] if given.credential else [])]
    logged_in = str(job.address) in receipt.names_made(_LOGIN)
    steps += [Trust(job, host, drops=trusted)] if job.access.tls or trusted else []
    return [*steps, *([Login(job, host, drops=logged_in)] if job.access.password or logged_in else [])]


def docker_login(host: Host, address: str) -> Optional[Credential]:
    """Return the login that Docker has for a registry; None without one."""
    try:
        return next(iter(Credentials(host.places.docker_config).get(address, "")), None)
    except BundleError as error:
        raise HostError(error.message, hint=error.hint) from None


def _log_out(host: Host, address: str) -> None:
    try:
        host.cli.run(["logout", address])
    except CommandError as error:
        hint = f"docker logout {address}"
        raise HostError(f"Docker cannot log out of {address}: {error.message}", hint=hint) from None


class RemoveLogin(Step):
    """Logs out where installing has logged in, and removes Docker's config.json where that made it and it is empty."""

    name = "login"

    def __init__(self, receipt: Receipt, host: Host) -> None:
        self._host = host
        self._addresses = receipt.names_made(_LOGIN)
        self._settings = [Path(name) for name in receipt.names_made(_SETTINGS)]

    def look(self) -> Sequence[Change]:
        found = [address for address in self._addresses if docker_login(self._host, address) is not None]
        logins = [Change("log out", _LOGIN, address) for address in found]
        return [*logins, *(Change("remove", "file", str(path)) for path in self._settings if _is_empty(path, found))]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.kind == _LOGIN:
                _log_out(self._host, change.name)
            elif _is_empty(Path(change.name), ()):
                remove_file(Path(change.name))


def _is_empty(config: Path, logins: Sequence[str]) -> bool:
    """Tell whether Docker's config.json says nothing but these logins."""
    value = read_json_file(config)
    if value is None or value.keys() - {"auths"}:
        return False
    return not set(value.get("auths") or {}).difference(logins)
