"""What an interrupted run for another bundle has left: layers that this one needs too come from there.

The same command makes another bundle as soon as a tag has moved, and a long download is just what is interrupted. What
it left is set aside under the name `NAME.previous`, an unfinished archive like any other, until a run has ended well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional, Union

from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobRequest, BlobStream, Source, SourceAround
from bundler.writing.journal import Journal, bundle_of, journal_of
from bundler.writing.partial_files import Unfinished, disk_usage, unfinished_files
from bundles.archive.layout import BLOCK, Entry
from bundles.archive.manifest import BundleManifest
from bundles.archive.reader import manifest_size
from bundles.errors import BundleError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.runtime.closeable import Closeable
from bundles.runtime.filesystem import free_space
from bundles.runtime.system import system

# So that wrong bytes make the next try go elsewhere.
_HERE = Endpoint("previous")
# Where the header of bundle.json is: docs/format.md.
_HEADER = 4 * BLOCK


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def set_aside(path: Path, bundle: Digest, size: int) -> int:
    """Keep what is left of another bundle than `bundle`, when there is room for that and `size` bytes more.

    Returns:
        how many bytes there is no room for.

    Raises:
        BundleError: another process is writing there.
    """
    found = bundle_of(journal_of(path))
    if not found or found[0] == bundle:
        return 0
    journal = Journal(journal_of(path), *found)
    try:
        if not journal.claims:
            return 0
        if free_space(path.parent) < size:
            return disk_usage(unfinished_files(path))
        discard(path)
        for partial in unfinished_files(path):
            system.replace(partial, partial.with_name(_previous(path).name + partial.name[len(path.name) :]))
        system.replace(journal.path, journal_of(_previous(path)))
        return 0
    finally:
        journal.close()


def discard(path: Path) -> None:
    """Remove what was set aside for the archive `path`, which is complete."""
    previous = _previous(path)
    for file in (*unfinished_files(previous), journal_of(previous)):
        file.unlink(missing_ok=True)


class Leftover(Closeable):
    """The layers that are whole in what was set aside. A context manager.

    Nothing is taken on trust: who reads a layer compares its digest.
    """

    def __init__(self, journal: Journal, files: Unfinished, entries: Mapping[Digest, Entry]) -> None:
        self._journal, self._files, self._entries = journal, files, entries

    @classmethod
    def of(cls, path: Path) -> Optional[Leftover]:
        """Open what was set aside for the archive `path`; None when there is nothing of use.

        Raises:
            BundleError: another process uses it.
        """
        previous = _previous(path)
        found = bundle_of(journal_of(previous))
        partials = unfinished_files(previous)
        if not found or not partials:
            return None
        bundle, parts = found
        sizes = [int(size) for size in parts.split(",") if size.isdigit()]
        if len(sizes) != len(partials):
            return None
        journal = Journal(journal_of(previous), bundle, parts)
        files = Unfinished([partial.with_suffix("") for partial in partials], sizes)
        data = _read_manifest(files)
        return cls(journal, files, _whole(data, journal.claims) if Digest.of(data) == bundle else {})

    def size_of(self, layers: Iterable[Descriptor]) -> int:
        """Count how many bytes of these layers are here."""
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


def _whole(data: bytes, claims: Mapping[Digest, int]) -> dict[Digest, Entry]:
    """Find where the layers are that are whole by the journal's claims; `data` is bundle.json."""
    try:
        manifest = BundleManifest.parse(data)
        layout = manifest.layout(len(data))
    except BundleError:
        # What a later version of this program began is of no use to this one.
        return {}
    return {blob.digest: layout.blob(blob.digest) for blob in manifest.blobs if claims.get(blob.digest) == blob.size}


def _read_manifest(files: Unfinished) -> bytes:
    """Read bundle.json, as far as it is there."""
    head = bytearray(BLOCK)
    files.readinto(_HEADER, memoryview(head))
    data = bytearray(manifest_size(bytes(head)) or 0)
    return bytes(data[: files.readinto(_HEADER + BLOCK, memoryview(data))])


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

    def open_blob(self, request: BlobRequest) -> BlobStream:
        if self._leftover.has(request.descriptor) and _HERE not in request.avoid:
            return self._leftover.open(request.descriptor, request.offset)
        return super().open_blob(dataclasses.replace(request, avoid=request.avoid - {_HERE}))
