"""An image as the registry has it, on its way to another machine: nothing of it is kept on this one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from bundles.errors import ContentError
from bundles.oci.descriptor import Descriptor
from bundles.runtime.program import own_command
from installer.registry.client import Registry


class RegistryImage:
    """A repository of the registry, read as an archive is; a blob's last bytes are given only when all are right.

    Args:
        registry: that has it.
        repository: the one to read from.
    """

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry, self._repository = registry, repository

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Fetch a manifest, verified."""
        return self._registry.get_manifest(self._repository, str(descriptor.digest))[1]

    def open_blob(self, descriptor: Descriptor) -> _Reader:
        """Read a blob, or a manifest, which a registry does not have among its blobs."""
        if descriptor.is_manifest:
            return _Reader(iter((self.read_document(descriptor),)))
        return _Reader(_verified(descriptor, self._registry.read_blob(self._repository, descriptor)))


class _Reader:
    """Gives pieces one after the other; at the end nothing."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self) -> bytes:
        return next(self._pieces, b"")


def _verified(descriptor: Descriptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    hasher, size, last = hashlib.sha256(), 0, b""
    for piece in pieces:
        hasher.update(piece)
        size += len(piece)
        if last:
            yield last
        last = piece
    if (size, hasher.hexdigest()) != (descriptor.size, descriptor.digest.hex):
        raise ContentError(
            f"what the registry has as {descriptor.digest} is something else", hint=own_command("upgrade ARCHIVE")
        )
    if last:
        yield last
