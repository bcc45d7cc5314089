"""A connection to the local registry: it answers at once or not at all, over plain HTTP, and never through a proxy."""

from __future__ import annotations

from bundles.registry.transport import Settings, Transport
from installer.model.address import Address


def local_transport(address: Address, *, attempts: int = 4) -> Transport:
    """Return a transport that speaks plain HTTP to `address`, which is on this very host; the caller closes it."""
    here = frozenset({str(address)})
    return Transport(Settings(insecure=here, direct=here, timeout=(5.0, 300.0), attempts=attempts, backoff=0.2))
