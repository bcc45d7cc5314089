"""What the registry holds under a name, read from the registry itself."""

from __future__ import annotations

import dataclasses
from typing import Optional

from bundles.errors import NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import walk
from installer.registry.client import Registry


@dataclasses.dataclass(frozen=True)
class Content:
    """An image as a repository holds it.

    `documents` are its indexes and manifests, parents before children; `absent` what its indexes name and the
    repository does not have (a sparse index); `blobs` configs and layers, each once.
    """

    root: Descriptor
    documents: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    absent: tuple[Descriptor, ...]


def content(registry: Registry, repository: str, selector: str) -> Optional[Content]:
    """Read what a repository holds under a tag or digest; None when there is nothing.

    Raises:
        NetworkError: the registry failed.
        UsageError: a document is not what its media type says.
    """
    try:
        root, data = registry.get_manifest(repository, selector)
    except NotFoundError:
        return None
    documents: dict[Digest, Descriptor] = {}
    blobs: dict[Digest, Descriptor] = {}
    absent: dict[Digest, Descriptor] = {}

    def read(descriptor: Descriptor) -> bytes:
        return data if descriptor == root else registry.get_manifest(repository, str(descriptor.digest))[1]

    def has(child: Descriptor) -> bool:
        there = registry.manifest_digest(repository, str(child.digest)) is not None
        if not there:
            absent[child.digest] = child
        return there

    for descriptor, _ in walk(root, read, has):
        place = documents if descriptor.is_index or descriptor.is_manifest else blobs
        place.setdefault(descriptor.digest, descriptor)
    return Content(root, tuple(documents.values()), tuple(blobs.values()), tuple(absent.values()))
