"""The tar that `docker save` writes since 25.0, for images of an archive, of one platform each.

Such a tar is two standard things at once: a Docker archive (manifest.json), which the classic image store reads, and an
OCI layout (index.json), which the containerd image store prefers and which keeps the manifest and so its digest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from bundles.archive.image_tar import ImageTar, dump, layout_files, once
from bundles.oci.descriptor import Descriptor
from bundles.oci.image import ImageManifest
from bundles.oci.reference import Reference


@dataclasses.dataclass(frozen=True)
class SavedImage:
    """An image for one platform: its manifest and what is in it, and the reference whose tag it gets, if it has one."""

    manifest: Descriptor
    content: ImageManifest
    reference: Reference

    @property
    def tag(self) -> Optional[Reference]:
        """What it is called once it is loaded; None for a reference by digest alone, which Docker cannot load."""
        return dataclasses.replace(self.reference, digest=None) if self.reference.tag else None


def docker_archive(images: Sequence[SavedImage]) -> ImageTar:
    """Return the tar with these images."""
    blobs = (blob for image in images for blob in (image.manifest, image.content.config, *image.content.layers))
    return ImageTar(
        {**layout_files(map(_layout_entry, images)), "manifest.json": dump(list(map(_docker_entry, images)))},
        once(blobs),
    )


def _docker_entry(image: SavedImage) -> dict[str, Any]:
    return {
        "Config": image.content.config.digest.blob_path,
        "RepoTags": [image.tag.familiar] if image.tag else [],
        "Layers": [layer.digest.blob_path for layer in image.content.layers],
    }


def _layout_entry(image: SavedImage) -> dict[str, Any]:
    return {**image.manifest.plain.to_json(), **dict(_annotations(image))}


def _annotations(image: SavedImage) -> Iterator[tuple[str, Any]]:
    if image.tag:
        name = {"io.containerd.image.name": str(image.tag), "org.opencontainers.image.ref.name": str(image.tag.tag)}
        yield "annotations", name
