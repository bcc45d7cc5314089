"""Files by their names, out of a directory, a tar or a compressed tar: read where they stand, never extracted.

A compressed tar cannot be read by offset. It is read through once: small documents stay in memory, layers go to the
spool beside the archive that is made, as those of the local Docker do.
"""

from __future__ import annotations

import abc
import dataclasses
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Union

from bundler.definition.spec import Compression
from bundler.sources import zstd
from bundler.sources.files.tar import members
from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobStream
from bundler.sources.spool import Hashed, Spool
from bundles.archive.parts import find
from bundles.archive.volume import Volume
from bundles.errors import ContentError, DamagedArchiveError, IncompleteArchiveError, UsageError, reason
from bundles.oci.descriptor import OCI_LAYER, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE
from bundles.runtime.closeable import Closeable
from bundles.runtime.streams import PieceStream

# Who sent a blob that comes from a file; when it was wrong, whoever asks again avoids it.
HERE = Endpoint("localhost")
BLOBS = "blobs/sha256/"
# The next step for a file that is damaged or cut short.
COPY_AGAIN = "copy it again from where it was made"
_INDEXES = frozenset({"index.json", "manifest.json"})
_UNKNOWN = "application/octet-stream"
# All documents of a compressed tar together. A store of a thousand images has some 30 MB.
_MAX_DOCUMENTS = 512 << 20
_CHUNK = re.compile(r"(.+)_(0|[1-9][0-9]{0,5})\.([A-Za-z0-9]+(?:\.[A-Za-z0-9]+)?)", re.ASCII)
# As many as Linux follows.
_MAX_LINKS = 40


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a Docker archive: the digest of its tar, and how it is kept; `spooled` when that is in the spool.

    The digest of its tar is None where only sizes were asked for.
    """

    diff_id: Optional[Digest]
    kept: Descriptor
    spooled: bool


class Contents(Closeable):
    """Files by their names.

    where: the path, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    @abc.abstractmethod
    def size(self, name: str) -> Optional[int]:
        """Return the bytes of a file; None when there is none of that name."""

    @abc.abstractmethod
    def open(self, name: str, offset: int = 0) -> BlobStream:
        """Read a file that is there, from `offset` on."""

    def place(self, name: str) -> str:
        """Return the file that a name stands for, through links."""
        return name

    @abc.abstractmethod
    def layer(self, name: str, spool: Spool, compression: Compression) -> Layer:
        """Read a layer of a Docker archive through: a raw one becomes a zstd layer in `spool`.

        Raises:
            ContentError: it is not there, or is no valid gzip or zstd.
        """

    def read(self, name: str, limit: int = MAX_CONFIG_SIZE) -> bytes:
        """Read a document that is there.

        Raises:
            DamagedArchiveError: it is larger than `limit`.
            IncompleteArchiveError: it ends early.
        """
        size = self.size(name) or 0
        if size > limit:
            raise _too_large(self.where, name, size, limit)
        with self.open(name) as stream:
            data = b"".join(pieces_of(stream))
        if len(data) != size:
            raise IncompleteArchiveError(f"`{self.where}` is cut short, or changed while it was read: see `{name}`")
        return data

    def close(self) -> None:
        pass


class Directory(Contents):
    """The files below a directory. Only names that follow from digests, and fixed ones, are asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def size(self, name: str) -> Optional[int]:
        try:
            status = (self._path / name).stat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, name: str, offset: int = 0) -> BlobStream:
        try:
            return OpenFile(self._path / name, offset)
        except OSError as error:
            raise ContentError(f"`{self._path / name}` cannot be read: {reason(error)}") from None

    def layer(self, name: str, spool: Spool, compression: Compression) -> Layer:
        raise UsageError(f"`{self.where}` is a directory: expected what `docker save` writes")


class Tar(Contents):
    """The files of a tar, read by offset."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._volume = Volume(path, files=files_of(path))
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            for member in members(_VolumeStream(self._volume), self.where):
                if member.target:
                    self._links[member.name] = member.target
                    continue
                if member.offset + member.size > self._volume.size:
                    raise IncompleteArchiveError(
                        f"`{self.where}` is cut short: {self._volume.size} bytes are there, and "
                        f"`{member.name[:100]}` ends at byte {member.offset + member.size}",
                        hint=COPY_AGAIN,
                    )
                self._files[member.name] = (member.offset, member.size)
        except BaseException:
            self._volume.close()
            raise

    def size(self, name: str) -> Optional[int]:
        found = self._files.get(name)
        return found[1] if found else None

    def open(self, name: str, offset: int = 0) -> BlobStream:
        start, size = self._files[name]
        return VolumeBlob(self._volume, start + offset, size - offset)

    def layer(self, name: str, spool: Spool, compression: Compression) -> Layer:
        target = follow(name, self._links)
        if target not in self._files:
            raise ContentError(f"`{self.where}` has no `{name[:100]}`")
        with self.open(target) as stream:
            return keep(pieces_of(stream), spool, compression, f"`{name[:100]}` in `{self.where}`", in_place=True)

    def place(self, name: str) -> str:
        return follow(name, self._links)

    def close(self) -> None:
        self._volume.close()


class CompressedTar(Contents):
    """The files of a compressed tar, which is read through once, now.

    Args:
        path: the file.
        spool: keeps the layers; one that keeps nothing learns their sizes and digests.
        compression: how raw layers of Docker archives are compressed.
    """

    def __init__(self, path: Path, spool: Spool, compression: Compression) -> None:
        super().__init__(str(path))
        self._spool = spool
        self._documents: dict[str, bytes] = {}
        self._blobs: dict[str, Descriptor] = {}
        self._layers: dict[str, Layer] = {}
        self._links: dict[str, str] = {}
        held = 0
        with Volume(path, files=files_of(path)) as volume:
            stream = _Forward(zstd.unpacked(_pieces(volume), f"`{path}`"))
            for member in members(stream, self.where):
                if member.target:
                    self._links[member.name] = member.target
                    continue
                if member.name in _INDEXES and member.size > MAX_CONFIG_SIZE:
                    raise _too_large(self.where, member.name, member.size, MAX_CONFIG_SIZE)
                content = stream.content(member.size)
                first = next(content, b"")
                if first[:1] in (b"{", b"[") and member.size <= MAX_CONFIG_SIZE:
                    self._documents[member.name] = first + b"".join(content)
                    held += member.size
                    if held > _MAX_DOCUMENTS:
                        raise DamagedArchiveError(
                            f"`{path}` cannot be used: it has more than {_MAX_DOCUMENTS} bytes of documents"
                        )
                else:
                    self._keep(member.name, zstd.again(first, content), compression)
                if stream.missing:
                    raise IncompleteArchiveError(f"`{path}` is cut short: it ends within `{member.name[:100]}`")

    def _keep(self, name: str, pieces: Iterator[bytes], compression: Compression) -> None:
        if name.startswith(BLOBS):
            self._blobs[name] = self._spool.add(_UNKNOWN, pieces)
        else:
            self._layers[name] = keep(pieces, self._spool, compression, f"`{name[:100]}` in `{self.where}`")

    def size(self, name: str) -> Optional[int]:
        if name in self._documents:
            return len(self._documents[name])
        return self._blobs[name].size if name in self._blobs else None

    def open(self, name: str, offset: int = 0) -> BlobStream:
        if name in self._documents:
            return MemoryBlob(self._documents[name][offset:])
        kept = self._blobs[name].digest
        if kept.blob_path != name:
            raise DamagedArchiveError(
                f"`{name[:100]}` in `{self.where}` has other bytes than its digest says",
                hint=COPY_AGAIN,
            )
        return open_kept(self._spool, kept, offset, self.where)

    def layer(self, name: str, spool: Spool, compression: Compression) -> Layer:
        target = follow(name, self._links)
        if target in self._documents:
            data = self._documents[target]
            return keep(iter([data]), spool, compression, f"`{name[:100]}` in `{self.where}`")
        if target not in self._layers:
            raise ContentError(f"`{self.where}` has no `{name[:100]}`")
        return self._layers[target]


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that one stands in, in their order: `path` alone, or all chunks when it is any one of them.

    Chunks are NAME.EXT.001 and so on, or NAME_0.EXT as hauler wrote them before 2.1: the first begins as a compressed
    file does, and no other one. `path` may also be the name of the whole.

    Raises:
        IncompleteArchiveError: a chunk is missing between two others.
    """
    match = _CHUNK.fullmatch(path.name)
    if match is None and path.exists():
        return find(path)
    whole = f"{match[1]}.{match[3]}" if match else path.name
    found: dict[int, Path] = {}
    for place in _listed(path.parent):
        other = _CHUNK.fullmatch(place.name)
        if other and f"{other[1]}.{other[3]}" == whole:
            found[int(other[2])] = place
    if len(found) < 2 or [number for number, place in found.items() if _begins_packed(place)] != [0]:
        return find(path)
    for number in range(max(found)):
        if number not in found:
            name, _, suffix = found[0].name.rpartition("_0.")
            raise IncompleteArchiveError(
                f"of `{whole}`, `{name}_{number}.{suffix}` is missing: looked in `{path.parent}`",
                hint="put all chunks into one directory",
            )
    return tuple(place for _, place in sorted(found.items()))


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _begins_packed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return zstd.is_packed(file.read(8))
    except OSError:
        return False


def open_contents(path: Path, spool: Spool, compression: Compression) -> Contents:
    """Open a directory, a tar, or a compressed tar.

    Raises:
        UsageError: it is not there.
        ArchiveError: it cannot be used.
    """
    if path.is_dir():
        return Directory(path)
    with Volume(path, files=files_of(path)) as volume:
        start = volume.read(0, 8)
    return CompressedTar(path, spool, compression) if zstd.is_packed(start) else Tar(path)


def keep(
    pieces: Iterator[bytes], spool: Spool, compression: Compression, what: str, *, in_place: bool = False
) -> Layer:
    """Read a layer through and keep it in `spool`: a raw one as zstd, another as it is, or `in_place` not at all.

    Raises:
        ContentError: it is no valid gzip or zstd; the message names `what`.
    """
    first = next(pieces, b"")
    came = Hashed(zstd.again(first, pieces))
    if not first.startswith((zstd.GZIP_MAGIC, zstd.ZSTD_MAGIC)):
        kept = spool.add(f"{OCI_LAYER}+zstd", zstd.compress(iter(came), compression))
        return Layer(came.digest, kept, spooled=True)
    media_type = f"{OCI_LAYER}+{'gzip' if first.startswith(zstd.GZIP_MAGIC) else 'zstd'}"
    if in_place:
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in came:
                size += len(piece)
                yield piece

        packed = counted()
        diff_id = _drained(zstd.unpacked(packed, what))
        for _ in packed:
            pass
        return Layer(diff_id, Descriptor(media_type, came.digest, size), spooled=False)
    kept = spool.add(media_type, iter(came))
    if not spool.keeps:
        # What writes the archive reads it again, and then compares.
        return Layer(None, kept, spooled=True)
    with spool.open(kept.digest, 0) as stream:
        return Layer(_drained(zstd.unpacked(pieces_of(stream), what)), kept, spooled=True)


def open_kept(spool: Spool, digest: Digest, offset: int, where: str) -> BlobStream:
    """Read what a file's layers became in the spool.

    Raises:
        UsageError: it keeps nothing: only sizes were to be learned, and something wants to read layers.
    """
    if not spool.keeps:
        raise UsageError(
            f"`{where}` has to be unpacked to read its layers, and nothing is to be written",
            hint=zstd.unpack_command(where),
        )
    return spool.open(digest, offset)


def _drained(pieces: Iterator[bytes]) -> Digest:
    hashed = Hashed(pieces)
    for _ in hashed:
        pass
    return hashed.digest


def _too_large(where: str, name: str, size: int, limit: int) -> DamagedArchiveError:
    return DamagedArchiveError(f"`{where}` cannot be used: `{name}` has {size} bytes: expected at most {limit}")


def follow(name: str, links: Mapping[str, str]) -> str:
    """Return where a name leads to: layers that several images share are links to the first of them."""
    for _ in range(_MAX_LINKS + 1):
        if name not in links:
            break
        name = links[name]
    return name


def pieces_of(stream: BlobStream) -> Iterator[bytes]:
    """Read a stream to its end."""
    buffer = bytearray(zstd.CHUNK)
    while count := stream.readinto(buffer):
        yield bytes(buffer[:count])


def _pieces(volume: Volume) -> Iterator[bytes]:
    for offset in range(0, volume.size, zstd.CHUNK):
        yield volume.read(offset, zstd.CHUNK)


class _VolumeStream:
    """A volume as what a tar is read from: content is passed over without being read."""

    def __init__(self, volume: Volume) -> None:
        self._volume, self.position = volume, 0

    def read(self, size: int) -> bytes:
        data = self._volume.read(self.position, size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        self.position += size


class _Forward:
    """Pieces of bytes as what a tar is read from; `missing` says that content ended early."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._stream, self.position, self.missing = PieceStream(pieces), 0, False

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        for _ in self.content(size):
            pass

    def content(self, size: int) -> Iterator[bytes]:
        """Read the next `size` bytes, in pieces."""
        while size:
            piece = self.read(min(size, zstd.CHUNK))
            if not piece:
                self.missing = True
                return
            size -= len(piece)
            yield piece


class VolumeBlob(BlobStream):
    """Bytes that stand in an archive."""

    def __init__(self, volume: Volume, offset: int, size: int) -> None:
        self._volume, self._offset, self._left = volume, offset, size

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return HERE

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._volume.readinto(self._offset, view) if view else 0
        self._offset += count
        self._left -= count
        return count

    def close(self) -> None:
        pass


class MemoryBlob(BlobStream):
    """Bytes that are in memory."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return HERE

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        pass


class OpenFile(BlobStream):
    """The bytes of a file, from an offset on."""

    def __init__(self, path: Path, offset: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return HERE

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        return self._file.readinto(buffer) or 0

    def close(self) -> None:
        self._file.close()
