"""One image for one platform as a tar stream that every Docker can load, composed from the archive while it is read.

The stream is what `docker save` writes (bundles/archive/docker_archive.py). It is never in memory or on disk here;
layers are verified on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bundles.archive.docker_archive import saved_blobs, saved_head
from bundles.archive.layout import END_OF_TAR, header, padding
from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.image import parse_manifest


def stream(archive: Archive, manifest: Descriptor, name: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The tar of the image that `manifest` describes, tagged `name`; `advance` is told the bytes of each chunk.

    Raises:
        DamagedArchiveError: while it is read, before the last byte of a damaged blob.
    """
    image = parse_manifest(archive.read_document(manifest))
    yield saved_head(manifest, image, name)
    for blob in saved_blobs(manifest, image):
        yield header(blob.digest.blob_path, blob.size)
        reader = archive.open_blob(blob)
        chunk = reader.read()
        while chunk:
            advance(len(chunk))
            yield chunk
            chunk = reader.read()
        yield bytes(padding(blob.size))
    yield END_OF_TAR


def content_size(archive: Archive, manifest: Descriptor) -> int:
    """The bytes of blobs in that stream."""
    image = parse_manifest(archive.read_document(manifest))
    return sum(blob.size for blob in saved_blobs(manifest, image))
