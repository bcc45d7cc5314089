"""The login at our own registry, kept where Docker, buildx and this program look for it: `docker login` does it.

The password goes to docker on its standard input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import BundleError, HostError
from bundles.registry.auth import Credential
from bundles.registry.credentials import Credentials
from bundles.runtime.program import quote
from installer.host.docker_cli import CommandError
from installer.host.files import read_json_file, read_optional, remove_file
from installer.host.host import Host
from installer.model.access import USER
from installer.model.job import DesiredState
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
        drops: whether the login goes where none is wanted any more: an earlier run has made it.
    """

    name = "login"

    def __init__(self, job: DesiredState, host: Host, *, drops: bool = False) -> None:
        self._job, self._host, self._drops = job, host, drops
        self._address = str(job.address)

    def _wanted(self) -> Optional[Path]:
        """Return the file with the password; None when there is no login."""
        password = self._job.access.password
        return Path(password) if password else None

    def look(self) -> Sequence[Change]:
        wanted = self._wanted()
        if wanted is None:
            goes = self._drops and _login_of(self._host, self._address) is not None
            return [Change("log out", _LOGIN, self._address, "no login is needed any more")] if goes else []
        found, password = _login_of(self._host, self._address), read_optional(wanted)
        if password is not None and found == Credential(USER, password.decode(errors="replace").strip()):
            return []
        config = self._host.places.docker_config / "config.json"
        made = [] if config.exists() else [Change("create", _SETTINGS, str(config), "docker keeps logins there")]
        return [*made, Change("log in", _LOGIN, self._address, f"as `{USER}`, kept as docker keeps logins")]

    def explain(self, change: Change) -> str:
        if change.action == "log out":
            return f"Docker has a login for {self._address}, which wants none"
        return f"Docker has no login for {self._address}, or not that of `{USER}`: builds and pulls get nothing"

    def apply(self, changes: Sequence[Change]) -> None:
        wanted = self._wanted()
        if wanted is None:
            return _log_out(self._host, self._address)
        password = read_optional(wanted)
        if password is None:
            raise HostError(f"the password in `{wanted}` is gone", hint="run this again; another one is made")
        try:
            words = ["login", self._address, "--username", USER, "--password-stdin"]
            self._host.cli.run(words, stdin=password.decode(errors="replace").strip())
        except CommandError as error:
            hint = f"docker {' '.join(words)} < {quote(wanted)}"
            raise HostError(f"Docker cannot log in at {self._address}: {error.message}", hint=hint) from None
        return None


def docker_access(job: DesiredState, host: Host, receipt: Receipt) -> list[Step]:
    """Return the steps that let Docker speak with our own registry, and undo what an earlier run needed for it."""
    if job.site:
        return [insecure_registry(job, host, receipt)]
    trusted = str(certificate_for_docker(job, host)) in receipt.names_made("file")
    logged_in = str(job.address) in receipt.names_made(_LOGIN)
    steps: list[Step] = [insecure_registry(job, host, receipt)]
    steps += [Trust(job, host, drops=trusted)] if job.access.tls or trusted else []
    return [*steps, *([Login(job, host, drops=logged_in)] if job.access.password or logged_in else [])]


def _login_of(host: Host, address: str) -> Optional[Credential]:
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
        found = [address for address in self._addresses if _login_of(self._host, address) is not None]
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
