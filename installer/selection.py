"""What of an archive goes into the registry, and in which order: content before what refers to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

from bundles.descriptor import Descriptor
from bundles.digest import Digest
from bundles.image import parse_index, parse_manifest
from bundles.manifest import Image
from bundles.platform import Platform
from bundles.reader import Archive
from installer.address import Address
from installer.names import full_names, repositories


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


def select(archive: Archive, address: Address, platforms: Sequence[Platform]) -> tuple[Selected, ...]:
    """Every image of the archive, base images narrowed to `platforms` when there are any.

    The toolchain is taken whole: it is for the host, not for what is built. An image that has none of the platforms is
    left out; `left_out` names those.
    """
    selected = (_select(archive, image, address, platforms) for image in archive.manifest.images)
    return tuple(item for item in selected if item is not None)


def left_out(archive: Archive, selected: Sequence[Selected]) -> tuple[Image, ...]:
    """The images of the archive that have none of the wanted platforms."""
    taken = {item.image.reference for item in selected}
    return tuple(image for image in archive.manifest.images if image.reference not in taken)


def _select(archive: Archive, image: Image, address: Address, platforms: Sequence[Platform]) -> Optional[Selected]:
    offered = [content.platform for content in image.platforms if content.platform]
    chosen = set(offered)
    if platforms and image.role == "base":
        chosen = {found for found in (platform.best_of(offered) for platform in platforms) if found}
        if offered and not chosen:
            return None
    dropped = {
        content.manifest.digest
        for content in image.platforms
        if content.platform is not None and content.platform not in chosen
    }
    manifests: dict[Digest, Descriptor] = {}
    blobs: dict[Digest, Descriptor] = {}
    _collect(archive, image.root, dropped, manifests, blobs)
    return Selected(
        image=image,
        repositories=repositories(image.reference, address),
        names=full_names(image.reference, image.root.digest, address),
        platforms=tuple(platform for platform in offered if platform in chosen),
        manifests=tuple(manifests.values()),
        blobs=tuple(blobs.values()),
    )


def _collect(
    archive: Archive,
    descriptor: Descriptor,
    dropped: set[Digest],
    manifests: dict[Digest, Descriptor],
    blobs: dict[Digest, Descriptor],
) -> bool:
    """Add a manifest or index and what is below it, children first; say whether there was anything to add."""
    if descriptor.digest in dropped or not archive.has(descriptor.digest):
        return False
    if descriptor.is_index:
        children = parse_index(archive.read_document(descriptor))
        wanted = [child for child in children if child.attests not in dropped]
        # A list, not a generator: every child is to be collected.
        if not any([_collect(archive, child, dropped, manifests, blobs) for child in wanted]) and children:
            return False
    elif descriptor.is_manifest:
        image = parse_manifest(archive.read_document(descriptor))
        # With those that a delta leaves to its base.
        blobs.update((blob.digest, blob) for blob in (image.config, *image.layers))
    else:
        blobs[descriptor.digest] = descriptor
        return True
    manifests[descriptor.digest] = descriptor
    return True
