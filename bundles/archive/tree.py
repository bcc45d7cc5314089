"""An image's content, from its root down, without the platforms that are not wanted."""

from __future__ import annotations

import dataclasses
import functools

from bundles.archive.reader import Archive
from bundles.errors import Problem
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index, parse_manifest

# Indexes inside one another: images have one level, or two.
_MAX_DEPTH = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """The content of an image.

    `manifests` are image manifests and indexes, children first; of a sparse index those that the archive has. `blobs`
    are configs and layers, those too that a delta leaves to its base, and `left` those alone.
    """

    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    left: tuple[Descriptor, ...]


@functools.lru_cache(maxsize=64)
def tree_of(archive: Archive, root: Descriptor, dropped: frozenset[Digest]) -> Tree:
    """Collect the content below `root` without what is `dropped`, once however many images have that root.

    Raises:
        DamagedArchiveError: a document is wrong, or indexes are nested too deeply.
    """
    walk = _Walk(archive, dropped)
    walk.collect(root)
    left = [blob for digest, blob in walk.blobs.items() if not archive.has(digest)]
    return Tree(tuple(walk.manifests.values()), tuple(walk.blobs.values()), tuple(left))


class _Walk:
    def __init__(self, archive: Archive, dropped: frozenset[Digest]) -> None:
        self._archive, self._dropped = archive, dropped
        self.manifests: dict[Digest, Descriptor] = {}
        self.blobs: dict[Digest, Descriptor] = {}
        # Of every index whether there was anything to add: each is opened once, however often it is listed.
        self._opened: dict[Digest, bool] = {}

    def collect(self, descriptor: Descriptor, depth: int = 0) -> bool:
        """Add a manifest or index and what is below it; say whether there was anything to add.

        Raises:
            DamagedArchiveError: indexes are nested too deeply.
        """
        if descriptor.digest in self._dropped or not self._archive.has(descriptor.digest):
            return False
        if descriptor.is_index:
            if descriptor.digest not in self._opened:
                self._opened[descriptor.digest] = self._open(descriptor, depth)
            if not self._opened[descriptor.digest]:
                return False
        elif descriptor.is_manifest:
            image = parse_manifest(self._archive.read_document(descriptor))
            # With those that a delta leaves to its base.
            self.blobs.update((blob.digest, blob) for blob in (image.config, *image.layers))
        else:
            self.blobs[descriptor.digest] = descriptor
            return True
        self.manifests[descriptor.digest] = descriptor
        return True

    def _open(self, index: Descriptor, depth: int) -> bool:
        if depth > _MAX_DEPTH:
            problem = Problem(str(index.digest), f"it is inside more than {_MAX_DEPTH} levels of indexes")
            raise self._archive.damaged([problem])
        children = parse_index(self._archive.read_document(index))
        wanted = [child for child in children if child.attests not in self._dropped]
        # A list, not a generator: every child is to be collected.
        return any([self.collect(child, depth + 1) for child in wanted]) or not children
