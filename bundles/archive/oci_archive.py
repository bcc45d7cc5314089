"""A tar of an OCI image layout (image-spec v1.1, image-layout.md) with images of an archive, every digest kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bundles.archive.image_tar import ImageTar, layout_files, once
from bundles.archive.tree import Tree
from bundles.oci.descriptor import Descriptor
from bundles.oci.reference import Reference


@dataclasses.dataclass(frozen=True)
class LayoutImage:
    """An image under a name: what the name stands for, and all that is below that."""

    reference: Reference
    root: Descriptor
    tree: Tree


def oci_archive(images: Sequence[LayoutImage]) -> ImageTar:
    """Return the tar with these images: indexes and manifests first, from the top down, then configs and layers."""
    trees = dict.fromkeys(image.tree for image in images)
    manifests = [manifest for tree in trees for manifest in reversed(tree.manifests)]
    blobs = [blob for tree in trees for blob in tree.blobs]
    return ImageTar(layout_files(map(_entry, images)), once([*manifests, *blobs]))


def _entry(image: LayoutImage) -> dict[str, Any]:
    """Describe an image for index.json.

    `org.opencontainers.image.ref.name` is what skopeo, regctl and BuildKit look for, `io.containerd.image.name` what
    containerd, Docker and podman look for.
    """
    name = str(image.reference)
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    return {**image.root.to_json(), "annotations": names}
