"""Images into the registry: blobs in parallel, then manifests, then indexes, and the tags when everything is there."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Optional, TypeVar

from bundles.archive.reader import Archive, BlobReader
from bundles.errors import InterruptedByUser, NetworkError, Problem, UnreachableError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index
from bundles.registry.connections import BLOCK_SIZE
from bundles.runtime.progress import Progress, Task
from bundles.runtime.signals import held
from installer.model.selection import Place, Selected, places
from installer.model.step import Change, Step
from installer.registry.client import Registry
from installer.registry.delta_layers import Required
from installer.registry.sparse_index import rebuilt

# A registry on the same disk gains nothing from more.
_WORKERS = 4
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class BlobPlan:
    """A blob, the repositories that need it, and those that have it already."""

    blob: Descriptor
    missing: tuple[str, ...]
    present: tuple[str, ...]


# The places that lack something, and what each blob needs.
_Survey = tuple[Sequence[Place], Sequence[BlobPlan]]


class _Stopped(InterruptedByUser):
    """Another worker failed, or the user interrupted: this one ends without a message of its own."""


class _Body:
    """A blob on its way: counts what was sent, and ends at once when the push is over."""

    def __init__(self, reader: BlobReader, task: Task, stop: threading.Event) -> None:
        self._reader, self._task, self._stop = reader, task, stop
        self._buffer = memoryview(bytearray(min(BLOCK_SIZE, len(reader))))
        self.sent = 0

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, count: int, /) -> memoryview:
        if self._stop.is_set():
            raise _Stopped("interrupted")
        size = self._reader.readinto(self._buffer[:count])
        self.sent += size
        self._task.advance(size)
        return self._buffer[:size]


class Push(Step):
    """Brings the selected images into the registry.

    An image is there when every repository has its root under the tag (or by digest) and each chosen manifest: a
    registry takes those only after what they refer to. It may have lost some of that since: every blob is asked for
    too, in the first repository. So a second run costs a few HEAD requests for each image, and one for each blob.

    Args:
        archive: where the images are.
        images: those to bring.
        registry: where they are to be.
        progress: told of the bytes on their way.
        is_outgoing: whether the registry that answers now goes before the push: what it has is nothing that its
            successor has.
    """

    name = "push"

    def __init__(
        self,
        archive: Archive,
        images: Sequence[Selected],
        registry: Registry,
        progress: Progress,
        *,
        is_outgoing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._archive, self._images = archive, images
        self._registry, self._progress = registry, progress
        self._required = Required(archive, images, registry)
        self._is_outgoing = is_outgoing
        self._stop = threading.Event()
        self._surveyed: Optional[_Survey] = None
        self._held: dict[tuple[str, Digest], bool] = {}
        self.rebuilt: dict[Place, Digest] = {}
        """The digest of the index that a place holds in the place of the image's own, where the registry refused it."""

    def problems(self) -> Sequence[Problem]:
        if not self._required.of(self._images):
            return []
        if self._is_outgoing():
            return [self._required.outgoing()]
        if not self._answers():
            return [self._required.unreachable()]
        return self._required.problems(self._required.of([place.image for place in self._missing()]))

    def look(self) -> Sequence[Change]:
        answers = self._answers()
        missing = self._missing() if answers else places(self._images)
        self._surveyed = None
        if not missing:
            return []
        plans = self._blob_plans(missing, answers)
        self._surveyed = missing, plans
        changes = [
            Change(
                "push",
                "tag" if place.image.tag else "digest",
                place.name,
                ", ".join(map(str, place.image.platforms)) or "artifact",
            )
            for place in missing
        ]
        size = sum(plan.blob.size for plan in plans if not plan.present and self._archive.has(plan.blob.digest))
        count = sum(1 for plan in plans if plan.missing)
        return [*changes, Change("upload", "blobs", str(count), "those that the registry does not have", size)]

    def apply(self, changes: Sequence[Change]) -> None:
        self._stop = threading.Event()
        if not self._surveyed:
            self.look()
        # Only once: another time the registry may hold something else.
        (missing, plans), self._surveyed = self._surveyed or ([], []), None
        plans = [plan for plan in plans if plan.missing]
        total = sum(plan.blob.size for plan in plans)
        with self._progress.task("push", total) as task:
            # The largest first, so that no worker is left with a long one at the end.
            plans.sort(key=lambda plan: -plan.blob.size)
            self._in_parallel(lambda plan: self._push_blob(plan, task), plans)
        self._in_parallel(self._push_manifests, missing)
        self._in_parallel(self._push_indexes, missing)
        self._in_parallel(self._tag, missing)

    def notes(self) -> Sequence[str]:
        return [
            f"{place.name} has the index {digest} instead of {place.image.root.digest}: this registry refuses an index "
            "of which only some platforms are there"
            for place, digest in self.rebuilt.items()
        ]

    def _answers(self) -> bool:
        """Whether there is the registry that is pushed to: with --plan it may not have been started yet."""
        if self._is_outgoing():
            return False
        try:
            self._registry.ping()
        except UnreachableError:
            return False
        return True

    def _missing(self) -> list[Place]:
        """The places that lack something, in order. The registry must answer."""
        self._held = {}
        found = places(self._images)
        complete = [place for place, done in zip(found, self._in_parallel(self._is_complete, found)) if done]
        whole = self._whole({place.image for place in complete})
        for place in complete:
            if place.image not in whole:
                self.rebuilt.pop(place, None)
        there = {place for place in complete if place.image in whole}
        return [place for place in found if place not in there]

    def _whole(self, images: Collection[Selected]) -> set[Selected]:
        """Those of which the registry has every blob."""
        blobs = {image: [(image.repositories[0], blob.digest) for blob in image.blobs] for image in images}
        asked = list(dict.fromkeys(key for keys in blobs.values() for key in keys))
        self._in_parallel(lambda key: self._has_blob(*key), asked)
        return {image for image, keys in blobs.items() if all(self._held[key] for key in keys)}

    def _has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the repository has the blob; asked once for each look."""
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
        substitute = self._rebuild(place)[root.digest][0].digest
        if found == substitute:
            self.rebuilt[place] = substitute
        return found == substitute

    def _blob_plans(self, missing: Sequence[Place], answers: bool) -> list[BlobPlan]:
        """What is to be moved where, each blob once, as far as the registry `answers` what it has.

        Only each image's first repository is asked for it: the others are for a mount, which costs no more than asking.
        """
        first = {image.repositories[0] for image in self._images}
        known = set(missing)
        needed: dict[Digest, tuple[Descriptor, dict[str, None]]] = {}
        for place in missing:
            for blob in place.image.blobs:
                needed.setdefault(blob.digest, (blob, {}))[1][place.repository] = None
        holders: dict[Digest, dict[str, None]] = {}
        for place in places(self._images):
            if place not in known:
                for blob in place.image.blobs:
                    holders.setdefault(blob.digest, {})[place.repository] = None

        def plan(entry: tuple[Descriptor, dict[str, None]]) -> BlobPlan:
            blob, repositories = entry
            present = dict(holders.get(blob.digest, {}))
            if answers:
                asked = [name for name in repositories if name in first]
                present.update({name: None for name in asked if self._has_blob(name, blob.digest)})
            if answers and not present and not self._archive.has(blob.digest):
                holder = self._required.holder(blob.digest)
                present.update({holder: None} if holder else {})
            return BlobPlan(blob, tuple(name for name in repositories if name not in present), tuple(present))

        return self._in_parallel(plan, list(needed.values()))

    def _push_blob(self, plan: BlobPlan, task: Task) -> None:
        """Upload a blob once, and have the registry mount it wherever else it is needed."""
        present = list(plan.present)
        for repository in plan.missing:
            there = bool(present) and (
                self._registry.mount_blob(repository, plan.blob.digest, present[0])
                or self._registry.has_blob(repository, plan.blob.digest)
            )
            if not there and not self._archive.has(plan.blob.digest):
                raise NetworkError(
                    f"`{self._registry.host}` does not have the layer {plan.blob.digest}, or does not take it from "
                    f"{' or '.join(present) or 'any repository'} into {repository}; this archive leaves it to "
                    f"{self._required.bases}",
                    hint="install that one again, then this one",
                )
            if not there:
                self._upload(repository, plan.blob, task)
            elif repository == plan.missing[0]:
                task.advance(plan.blob.size)
            present.append(repository)

    def _upload(self, repository: str, blob: Descriptor, task: Task) -> None:
        bodies: list[_Body] = []

        def body() -> _Body:
            if bodies:
                # Another try: what the failed one had counted was not safe.
                task.advance(-bodies[-1].sent)
            bodies.append(_Body(self._archive.open_blob(blob), task, self._stop))
            return bodies[-1]

        self._registry.upload_blob(repository, blob, body)

    def _push_manifests(self, place: Place) -> None:
        for manifest in place.image.manifests:
            if not manifest.is_index:
                self._put(place, str(manifest.digest), manifest, self._archive.read_document(manifest))

    def _push_indexes(self, place: Place) -> None:
        for manifest in place.image.manifests:
            if manifest.is_index:
                try:
                    self._put(place, str(manifest.digest), manifest, self._archive.read_document(manifest))
                except NetworkError as error:
                    if not _refuses_sparse(error) or not self._is_sparse(place):
                        raise
                    self._push_rebuilt(place)
                    return

    def _push_rebuilt(self, place: Place) -> None:
        documents = self._rebuild(place)
        for descriptor, data in documents.values():
            self._put(place, str(descriptor.digest), descriptor, data)
        self.rebuilt[place] = documents[place.image.root.digest][0].digest

    def _rebuild(self, place: Place) -> dict[Digest, tuple[Descriptor, bytes]]:
        """The image's indexes without the children that the registry has not, by their own digests, children first.

        What an earlier bundle brought stays in the index: the registry is asked about every child.
        """
        chosen = {manifest.digest for manifest in place.image.manifests if not manifest.is_index}
        done: dict[Digest, tuple[Descriptor, bytes]] = {}
        for index in place.image.manifests:
            if index.is_index:
                data = rebuilt(
                    self._archive.read_document(index),
                    lambda digest: (
                        digest in chosen or self._registry.manifest_digest(place.repository, str(digest)) is not None
                    ),
                    {digest: descriptor for digest, (descriptor, _) in done.items()},
                )
                done[index.digest] = (Descriptor.of(index.media_type, data), data)
        return done

    def _is_sparse(self, place: Place) -> bool:
        held = {manifest.digest for manifest in place.image.manifests}
        indexes = [manifest for manifest in place.image.manifests if manifest.is_index]
        return any(
            child.digest not in held for index in indexes for child in parse_index(self._archive.read_document(index))
        )

    def _tag(self, place: Place) -> None:
        root = place.image.root
        if place.image.tag is None:
            return
        descriptor, data = root, self._archive.read_document(root)
        if place in self.rebuilt:
            descriptor, data = self._rebuild(place)[root.digest]
        self._put(place, place.image.tag, descriptor, data)

    def _put(self, place: Place, selector: str, descriptor: Descriptor, data: bytes) -> None:
        self._registry.put_manifest(place.repository, selector, descriptor, data)

    def _in_parallel(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        """The results of `work` for each item, in order. The first failure, or an interruption, ends all workers."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            try:
                with held():
                    futures = [pool.submit(work, item) for item in items]
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = any(future.done() and future.exception() for future in futures)
                if failed:
                    self._stop.set()
                    for future in futures:
                        future.cancel()
                    wait(futures)
            except BaseException:
                # An interruption: what goes wrong in `work` stays in its future. Nobody waits for a registry's answers.
                self._stop.set()
                self._registry.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed:
            raise _cause(futures)
        return [future.result() for future in futures]


def _refuses_sparse(error: NetworkError) -> bool:
    return error.status == 400 or "MANIFEST_BLOB_UNKNOWN" in error.codes


def _cause(futures: Iterable[Future[_R]]) -> BaseException:
    """What went wrong first, rather than what that made the other workers do."""
    errors = [error for error in (_error(future) for future in futures) if error is not None]
    own = [error for error in errors if not isinstance(error, _Stopped)]
    return (own or errors)[0]


def _error(future: Future[_R]) -> Optional[BaseException]:
    return None if future.cancelled() else future.exception()
