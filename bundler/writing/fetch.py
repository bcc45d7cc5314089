"""The core of create: registry -> archive."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Optional

from bundler.planning.plan import Plan
from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobRequest, Source
from bundler.writing.writer import CHUNK, ArchiveWriter, BlobSink, Written
from bundles.errors import ContentError, InterruptedByUser
from bundles.oci.descriptor import Descriptor
from bundles.oci.reference import Reference
from bundles.runtime.progress import Progress, Task
from bundles.runtime.workers import in_parallel

DEFAULT_WORKERS = 4
Layer = tuple[Descriptor, Reference]


def export(
    plan: Plan, source: Source, writer: ArchiveWriter, progress: Progress, workers: int = DEFAULT_WORKERS
) -> Written:
    """Fetch every layer of `plan` into `writer`, each verified, and complete the archive.

    Raises:
        NetworkError: a layer could not be fetched, or came with wrong bytes from every place that has it. What was
            fetched stays, and the next run goes on.
        DiskFullError: the medium is full; likewise.

    After any error `source` is cancelled.
    """
    with progress.task("download", plan.layer_size) as task:
        fetching = _Fetching(source, writer, task)
        in_parallel(lambda layer: fetching.fetch(*layer), in_order(plan.layers, workers), workers, fetching.cancel)
    progress.message("completing the archive")
    return writer.finish()


def in_order(layers: Sequence[Layer], workers: int) -> list[Layer]:
    """Order layers as they are to begin: as in the archive, but a large one before it could be the last to end.

    The archive's order keeps the hash of the whole file close behind the workers. A layer that is left to the end would
    keep one of them busy, over one connection, while the others have nothing to do: it is begun as soon as it is as
    large as each worker's share of what is left.
    """
    by_size = sorted(range(len(layers)), key=lambda number: layers[number][0].size)
    left = sum(descriptor.size for descriptor, _ in layers)
    order: dict[int, None] = {}
    for number in range(len(layers)):
        while number not in order:
            while by_size[-1] in order:
                by_size.pop()
            largest = by_size[-1]
            chosen = largest if layers[largest][0].size * workers >= left else number
            order[chosen] = None
            left -= layers[chosen][0].size
    return [layers[number] for number in order]


class _Fetching:
    """What the workers share."""

    def __init__(self, source: Source, writer: ArchiveWriter, task: Task) -> None:
        self._source, self._writer, self._task = source, writer, task
        self._stop = threading.Event()

    def cancel(self) -> None:
        """End the workers: at their next chunk, and at once those that wait for the network."""
        self._stop.set()
        self._source.cancel()

    def fetch(self, descriptor: Descriptor, repository: Reference) -> None:
        """Fetch one layer; an endpoint that sends wrong bytes is not asked for it again.

        Raises:
            ContentError: there is nobody else to ask.
        """
        sink = self._writer.sink(descriptor, self._stop.is_set)
        if self._stop.is_set():
            raise InterruptedByUser("interrupted")
        self._task.advance(sink.position)
        # What an earlier run left may itself be what is wrong: then the endpoint gets another chance.
        resumed = sink.position > 0
        avoid: frozenset[Endpoint] = frozenset()
        while True:
            endpoint = self._receive(descriptor, repository, sink, avoid)
            if sink.finish():
                return
            self._task.advance(-descriptor.size)
            if not resumed:
                if endpoint is None or endpoint in avoid:
                    raise ContentError(f"{_what(descriptor, repository)} has other bytes than its digest says")
                avoid |= {endpoint}
            resumed = False

    def _receive(
        self, descriptor: Descriptor, repository: Reference, sink: BlobSink, avoid: frozenset[Endpoint]
    ) -> Optional[Endpoint]:
        """Fill the sink from where it stands; gives who sent the last bytes, None when none were needed."""
        if sink.position == descriptor.size:
            return None
        buffer = memoryview(bytearray(min(CHUNK, descriptor.size)))
        with self._source.open_blob(BlobRequest(repository, descriptor, sink.position, avoid)) as stream:
            while sink.position < descriptor.size:
                count = stream.readinto(buffer)
                if self._stop.is_set():
                    raise InterruptedByUser("interrupted")
                if not count:
                    what = _what(descriptor, repository)
                    raise ContentError(f"{what} ends at byte {sink.position}: expected {descriptor.size} bytes")
                sink.write(buffer[:count])
                self._task.advance(count)
            return stream.endpoint


def _what(descriptor: Descriptor, repository: Reference) -> str:
    return f"the blob {descriptor.digest} of `{repository.familiar}`"
