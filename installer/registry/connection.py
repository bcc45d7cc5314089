"""Connections to registries that are pushed to: our own, and those of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Optional

from bundles.registry.certificates import standard_directories
from bundles.registry.credentials import Credentials
from bundles.registry.transport import Settings, Transport, silent
from bundles.registry.urls import insecure_hosts
from installer.model.address import Address


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
    attempts: int = 6,
    say: Callable[[str], None] = silent,
) -> Transport:
    """Return a transport to a registry of the site; the caller closes it.

    It speaks TLS, logs in as docker and podman do, trusts and shows the certificates in certs.d, and goes through the
    proxies that the environment names.

    Args:
        ca_file: a CA to trust besides the system's.
        insecure: `host[:port]` where plain HTTP and any certificate will do.
        attempts: how often in all a request is tried.
        say: tells people what is waited for.

    Raises:
        UsageError: the CA file or a proxy variable cannot be used.
    """
    return Transport(
        Settings(
            insecure=insecure_hosts(insecure),
            ca_file=ca_file,
            certs_d=standard_directories(),
            credentials=Credentials().get,
            attempts=attempts,
            say=say,
        )
    )
