"""What a registry lacks of the images that it is to hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from installer.model.selection import Place, Selected, places
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes


@dataclasses.dataclass(frozen=True)
class BlobPlan:
    """A blob, the repositories that need it, and those that have it already."""

    blob: Descriptor
    missing: tuple[str, ...]
    present: tuple[str, ...]


class Survey:
    """One look at a registry; it is asked when something is wanted to be known, and nothing twice.

    An image is there when every repository has its root under the tag (or by digest) and each chosen manifest: a
    registry takes those only after what they refer to. It may have lost some of that since: every blob is asked for
    too, in the first repository. So a complete registry costs a few HEAD requests for each image, and one for each
    blob.

    Args:
        archive: where the images are.
        images: those that are to be there.
        registry: who is asked.
        indexes: tells those that were rebuilt for this registry.
        base_layers: what a delta leaves to its base.
        answers: whether there is a registry yet; without one everything is missing.
        goes_on: whether the registry is asked for something else when it fails here.
    """

    def __init__(
        self,
        archive: Archive,
        images: Sequence[Selected],
        registry: Registry,
        indexes: SparseIndexes,
        base_layers: BaseLayers,
        *,
        answers: bool,
        goes_on: bool = False,
    ) -> None:
        self._archive, self._images, self._registry = archive, images, registry
        self._indexes, self._base_layers, self._answers = indexes, base_layers, answers
        self._in_parallel = functools.partial(registry.in_parallel, goes_on=goes_on)

    @functools.cached_property
    def missing(self) -> Sequence[Place]:
        """The places that lack something, in order."""
        found = places(self._images)
        if not self._answers:
            return found
        complete = self._in_parallel(self._is_complete, found)
        held = self._held
        return [place for place, done in zip(found, complete) if not (done and held.issuperset(_first(place.image)))]

    @functools.cached_property
    def replaced(self) -> Mapping[Place, Digest]:
        """The missing places whose tag stands for another image now, and which."""
        tagged = [place for place in self.missing if place.image.tag] if self._answers else []
        found = self._in_parallel(
            lambda place: self._registry.manifest_digest(place.repository, str(place.image.tag)), tagged
        )
        return {place: digest for place, digest in zip(tagged, found) if digest not in (None, place.image.root.digest)}

    @functools.cached_property
    def blobs(self) -> Sequence[BlobPlan]:
        """What the missing places need, each blob once."""
        incomplete = set(self.missing)
        blobs: dict[Digest, Descriptor] = {}
        needed: dict[Digest, dict[str, None]] = {}
        holders: dict[Digest, dict[str, None]] = {}
        for place in places(self._images):
            # Not for each blob: a place is compared with all that is in it.
            lacks = place in incomplete
            for blob in place.image.blobs:
                if lacks:
                    blobs.setdefault(blob.digest, blob)
                    needed.setdefault(blob.digest, {})[place.repository] = None
                if not lacks or (place.repository, blob.digest) in self._held:
                    holders.setdefault(blob.digest, {})[place.repository] = None
        plans = []
        for digest, repositories in needed.items():
            present = tuple(holders.get(digest, ()))
            if self._answers and not present and not self._archive.has(digest):
                holder = self._base_layers.holder(digest)
                present = (holder,) if holder else ()
            plans.append(BlobPlan(blobs[digest], tuple(name for name in repositories if name not in present), present))
        return plans

    @functools.cached_property
    def _held(self) -> set[tuple[str, Digest]]:
        """The blobs that each image's first repository has. The others are for a mount, which costs no more than
        asking."""
        asked = list(dict.fromkeys(key for image in self._images for key in _first(image))) if self._answers else []
        there = self._in_parallel(lambda key: self._registry.has_blob(*key), asked)
        return {key for key, held in zip(asked, there) if held}

    def _is_complete(self, place: Place) -> bool:
        root = place.image.root
        found = self._registry.manifest_digest(place.repository, place.image.tag or str(root.digest))
        if found is None:
            return False
        others = [manifest.digest for manifest in place.image.manifests if not manifest.is_index]
        if any(self._registry.manifest_digest(place.repository, str(digest)) is None for digest in others):
            return False
        if found == root.digest:
            return True
        if not root.is_index or self._registry.manifest_digest(place.repository, str(root.digest)) is not None:
            return False
        # The registry has no index of that digest: perhaps one that was rebuilt, which the receipt should name again.
        return self._indexes.recognises(place, found)


def _first(image: Selected) -> Iterator[tuple[str, Digest]]:
    """Give each blob of an image with the image's first repository."""
    return ((image.repositories[0], blob.digest) for blob in image.blobs)
