"""One image for one platform as a tar stream that every Docker can load, composed from the archive while it is read.

The stream is what `docker save` writes since 25.0, two standard things at once: a Docker archive (manifest.json), which
the classic image store reads, and an OCI layout (index.json), which the containerd image store prefers and which keeps
the manifest and so its digest. It is never in memory or on disk here; layers are verified on their way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from bundles.descriptor import OCI_INDEX, Descriptor
from bundles.image import parse_manifest
from bundles.layout import END_OF_TAR, OCI_LAYOUT, OCI_LAYOUT_NAME, header, padding
from bundles.reader import Archive


def stream(archive: Archive, manifest: Descriptor, name: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The tar of the image that `manifest` describes, tagged `name`; `advance` is told the bytes of each chunk.

    Raises:
        DamagedArchiveError: while it is read, before the last byte of a damaged blob.
    """
    image = parse_manifest(archive.read_document(manifest))
    entry = {
        "Config": image.config.digest.blob_path,
        "RepoTags": [name],
        "Layers": [layer.digest.blob_path for layer in image.layers],
    }
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {
                **Descriptor(manifest.media_type, manifest.digest, manifest.size).to_json(),
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
        ],
    }
    for file, value in ((OCI_LAYOUT_NAME, OCI_LAYOUT), ("index.json", _json(index)), ("manifest.json", _json([entry]))):
        yield header(file, len(value)) + value + bytes(padding(len(value)))
    for blob in dict.fromkeys((manifest, image.config, *image.layers)):
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
    return sum(blob.size for blob in dict.fromkeys((manifest, image.config, *image.layers)))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
