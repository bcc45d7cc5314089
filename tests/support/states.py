"""What is installed, or is to be, as tests want it: what they do not say is as plain as it can be."""

from __future__ import annotations

from typing import Any

from bundles.oci.platform import Platform
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN
from installer.model.registry.address import Address

AMD64 = Platform("linux", "amd64")


def desired(address: Address, **said: Any) -> DesiredState:
    """Return a registry of our own there, plain HTTP, and a builder `b` for amd64, but for what is said."""
    plain: dict[str, Any] = {
        "data": "bundle-registry",
        "builder": "b",
        "host_platform": AMD64,
        "platforms": (AMD64,),
        "tools": {},
        "mirrors": {},
        "replay": None,
        "site": None,
        "access": PLAIN,
        "nodes": (),
        "storage": None,
        "cluster": None,
    }
    return DesiredState(address, **{**plain, **said})
