"""The registry that an earlier run installed, as its container says: whether it is ours, its address, its data."""

from __future__ import annotations

from typing import Optional

from installer.host.container import Container
from installer.host.labels import LABEL_ADDRESS, LABEL_DATA, LABEL_ROLE
from installer.model.address import Address


def is_ours(container: Container) -> bool:
    """Tell whether a container is the registry of an installation."""
    return container.labels.get(LABEL_ROLE) == "registry"


def installed_data(container: Optional[Container]) -> Optional[str]:
    """Return where our registry keeps its data since the last time, or None."""
    return container.labels.get(LABEL_DATA) if container is not None and is_ours(container) else None


def installed_address(container: Optional[Container]) -> Optional[Address]:
    """Return where our registry was put the last time, or None."""
    if container is None or not is_ours(container) or LABEL_ADDRESS not in container.labels:
        return None
    return Address.parse(container.labels[LABEL_ADDRESS])
