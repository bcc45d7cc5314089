"""What of an archive goes into the registry, and in which order: content before what refers to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.archive.tree import tree_of
from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from installer.model.naming import full_names, repositories
from installer.model.registry.destination import Destination


@dataclasses.dataclass(frozen=True)
class Selected:
    """An image on its way into the registry.

    `repositories` hold it, the first before its aliases. `manifests` are the image manifests and indexes in the order
    in which they are pushed, the root last. `blobs` are the configs and layers, those too that a delta leaves to its
    base. `platforms` are those that go in.
    """

    image: Image
    repositories: tuple[str, ...]
    names: tuple[str, ...]
    platforms: tuple[Platform, ...]
    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]

    @property
    def root(self) -> Descriptor:
        return self.image.root

    @property
    def tag(self) -> Optional[str]:
        return self.image.reference.tag


def select(archive: Archive, destination: Destination, platforms: Sequence[Platform]) -> tuple[Selected, ...]:
    """Return every image of the archive, base images narrowed to `platforms` when there are any.

    The toolchain is taken whole: it is for the host, not for what is built. An image that has none of the platforms is
    left out; `left_out` names those.
    """
    selected = (_select(archive, image, destination, platforms) for image in archive.manifest.images)
    return tuple(item for item in selected if item is not None)


def left_out(archive: Archive, selected: Sequence[Selected]) -> tuple[Image, ...]:
    """Return the images of the archive that have none of the wanted platforms."""
    taken = {item.image.reference for item in selected}
    return tuple(image for image in archive.manifest.images if image.reference not in taken)


def _select(
    archive: Archive, image: Image, destination: Destination, platforms: Sequence[Platform]
) -> Optional[Selected]:
    offered = [content.platform for content in image.platforms if content.platform]
    chosen = set(offered)
    if platforms and image.role == "base":
        chosen = {found for found in (platform.best_of(offered) for platform in platforms) if found}
        if offered and not chosen:
            return None
    dropped = frozenset(
        content.manifest.digest
        for content in image.platforms
        if content.platform is not None and content.platform not in chosen
    )
    tree = tree_of(archive, image.root, dropped)
    return Selected(
        image=image,
        repositories=repositories(image.reference, destination),
        names=full_names(image.reference, image.root.digest, destination),
        platforms=tuple(platform for platform in offered if platform in chosen),
        manifests=tree.manifests,
        blobs=tree.blobs,
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """An image and one of the repositories that are to hold it."""

    image: Selected
    repository: str

    @property
    def name(self) -> str:
        return (
            f"{self.repository}:{self.image.tag}" if self.image.tag else f"{self.repository}@{self.image.root.digest}"
        )


def places(images: Sequence[Selected]) -> list[Place]:
    """Return every place that is to hold one of the images, in order."""
    return [Place(image, repository) for image in images for repository in image.repositories]
