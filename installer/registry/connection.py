"""A connection to the local registry: it answers at once or not at all, over plain HTTP, and never through a proxy."""

from __future__ import annotations

import os

from bundles.registry.transport import Settings, Transport
from installer.model.address import Address


def local_transport(address: Address, *, attempts: int = 4) -> Transport:
    """A transport that speaks plain HTTP to `address`; the caller closes it."""
    bypass_proxies(address)
    settings = Settings(insecure=frozenset({str(address)}), timeout=(5.0, 300.0), attempts=attempts, backoff=0.2)
    return Transport(settings)


def bypass_proxies(address: Address) -> None:
    """Keep proxies of the environment out of the way to the registry: it is on this very host."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if address.host not in hosts:
            os.environ[name] = ",".join([*hosts, address.host])
