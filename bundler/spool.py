"""Blobs that are made here and not fetched: their sizes must be known before an archive is laid out.

They wait in a directory beside the archive, under their digests, until they are copied into their places.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Union

from bundler.download import BlobStream
from bundler.endpoint import Endpoint
from bundler.source import Source, SourceAround
from bundles.descriptor import Descriptor
from bundles.digest import Digest
from bundles.errors import DiskFullError
from bundles.reference import Reference


class Spool:
    """Blobs in a directory, each once. Thread-safe.

    Args:
        directory: where they wait; None to learn their sizes and digests only, and keep nothing.
    """

    def __init__(self, directory: Optional[Path]) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._sizes: dict[Digest, int] = {}

    def has(self, digest: Digest) -> bool:
        with self._lock:
            return digest in self._sizes

    @property
    def size(self) -> int:
        """The bytes of all of them."""
        with self._lock:
            return sum(self._sizes.values())

    def add(self, media_type: str, pieces: Iterator[bytes]) -> Descriptor:
        """Keep a blob, whose digest is not known before its end.

        Raises:
            DiskFullError: no space is left.
        """
        hashed, size = Hashed(pieces), 0
        handle, name = self._create()
        try:
            for piece in hashed:
                size += len(piece)
                if handle is not None:
                    handle.write(piece)
            descriptor = Descriptor(media_type, hashed.digest, size)
            if handle is not None:
                handle.close()
                Path(name).replace(self._path(descriptor.digest))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no space left for compressed layers in `{self._directory}`",
                    hint="make room there, or choose another place with -o FILE",
                ) from None
            raise
        finally:
            if handle is not None:
                handle.close()
        with self._lock:
            self._sizes[descriptor.digest] = size
        return descriptor

    def open(self, digest: Digest, offset: int) -> BlobStream:
        """Read a blob that was kept, from `offset` on."""
        return _File(self._path(digest), offset)

    def _create(self) -> tuple[Optional[tempfile._TemporaryFileWrapper[bytes]], str]:
        if self._directory is None:
            return None, ""
        handle = tempfile.NamedTemporaryFile(dir=self._directory, delete=False)  # noqa: SIM115  closed by `add`
        return handle, handle.name

    def _path(self, digest: Digest) -> Path:
        if self._directory is None:
            raise ValueError("this spool keeps nothing")
        return self._directory / digest.hex


class _File(BlobStream):
    def __init__(self, path: Path, offset: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        os.lseek(self._file, offset, os.SEEK_SET)

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return None

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        return os.readv(self._file, [buffer])

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Bytes(BlobStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return None

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Local:
    """An image that is here: what its name stands for, and its indexes, manifests and configs."""

    root: Descriptor
    documents: Mapping[Descriptor, bytes]


class SpooledSource(SourceAround):
    """Images that are here, under the names they are to have, before those of another source.

    `add` comes before anything is read.
    """

    def __init__(self, source: Source, spool: Spool) -> None:
        super().__init__(source)
        self.spool = spool
        self._names: dict[Reference, Descriptor] = {}
        self._documents: dict[Digest, tuple[Descriptor, bytes]] = {}

    def add(self, reference: Reference, local: Local) -> None:
        """Serve `local` as `reference`."""
        self._names[reference] = local.root
        self._documents.update({known.digest: (known, data) for known, data in local.documents.items()})

    @property
    def documents(self) -> tuple[bytes, ...]:
        """The indexes, manifests and configs of the images that are here."""
        return tuple(data for _, data in self._documents.values())

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        digest = reference.digest
        if digest is None and reference in self._names:
            digest = self._names[reference].digest
        if digest in self._documents:
            return self._documents[digest]
        return super().manifest(reference)

    def open_blob(
        self,
        repository: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        avoid: frozenset[Endpoint] = frozenset(),
    ) -> BlobStream:
        if descriptor.digest in self._documents:
            return _Bytes(self._documents[descriptor.digest][1][offset:])
        if not self.spool.has(descriptor.digest):
            return super().open_blob(repository, descriptor, offset, avoid)
        return self.spool.open(descriptor.digest, offset)


class Hashed:
    """Pieces of bytes that know, once all of them have passed, what their digest is."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._digest = pieces, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._digest.update(piece)
            yield piece

    @property
    def digest(self) -> Digest:
        return Digest(f"sha256:{self._digest.hexdigest()}")
