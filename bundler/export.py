"""The core of create: registry -> archive."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from bundler.plan import Plan
from bundler.source import Source
from bundles.descriptor import Descriptor
from bundles.errors import ContentError, InterruptedByUser
from bundles.progress import Progress, Task
from bundles.reference import Reference
from bundles.writer import CHUNK, ArchiveWriter, BlobSink, Written

DEFAULT_WORKERS = 4


def export(
    plan: Plan, source: Source, writer: ArchiveWriter, progress: Progress, workers: int = DEFAULT_WORKERS
) -> Written:
    """Fetch every layer of `plan` into `writer`, each verified, and complete the archive.

    Raises:
        NetworkError: a layer could not be fetched, or came with wrong bytes from every place that has it. What was
            fetched stays, and the next run goes on.
        DiskFullError: the medium is full; likewise.
    """
    stop = threading.Event()
    with progress.task("download", plan.layer_size) as task:
        pool = ThreadPoolExecutor(workers, "fetch")
        try:
            fetches = [
                pool.submit(_fetch, descriptor, repositories, source, writer, task, stop)
                for descriptor, repositories in plan.layers
            ]
            for fetch in wait(fetches, return_when=FIRST_EXCEPTION).done:
                fetch.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    progress.message("completing the archive")
    return writer.finish()


def _fetch(
    descriptor: Descriptor,
    repositories: Sequence[Reference],
    source: Source,
    writer: ArchiveWriter,
    task: Task,
    stop: threading.Event,
) -> None:
    """Fetch one layer; an endpoint that sends wrong bytes is not asked for it again."""
    sink = writer.sink(descriptor)
    task.advance(sink.position)
    # What an earlier run left may itself be what is wrong: then the endpoint gets another chance.
    resumed = sink.position > 0
    for repository in repositories:
        avoid: frozenset[Endpoint] = frozenset()
        while True:
            endpoint = _receive(descriptor, repository, source, sink, task, stop, avoid)
            if sink.finish():
                return
            task.advance(-descriptor.size)
            if endpoint is not None and not resumed:
                avoid |= {endpoint}
            resumed = False


def _receive(
    descriptor: Descriptor,
    repository: Reference,
    source: Source,
    sink: BlobSink,
    task: Task,
    stop: threading.Event,
    avoid: frozenset[Endpoint],
) -> Optional[Endpoint]:
    """Fill the sink from where it stands; gives the endpoint that sent the last bytes, None when none were needed."""
    if sink.position == descriptor.size:
        return None
    buffer = memoryview(bytearray(min(CHUNK, descriptor.size)))
    with source.open_blob(repository, descriptor, sink.position, avoid) as stream:
        while sink.position < descriptor.size:
            count = stream.readinto(buffer)
            if stop.is_set():
                raise InterruptedByUser("interrupted")
            sink.write(buffer[:count])
            task.advance(count)
        return stream.endpoint
