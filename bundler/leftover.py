"""What an interrupted run for another bundle has left: layers that this one needs too come from there.

The same command makes another bundle as soon as a tag has moved, and a long download is just what is interrupted. What
it left is set aside under the name `NAME.previous`, an unfinished archive like any other, until a run has ended well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional, Union

from bundler.download import BlobStream
from bundler.endpoint import Endpoint
from bundler.source import Source, SourceAround
from bundles.closing import Closing
from bundles.descriptor import Descriptor
from bundles.digest import Digest
from bundles.errors import BundleError
from bundles.journal import Journal, described
from bundles.layout import BLOCK, MANIFEST_NAME, Entry, header
from bundles.manifest import MAX_SIZE, Manifest
from bundles.parts import further_parts
from bundles.reference import Reference
from bundles.unfinished import Unfinished

# So that wrong bytes make the next try go elsewhere.
_HERE = Endpoint("previous")
# Where the header of bundle.json is: docs/format.md.
_HEADER = 4 * BLOCK


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def _unfinished(path: Path) -> list[Path]:
    """The unfinished files of an archive, whole or in parts."""
    names = [path, *further_parts(path, 0, ".partial")]
    return [partial for partial in (name.with_name(name.name + ".partial") for name in names) if partial.exists()]


def set_aside(path: Path, bundle: Digest, size: int) -> int:
    """Keep what is left of another bundle than `bundle`, when there is room for that and `size` bytes more.

    Returns:
        how many bytes there is no room for.

    Raises:
        BundleError: another process is writing there.
    """
    found = described(_journal(path))
    if not found or found[0] == bundle:
        return 0
    journal = Journal(_journal(path), *found)
    try:
        if not journal.claims:
            return 0
        status = os.statvfs(path.parent)
        if status.f_bavail * status.f_frsize < size:
            return sum(partial.stat().st_blocks * 512 for partial in _unfinished(path))
        discard(path)
        for partial in _unfinished(path):
            partial.replace(partial.with_name(_previous(path).name + partial.name[len(path.name) :]))
        journal.path.replace(_journal(_previous(path)))
        return 0
    finally:
        journal.close()


def discard(path: Path) -> None:
    """The archive `path` is complete: what was set aside for it is needed no more."""
    previous = _previous(path)
    for file in (*_unfinished(previous), _journal(previous)):
        file.unlink(missing_ok=True)


class Leftover(Closing):
    """The layers that are whole in what was set aside. A context manager.

    Nothing is taken on trust: who reads a layer compares its digest.
    """

    def __init__(self, journal: Journal, files: Unfinished, entries: Mapping[Digest, Entry]) -> None:
        self._journal, self._files, self._entries = journal, files, entries

    @classmethod
    def of(cls, path: Path) -> Optional[Leftover]:
        """What was set aside for the archive `path`; None when there is nothing of use.

        Raises:
            BundleError: another process uses it.
        """
        previous = _previous(path)
        found = described(_journal(previous))
        partials = _unfinished(previous)
        if not found or not partials:
            return None
        bundle, parts = found
        sizes = [int(size) for size in parts.split(",") if size.isdigit()]
        if len(sizes) != len(partials):
            return None
        journal = Journal(_journal(previous), bundle, parts)
        files = Unfinished([partial.with_suffix("") for partial in partials], sizes)
        data = _read_manifest(files)
        entries: dict[Digest, Entry] = {}
        # What a later version of this program began is of no use to this one.
        with contextlib.suppress(BundleError):
            manifest = Manifest.parse(data if Digest.of(data) == bundle else b"")
            layout = manifest.layout(len(data))
            whole = [blob for blob in manifest.blobs if journal.claims.get(blob.digest) == blob.size]
            entries = {blob.digest: layout.blob(blob.digest) for blob in whole}
        return cls(journal, files, entries)

    def size_of(self, layers: Iterable[Descriptor]) -> int:
        """How many bytes of these layers are here."""
        return sum(layer.size for layer in layers if self.has(layer))

    def has(self, layer: Descriptor) -> bool:
        return layer.digest in self._entries and self._entries[layer.digest].size == layer.size

    def open(self, layer: Descriptor, offset: int) -> BlobStream:
        """Read a layer that is here, from `offset` on."""
        entry = self._entries[layer.digest]
        return _Piece(self._files, entry.data_offset + offset, entry.data_offset + entry.size)

    def close(self) -> None:
        self._files.close()
        self._journal.close()


def _read_manifest(files: Unfinished) -> bytes:
    """bundle.json, as far as it is there."""
    head = bytearray(BLOCK)
    files.readinto(_HEADER, memoryview(head))
    data = bytearray(_size_of(bytes(head)))
    return bytes(data[: files.readinto(_HEADER + BLOCK, memoryview(data))])


def _size_of(head: bytes) -> int:
    """The size in the tar header of bundle.json, 0 when it is another header."""
    try:
        size = int(head[124:135], 8)
    except ValueError:
        return 0
    return size if size <= MAX_SIZE and head == header(MANIFEST_NAME, size) else 0


class _Piece(BlobStream):
    def __init__(self, files: Unfinished, position: int, end: int) -> None:
        self._files, self._position, self._end = files, position, end

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return _HERE

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        view = memoryview(buffer)[: self._end - self._position]
        count = self._files.readinto(self._position, view)
        self._position += count
        return count

    def close(self) -> None:
        pass


class LeftoverSource(SourceAround):
    """`source`, but layers that are left come from there first."""

    def __init__(self, source: Source, leftover: Leftover) -> None:
        super().__init__(source)
        self._leftover = leftover

    def open_blob(
        self,
        repository: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        avoid: frozenset[Endpoint] = frozenset(),
    ) -> BlobStream:
        if self._leftover.has(descriptor) and _HERE not in avoid:
            return self._leftover.open(descriptor, offset)
        return super().open_blob(repository, descriptor, offset, avoid - {_HERE})
