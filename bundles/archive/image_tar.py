"""A tar in which images leave an archive: small files that describe them, then their blobs as they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from bundles.archive.layout import BLOCK, END_OF_TAR, OCI_LAYOUT, OCI_LAYOUT_NAME, header, padding
from bundles.oci.descriptor import OCI_INDEX, Descriptor
from bundles.oci.digest import Digest


class BlobReader(Protocol):
    """Gives a blob in pieces, its last bytes only when all are right."""

    def read(self) -> bytes:
        """Return some bytes, at the end none."""


class BlobSource(Protocol):
    """Has blobs, manifests among them: an archive, or a registry."""

    def open_blob(self, descriptor: Descriptor, /) -> BlobReader:
        """Read a blob, verified."""


@dataclasses.dataclass(frozen=True)
class ImageTar:
    """Such a tar, known to the byte before it is written: the same images always give the same one.

    `files` are the small files by name, in order; `blobs` follow them, each once, whatever refers to it.
    """

    files: Mapping[str, bytes]
    blobs: tuple[Descriptor, ...]

    @property
    def head(self) -> bytes:
        """The entries before the blobs."""
        return b"".join(header(name, len(data)) + data + bytes(padding(len(data))) for name, data in self.files.items())

    @property
    def content_size(self) -> int:
        """The bytes of the blobs."""
        return sum(blob.size for blob in self.blobs)

    @property
    def size(self) -> int:
        """The bytes of the whole."""
        return len(self.head) + sum(BLOCK + blob.size + padding(blob.size) for blob in self.blobs) + len(END_OF_TAR)

    def stream(self, source: BlobSource, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Make the tar, in pieces; `advance` is told the bytes of blobs in each.

        Raises:
            DamagedArchiveError: while it is read, before the last byte of a damaged blob.
        """
        yield self.head
        for blob in self.blobs:
            yield header(blob.digest.blob_path, blob.size)
            reader = source.open_blob(blob)
            while chunk := reader.read():
                advance(len(chunk))
                yield chunk
            yield bytes(padding(blob.size))
        yield END_OF_TAR


def once(blobs: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """Return blobs in their order, each once, by its digest."""
    found: dict[Digest, Descriptor] = {}
    for blob in blobs:
        found.setdefault(blob.digest, blob)
    return tuple(found.values())


def layout_files(entries: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return what makes a tar an OCI image layout: its marker, and the index.json with these entries."""
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return {OCI_LAYOUT_NAME: OCI_LAYOUT, "index.json": dump(index)}


def dump(value: object) -> bytes:
    """Write JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
