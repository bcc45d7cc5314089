"""Content on its way into a registry: blobs, then manifests, then indexes, and the tags when everything is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from bundles.archive.reader import Archive, BlobReader
from bundles.errors import NetworkError, NotFoundError, Problem
from bundles.oci.descriptor import Descriptor
from bundles.registry.connections import BLOCK_SIZE
from bundles.runtime.progress import Progress, Task
from installer.model.selection import Place
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes
from installer.registry.survey import BlobPlan

# What is said to who moves an immutable tag. Harbor: 412. ECR and Nexus: 400. Others: 403, 405, 409.
_FIXED_TAG = frozenset({400, 403, 405, 409, 412})


class _Body:
    """A blob on its way: counts what was sent."""

    def __init__(self, reader: BlobReader, task: Task) -> None:
        self._reader, self._task = reader, task
        self._buffer = memoryview(bytearray(min(BLOCK_SIZE, len(reader))))
        self.sent = 0

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, count: int, /) -> memoryview:
        size = self._reader.readinto(self._buffer[:count])
        self.sent += size
        self._task.advance(size)
        return self._buffer[:size]


class Transfer:
    """Moves what is missing from an archive into a registry.

    Args:
        archive: where it comes from.
        registry: where it goes.
        indexes: what goes there instead of indexes that it refuses.
        base_layers: what a delta leaves to its base, which the registry has.
    """

    def __init__(self, archive: Archive, registry: Registry, indexes: SparseIndexes, base_layers: BaseLayers) -> None:
        self._archive, self._registry = archive, registry
        self._indexes, self._base_layers = indexes, base_layers

    def push(self, places: Sequence[Place], blobs: Sequence[BlobPlan], progress: Progress) -> None:
        """Bring images into their places. On return they are there, verified by the registry.

        Raises:
            ArchiveError: a blob is damaged.
            NetworkError: the registry failed, or lost what the archive leaves to its base; no tag was moved unless
                everything else was there. Or it lets some tags not be moved; all others were.
        """
        lacking = [plan for plan in blobs if plan.missing]
        # The largest first, so that no worker is left with a long one at the end.
        lacking.sort(key=lambda plan: -plan.blob.size)
        with progress.task("push", sum(plan.blob.size for plan in lacking)) as task:
            self._registry.in_parallel(lambda plan: self._push_blob(plan, task), lacking)
        self._registry.in_parallel(self._push_manifests, places)
        roots = self._registry.in_parallel(self._push_indexes, places)
        fixed = [problem for problem in self._registry.in_parallel(self._tag, list(zip(places, roots))) if problem]
        if fixed:
            raise NetworkError(
                f"`{self._registry.host}` lets {len(fixed)} {'tags' if len(fixed) > 1 else 'tag'} not be moved; "
                "everything else is there",
                problems=fixed,
            )

    def _push_blob(self, plan: BlobPlan, task: Task) -> None:
        """Upload a blob once, and have the registry mount it wherever else it is needed."""
        present = list(plan.present)
        for repository in plan.missing:
            left_out = not self._archive.has(plan.blob.digest)
            there = bool(present) and (
                self._registry.mount_blob(repository, plan.blob.digest, present[0], insist=left_out)
                or self._registry.has_blob(repository, plan.blob.digest)
            )
            if not there and left_out:
                self._copy(repository, plan.blob, present)
                task.advance(plan.blob.size if repository == plan.missing[0] else 0)
            elif not there:
                self._upload(repository, plan.blob, task)
            elif repository == plan.missing[0]:
                task.advance(plan.blob.size)
            present.append(repository)

    def _copy(self, repository: str, blob: Descriptor, present: Sequence[str]) -> None:
        """Bring a layer that the archive does not have from where it is, since the registry does not mount it."""
        try:
            if present:
                return self._registry.copy_blob(repository, blob, present[0])
        except NotFoundError:
            pass
        places = " or ".join(present) or "any repository"
        raise NetworkError(
            f"`{self._registry.host}` does not have the layer {blob.digest} in {places}; this archive leaves it to "
            f"{self._base_layers.bases}",
            hint="install that one again, then this one",
        )

    def _upload(self, repository: str, blob: Descriptor, task: Task) -> None:
        bodies: list[_Body] = []

        def body() -> _Body:
            if bodies:
                # Another try: what the failed one had counted was not safe.
                task.advance(-bodies[-1].sent)
            bodies.append(_Body(self._archive.open_blob(blob), task))
            return bodies[-1]

        self._registry.upload_blob(repository, blob, body)

    def _push_manifests(self, place: Place) -> None:
        for manifest in place.image.manifests:
            if not manifest.is_index:
                self._put(place, manifest)

    def _push_indexes(self, place: Place) -> tuple[Descriptor, bytes]:
        """Put the indexes of a place, and return what its tag is to stand for."""
        for manifest in place.image.manifests:
            if manifest.is_index:
                try:
                    self._put(place, manifest)
                except NetworkError as error:
                    if not self._indexes.explains(error, place):
                        raise
                    return self._indexes.push(place)
        self._indexes.rebuilt.pop(place, None)
        return place.image.root, self._archive.read_document(place.image.root)

    def _put(self, place: Place, manifest: Descriptor) -> None:
        data = self._archive.read_document(manifest)
        self._registry.put_manifest(place.repository, str(manifest.digest), manifest, data)

    def _tag(self, entry: tuple[Place, tuple[Descriptor, bytes]]) -> Optional[Problem]:
        """Set the tag of a place. A problem when the registry lets it not be moved: tags are immutable there."""
        place, (descriptor, data) = entry
        if place.image.tag is None:
            return None
        try:
            self._registry.put_manifest(place.repository, place.image.tag, descriptor, data)
        except NetworkError as error:
            # Harbor and ECR refuse to set such a tag to what it is.
            if error.status not in _FIXED_TAG:
                raise
            held = self._registry.manifest_digest(place.repository, place.image.tag)
            if held is None:
                raise
            if held != descriptor.digest:
                return Problem(
                    place.name,
                    f"it is {held}, and may not become {descriptor.digest}: {error.said}",
                    "if tags are immutable there, have this one deleted or excepted, and run this again",
                )
        return None
