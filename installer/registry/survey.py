"""What a registry lacks of the images that it is to hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence

from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from installer.model.selection import Place, Selected, places
from installer.registry.client import Registry
from installer.registry.delta_layers import Required
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
        required: what a delta leaves to its base.
        answers: whether there is a registry yet; without one everything is missing.
    """

    def __init__(
        self,
        archive: Archive,
        images: Sequence[Selected],
        registry: Registry,
        indexes: SparseIndexes,
        required: Required,
        *,
        answers: bool,
    ) -> None:
        self._archive, self._images, self._registry = archive, images, registry
        self._indexes, self._required, self._answers = indexes, required, answers
        self._held: dict[tuple[str, Digest], bool] = {}

    @functools.cached_property
    def missing(self) -> Sequence[Place]:
        """The places that lack something, in order."""
        found = places(self._images)
        if not self._answers:
            return found
        complete = [place for place, done in zip(found, self._registry.in_parallel(self._is_complete, found)) if done]
        whole = self._whole({place.image for place in complete})
        there = {place for place in complete if place.image in whole}
        return [place for place in found if place not in there]

    @functools.cached_property
    def blobs(self) -> Sequence[BlobPlan]:
        """What the missing places need, each blob once.

        Only each image's first repository is asked for it: the others are for a mount, which costs no more than asking.
        """
        first = {image.repositories[0] for image in self._images}
        incomplete = set(self.missing)
        needed: dict[Digest, tuple[Descriptor, dict[str, None]]] = {}
        holders: dict[Digest, dict[str, None]] = {}
        for place in places(self._images):
            for blob in place.image.blobs:
                if place in incomplete:
                    needed.setdefault(blob.digest, (blob, {}))[1][place.repository] = None
                else:
                    holders.setdefault(blob.digest, {})[place.repository] = None

        def plan(entry: tuple[Descriptor, dict[str, None]]) -> BlobPlan:
            blob, repositories = entry
            present = dict(holders.get(blob.digest, {}))
            if self._answers:
                asked = [name for name in repositories if name in first]
                present.update({name: None for name in asked if self._has_blob(name, blob.digest)})
            if self._answers and not present and not self._archive.has(blob.digest):
                holder = self._required.holder(blob.digest)
                present.update({holder: None} if holder else {})
            return BlobPlan(blob, tuple(name for name in repositories if name not in present), tuple(present))

        return self._registry.in_parallel(plan, list(needed.values()))

    def _whole(self, images: Collection[Selected]) -> set[Selected]:
        """Return those of which the registry has every blob."""
        blobs = {image: [(image.repositories[0], blob.digest) for blob in image.blobs] for image in images}
        asked = list(dict.fromkeys(key for keys in blobs.values() for key in keys))
        self._registry.in_parallel(lambda key: self._has_blob(*key), asked)
        return {image for image, keys in blobs.items() if all(self._held[key] for key in keys)}

    def _has_blob(self, repository: str, digest: Digest) -> bool:
        key = repository, digest
        if key not in self._held:
            self._held[key] = self._registry.has_blob(repository, digest)
        return self._held[key]

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
