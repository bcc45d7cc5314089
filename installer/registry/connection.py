"""Connections to registries that are pushed to: our own, and those of a site."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import AuthenticationError, HostError, UsageError, reason
from bundles.registry.auth import Credential, Credentials
from bundles.registry.certificates import standard_directories
from bundles.registry.credentials import Credentials as StoredCredentials
from bundles.registry.transport import Settings, Transport, anonymous, silent
from bundles.registry.urls import insecure_hosts
from bundles.runtime.program import archive_command, own_command
from installer.host.sudo import environment_of_invoker
from installer.model.job import DesiredState
from installer.model.registry.access import USER
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination


def transport_to(
    state: DesiredState,
    *,
    credential: Optional[Credential] = None,
    attempts: int = 4,
    say: Callable[[str], None] = silent,
) -> Transport:
    """Return a transport to the registry of an installation; the caller closes it.

    Args:
        state: says which registry it is, and how it is spoken to.
        credential: for a registry of the site, in the place of the logins that docker and podman have.
        attempts: how often in all a request is tried.
        say: tells people what is waited for.

    Raises:
        UsageError: the CA file, or a proxy variable, cannot be used.
        HostError: the CA file of a site is gone.
    """
    access, authority = state.access, Path(state.access.authority) if state.access.authority else None
    if state.site:
        if authority and not authority.is_file():
            again = f"join {state.site}" if state.site.joined else f"install --into {state.site} --ca FILE"
            raise HostError(f"the CA of `{state.site.host}` is gone from `{authority}`", hint=archive_command(again))
        insecure = () if access.tls else (state.site.host,)
        credentials = credentials_of(state, credential)
        # What this host has joined, it has reached.
        direct = [str(state.address)] if state.site.joined else []
        return site_transport(
            ca_file=authority,
            insecure=insecure,
            credentials=credentials,
            direct=direct,
            attempts=attempts,
            say=say,
        )
    if not access.tls:
        return local_transport(state.address, attempts=attempts)
    own = str(state.address)
    settings = Settings(
        direct=frozenset({own}),
        verified={own: authority},
        credentials=credentials_of(state),
        timeout=(5.0, 300.0),
        attempts=attempts,
        backoff=0.2,
    )
    return Transport(settings)


def credentials_of(state: DesiredState, credential: Optional[Credential] = None) -> Credentials:
    """Return what gives the logins for the registry of an installation: those that `transport_to` uses."""
    if state.site:
        return logins_at(state.site, credential, tls=state.access.tls)
    return _Password(Path(state.access.password)) if state.access.tls and state.access.password else anonymous


def logins_at(site: Destination, credential: Optional[Credential], *, tls: bool) -> Credentials:
    """Return what gives the logins for a registry of the site: the one that is given, else those that docker and podman
    have.

    Where another host fills it, none goes over plain HTTP: nobody has said that it may.
    """
    if credential:
        return lambda host, repository: [credential] if host == site.host else []
    return anonymous if site.joined and not tls else _stored()


def _stored() -> Credentials:
    """Return the logins of docker and podman; under sudo, too, those of who goes on to build."""
    return StoredCredentials(environment=environment_of_invoker(os.environ)).get


def login_to(state: DesiredState) -> Optional[tuple[str, str]]:
    """Return user and password with which Docker pulls from the registry of an installation; None where there is no
    login, or none that has a password.

    For a registry of the site they are read now, and of who goes on to build: the library that speaks with Docker has
    read those of root under sudo, and before somebody was logged in.

    Raises:
        HostError: the password of our own registry cannot be read.
    """
    if state.site is None:
        return (USER, _password(Path(state.access.password))) if state.access.password else None
    # Where they cannot be read, that is said by who needs them.
    with contextlib.suppress(UsageError, AuthenticationError):
        for login in credentials_of(state)(state.site.host, state.site.prefix):
            return (login.username, login.password) if login.basic and login.password else None
    return None


def _password(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise HostError(f"the password in `{file}` cannot be read: {reason(error)}") from None


class _Password:
    """The login of our own registry."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, host: str, repository: str) -> Sequence[Credential]:
        try:
            return [Credential(USER, _password(self._file))]
        except HostError as error:
            # As when the password is wrong: the registry answers, and what makes another password goes on.
            raise AuthenticationError(error.message, hint=own_command("doctor --fix")) from None


def local_transport(address: Address, *, attempts: int = 4) -> Transport:
    """Return a transport that speaks plain HTTP to `address`, which is on this very host; the caller closes it.

    It answers at once or not at all, reads no logins, and never goes through a proxy.
    """
    here = frozenset({str(address)})
    return Transport(Settings(insecure=here, direct=here, timeout=(5.0, 300.0), attempts=attempts, backoff=0.2))


def site_transport(
    *,
    ca_file: Optional[Path] = None,
    insecure: Iterable[str] = (),
    credentials: Optional[Credentials] = None,
    direct: Iterable[str] = (),
    attempts: int = 6,
    say: Callable[[str], None] = silent,
) -> Transport:
    """Return a transport to a registry of the site; the caller closes it.

    It speaks TLS, logs in as docker and podman do, trusts and shows the certificates in certs.d, and goes through the
    proxies that the environment names.

    Args:
        ca_file: a CA to trust besides the system's.
        insecure: `host[:port]` where plain HTTP and any certificate will do.
        credentials: gives the logins; None for those that docker and podman have.
        direct: `host:port` to which no proxy is on the way, whatever the environment says.
        attempts: how often in all a request is tried.
        say: tells people what is waited for.

    Raises:
        UsageError: the CA file or a proxy variable cannot be used.
    """
    return Transport(
        Settings(
            insecure=insecure_hosts(insecure),
            direct=frozenset(direct),
            ca_file=ca_file,
            certs_d=standard_directories(),
            credentials=credentials or _stored(),
            attempts=attempts,
            say=say,
        )
    )
