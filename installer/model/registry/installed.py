"""The registry that an earlier run installed, as its container says: whether it is ours, where, how it is spoken to."""

from __future__ import annotations

from typing import Optional

from installer.host.docker.container import Container
from installer.host.labels import LABEL_ACCESS, LABEL_ADDRESS, LABEL_DATA, LABEL_ENDPOINT, LABEL_OWNER, LABEL_ROLE
from installer.host.paths import Places
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.storage import S3Storage

# The words of LABEL_ACCESS; there are none with plain HTTP.
_TLS, _AUTHORITY, _LOGIN = "tls", "ca", "login"


def is_ours(container: Container) -> bool:
    """Tell whether a container is the registry of an installation."""
    return container.labels.get(LABEL_ROLE) == "registry"


def installed_data(container: Optional[Container]) -> Optional[str]:
    """Return where our registry keeps its data since the last time, or None."""
    return container.labels.get(LABEL_DATA) if container is not None and is_ours(container) else None


def data_labels(data: str, storage: Optional[S3Storage]) -> dict[str, str]:
    """Return the labels that say where a registry of ours keeps its data."""
    return {LABEL_DATA: data, **({LABEL_ENDPOINT: storage.endpoint} if storage else {})}


def other_data(container: Optional[Container], data: str, storage: Optional[S3Storage]) -> Optional[str]:
    """Return where our registry keeps its data since the last time, for people; None when that is there, or nowhere.

    Two storages may have a bucket of the same name.
    """
    old = installed_data(container)
    if container is None or old is None:
        return None
    endpoint = container.labels.get(LABEL_ENDPOINT)
    if old == data:
        is_same = storage is None or endpoint in (None, storage.endpoint)
        return None if is_same else f"{old} at {endpoint}"
    return old


def installed_address(container: Optional[Container]) -> Optional[Address]:
    """Return where our registry was put the last time, or None."""
    if container is None or not is_ours(container) or LABEL_ADDRESS not in container.labels:
        return None
    return Address.parse(container.labels[LABEL_ADDRESS])


def installed_access(container: Optional[Container], places: Places) -> Optional[Access]:
    """Return how our registry is spoken to since the last time, with the files of this user; None without one."""
    if container is None or not is_ours(container):
        return None
    words = container.labels.get(LABEL_ACCESS, "").split()
    if _TLS not in words:
        return PLAIN
    return own_access(places, authority=_AUTHORITY in words, login=_LOGIN in words)


def own_access(places: Places, *, authority: bool = True, login: bool = False) -> Access:
    """Return how a registry of ours with TLS is spoken to.

    Args:
        places: where its files are.
        authority: whether its CA is a file of ours; else the system trusts it.
        login: whether it wants one.
    """
    return Access(True, str(places.authority) if authority else None, str(places.password) if login else None)


def access_labels(access: Access, places: Places) -> dict[str, str]:
    """Return the labels that say how a registry of ours is spoken to, and whose files it shows."""
    if not access.tls:
        return {}
    words = [_TLS, *([_AUTHORITY] if access.authority else []), *([_LOGIN] if access.password else [])]
    return {LABEL_ACCESS: " ".join(words), LABEL_OWNER: str(places.state)}


def other_owner(container: Container, places: Places) -> Optional[str]:
    """Return where the installation is whose keys the registry has; None when it is this one, or it has none."""
    owner = container.labels.get(LABEL_OWNER)
    return None if owner == str(places.state) else owner
