"""An index for a registry that refuses one with missing children: the same, without the children that are not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from bundles.archive.reader import Archive
from bundles.errors import NetworkError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import index_entries, parse_index, parse_json
from installer.model.selection import Place
from installer.registry.client import Registry

# 400: distribution 2, Nexus, zot, Quay. 404: Harbor (NOT_FOUND), Gitea, ECR. 422 is what else means "not this content".
_REFUSALS = frozenset({400, 404, 422})
# That the repository does not exist, or has a bad name, is no fault of the index.
_OTHER_CAUSES = frozenset({"NAME_UNKNOWN", "NAME_INVALID", "TAG_INVALID"})


class SparseIndexes:
    """Puts other indexes in the place of those that a registry refuses because some of their platforms are missing.

    `rebuilt` has the places that serve another index than the image's own, and its digest. Thread-safe.
    """

    def __init__(self, archive: Archive, registry: Registry) -> None:
        self._archive, self._registry = archive, registry
        self.rebuilt: dict[Place, Digest] = {}

    def recognises(self, place: Place, found: Digest) -> bool:
        """Tell whether a place that does not have the image's own index has the one that would be put there."""
        substitute = self._rebuild(place)[place.image.root.digest][0].digest
        if found == substitute:
            self.rebuilt[place] = substitute
        return found == substitute

    def is_derived(self, place: Place, found: Digest) -> bool:
        """Tell whether a place has an index that was once rebuilt from the image's own, for whichever platforms."""
        descriptor, data = self._registry.get_manifest(place.repository, str(found))
        if not (descriptor.is_index and place.image.root.is_index):
            return False
        children = {child.digest for child in parse_index(data)}
        own = self._archive.read_document(place.image.root)
        return Digest.of(rebuild(own, lambda digest: digest in children, {})) == found

    def explains(self, error: NetworkError, place: Place) -> bool:
        """Tell whether a registry that refused an index with that error may have done so because it is sparse.

        Every registry says it in its own words. To try a rebuilt one costs nothing: what is wrong with something else
        is refused again.
        """
        if error.status not in _REFUSALS or not _OTHER_CAUSES.isdisjoint(error.codes):
            return False
        held = {manifest.digest for manifest in place.image.manifests}
        indexes = [manifest for manifest in place.image.manifests if manifest.is_index]
        return any(
            child.digest not in held for index in indexes for child in parse_index(self._archive.read_document(index))
        )

    def push(self, place: Place) -> tuple[Descriptor, bytes]:
        """Put the indexes of a place without what is missing there, and return the outermost."""
        documents = self._rebuild(place)
        for descriptor, data in documents.values():
            self._registry.put_manifest(place.repository, str(descriptor.digest), descriptor, data)
        root = documents[place.image.root.digest]
        self.rebuilt[place] = root[0].digest
        return root

    def _rebuild(self, place: Place) -> dict[Digest, tuple[Descriptor, bytes]]:
        """Make the indexes, children first, by the digests of those in whose place they are.

        What an earlier bundle brought stays in the index: the registry is asked about every child.
        """
        chosen = {manifest.digest for manifest in place.image.manifests if not manifest.is_index}
        done: dict[Digest, tuple[Descriptor, bytes]] = {}
        for index in place.image.manifests:
            if index.is_index:
                data = rebuild(
                    self._archive.read_document(index),
                    lambda digest: (
                        digest in chosen or self._registry.manifest_digest(place.repository, str(digest)) is not None
                    ),
                    {digest: descriptor for digest, (descriptor, _) in done.items()},
                )
                done[index.digest] = (Descriptor.of(index.media_type, data), data)
        return done


def rebuild(data: bytes, keep: Callable[[Digest], bool], moved: Mapping[Digest, Descriptor]) -> bytes:
    """Return the index `data` with the children that `keep` accepts; a nested index that was rebuilt is in `moved`.

    All other fields stay, media type and annotations among them, so the same children always give the same bytes.
    """
    value = parse_json(data, "the index")
    children = []
    for entry in index_entries(data):
        # An entry that means nothing here was never pushed either.
        if entry.descriptor is None:
            continue
        child, digest = entry.value, entry.descriptor.digest
        if digest in moved:
            child = {**child, "digest": str(moved[digest].digest), "size": moved[digest].size}
        elif not keep(digest):
            continue
        children.append(child)
    value["manifests"] = children
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
