"""The first entries of the tar that `docker save` writes since 25.0, for an image that is loaded from an archive.

Such a tar is two standard things at once: a Docker archive (manifest.json), which the classic image store reads, and an
OCI layout (index.json), which the containerd image store prefers and which keeps the manifest and so its digest.
"""

from __future__ import annotations

import json

from bundles.archive.layout import OCI_LAYOUT, OCI_LAYOUT_NAME, header, padding
from bundles.oci.descriptor import OCI_INDEX, Descriptor
from bundles.oci.image import ImageManifest


def saved_head(manifest: Descriptor, image: ImageManifest, name: str) -> bytes:
    """Return the entries before the blobs: `oci-layout`, `index.json`, `manifest.json`.

    Args:
        manifest: the descriptor of the image manifest.
        image: its content.
        name: the tag that the image gets.
    """
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
    files = ((OCI_LAYOUT_NAME, OCI_LAYOUT), ("index.json", _json(index)), ("manifest.json", _json([entry])))
    return b"".join(header(file, len(data)) + data + bytes(padding(len(data))) for file, data in files)


def saved_blobs(manifest: Descriptor, image: ImageManifest) -> tuple[Descriptor, ...]:
    """Return the blobs that follow, each once."""
    return tuple(dict.fromkeys((manifest, image.config, *image.layers)))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
