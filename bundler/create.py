"""Registry -> archive: everything that is asked for is resolved, laid out, fetched and written.

with Transport(settings) as transport:
    source = RegistrySource(transport, spec.mirrors)
    created = create(spec, Path("offline.tar"), source, Options(), progress)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from bundler.definition.spec import Compression, Spec
from bundler.planning.delta import Known, subtract
from bundler.planning.files import FromFiles, from_files
from bundler.planning.lockfile import Lock
from bundler.planning.plan import Plan
from bundler.planning.records import check, complete, with_layouts
from bundler.planning.referrers import with_referrers
from bundler.planning.resolve import resolve
from bundler.sources.files.contents import files_of
from bundler.sources.files.kinds import Opener, Reading
from bundler.sources.pins import PinnedSource
from bundler.sources.source import Source
from bundler.sources.spool import Spool, SpooledSource, spool_beside
from bundler.writing.contents import Contents, compose
from bundler.writing.fetch import DEFAULT_WORKERS, export
from bundler.writing.previous import Leftover, LeftoverSource, discard, set_aside
from bundler.writing.program import program
from bundler.writing.reuse import reuse_archive
from bundler.writing.writer import ArchiveWriter, Written, check_directory, check_limit
from bundles.archive.signature import check_key, sign
from bundles.errors import IncompleteArchiveError, UsageError, reason
from bundles.runtime.filesystem import FAT_LIMIT
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size

if TYPE_CHECKING:
    from bundler.planning.recompress import Recompressed


_ONE_BYTE_MORE = "parts of 4 GiB are one byte too large for FAT32, whose files end at 4,294,967,295: --split 4000MiB"


@dataclasses.dataclass(frozen=True)
class Options:
    """How an archive is made of what is asked for.

    Args:
        lock: what references stand for; None to ask the registries.
        bases: what the host has already, which is left out.
        referrers: take along what is attached to the images.
        part_size: the most bytes that a part may have; None for one file.
        key: the SSH key that signs.
        workers: downloads at once.
        threads: how many cores compress one layer; 0 for all.
        reading: how archives of ours are read that images come from.
        program: the zip behind the tar.
    """

    lock: Optional[Lock] = None
    bases: Sequence[Known] = ()
    referrers: bool = False
    part_size: Optional[int] = None
    key: Optional[Path] = None
    workers: int = DEFAULT_WORKERS
    threads: int = 0
    reading: Reading = dataclasses.field(default_factory=Reading)
    program: bytes = dataclasses.field(default_factory=program)


@dataclasses.dataclass(frozen=True)
class Made:
    """How many layers were made here, their bytes, and what recompressing changed, when it was asked for."""

    count: int
    size: int
    recompressed: Optional[Recompressed]


@dataclasses.dataclass(frozen=True)
class Planned:
    """What an archive is to be: what goes in, where it stands, and which of its layers are made here.

    `copied` are the layers that come from files: their number and their bytes.
    """

    plan: Plan
    contents: Contents
    made: Made
    copied: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Created(Planned):
    """An archive that is there."""

    written: Written


def create(spec: Spec, target: Path, source: Source, options: Options, progress: Progress) -> Created:
    """Write the archive `target`; what an interrupted run has left is used.

    Raises:
        UsageError: it cannot be written there, or the lock does not fit what is asked for.
        NetworkError: something cannot be had; what was fetched stays, and the next run goes on.
        DiskFullError: there is no room for it; likewise.
        HostError: the local Docker does not answer.

    After any error `source` may be cancelled.
    """
    check_directory(target)
    _check_target(spec, target)
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(spool_beside(target, spec, progress))
        files = stack.enter_context(from_files(spec, source, _opener(spec, spool, options, progress)))
        planned, local = _plan(files, spool, options, progress)
        contents = planned.contents
        if options.key:
            contents = dataclasses.replace(contents, signature=sign(contents.manifest_bytes, options.key))
        planned = dataclasses.replace(planned, contents=contents)
        written = _write(planned, local, target, options, progress)
    return Created(planned.plan, planned.contents, planned.made, planned.copied, written)


def plan(spec: Spec, target: Path, source: Source, options: Options, progress: Progress) -> Planned:
    """Find out what `create` would write; nothing is written, and nobody is asked for the key's passphrase.

    Raises:
        UsageError, NetworkError, HostError: as `create` does.
    """
    check_directory(target)
    _check_target(spec, target)
    spool = Spool(None)
    with from_files(spec, source, _opener(spec, spool, options, progress)) as files:
        planned, _ = _plan(files, spool, options, progress)
    check_limit(target, planned.contents.layout, options.part_size)
    return planned


def _check_target(spec: Spec, target: Path) -> None:
    """Raise UsageError when the archive would take the place of a file that images come from, or of its parts."""
    for request in spec.files:
        if _files(target) & _files(request.path):
            raise UsageError(
                f"`{request.text}` is what `{target}` would replace: expected another file",
                hint="choose another place with -o FILE",
            )


def _files(path: Path) -> set[Path]:
    try:
        parts = files_of(path)
    except (IncompleteArchiveError, PermissionError):
        parts = ()
    try:
        return {path.resolve(), *(part.resolve() for part in parts)}
    except (OSError, RuntimeError) as error:
        # Before Python 3.13 a circle of links is a RuntimeError.
        why = reason(error) if isinstance(error, OSError) else "its symbolic links lead in a circle"
        raise UsageError(f"`{path}` cannot be used: {why}", hint="give the path of the file itself") from None


def _opener(spec: Spec, spool: Spool, options: Options, progress: Progress) -> Opener:
    return Opener(spool, _compression(spec, options), options.reading, progress)


def _compression(spec: Spec, options: Options) -> Compression:
    return Compression(spec.zstd_level or Compression.level, options.threads)


def _plan(files: FromFiles, spool: Spool, options: Options, progress: Progress) -> tuple[Planned, SpooledSource]:
    """Resolve and lay out; also give the source that has what is made here, too."""
    if options.key:
        check_key(options.key)
    spec, source = files.spec, files.source
    python_is_asked_for = any(image.role == "python" and not image.optional for image in spec.images)
    compression = _compression(spec, options)
    remote = with_layouts(source, spec)
    if options.lock:
        options.lock.check_files(files.digests)
        spec, remote = options.lock.apply(spec), PinnedSource(remote, options.lock.pins, options.lock.upgrade)
    local = SpooledSource(remote, spool)
    if spec.from_daemon:
        from bundler.sources.docker_engine import take_local

        spec = take_local(spec, local, compression, progress)
    progress.message(f"resolving {len(spec.images)} images")
    plan = resolve(spec, local)
    if options.lock:
        options.lock.check(plan)
    if spec.records:
        complete(plan, spec.records, local, progress)
        plan = plan.and_also((), check(plan, spec.records, recompressed=spec.recompress))
    if spec.foreign_layers:
        from bundler.planning.foreign_layers import with_ordinary_layers

        plan = with_ordinary_layers(plan, local)
    recompressed = None
    if spec.recompress:
        from bundler.planning.recompress import recompress

        recompressed = recompress(plan, local, compression, progress, options.workers)
        plan = dataclasses.replace(recompressed.plan, notes=(*plan.notes, *recompressed.notes()))
    sizes = [layer.size for layer, _ in plan.layers if local.spool.has(layer.digest)]
    if options.referrers:
        plan = with_referrers(plan, source)
    elif files.in_bundles:
        plan = with_referrers(plan, source, files.in_bundles)
    plan = dataclasses.replace(plan, notes=(*files.notes, *plan.notes, *files.raw_layers(plan), *source.notes))
    if options.bases:
        plan = subtract(plan, options.bases, with_python=python_is_asked_for)
    files.check(plan, spool)
    copied = [layer.size for layer, _ in plan.layers if source.has(layer) and not spool.has(layer.digest)]
    if options.part_size == FAT_LIMIT + 1:
        plan = dataclasses.replace(plan, notes=(*plan.notes, _ONE_BYTE_MORE))
    for note in plan.notes:
        progress.message(f"note: {note}")
    contents = compose(spec, plan, options.program, signed=options.key is not None)
    made = Made(len(sizes), sum(sizes), recompressed)
    return Planned(plan, contents, made, (len(copied), sum(copied))), local


def _write(planned: Planned, source: Source, target: Path, options: Options, progress: Progress) -> Written:
    """Fetch and write; what an interrupted run for another bundle has left is used where it fits."""
    plan, contents = planned.plan, planned.contents
    existing = reuse_archive(target, contents, options.part_size, progress)
    if existing:
        progress.message(f"note: {target} is this very bundle already, every byte of it right: nothing was written")
        discard(target)
        return existing
    lost = set_aside(target, contents.digest, contents.layout.size)
    if lost:
        what = f"{human_size(lost)} that an interrupted run for another bundle has left"
        progress.message(f"note: {what} are replaced: there is no room for both")
    with contextlib.ExitStack() as stack:
        leftover = Leftover.of(target)
        if leftover:
            stack.enter_context(leftover)
            kept = leftover.size_of(layer for layer, _ in plan.layers)
            if kept:
                progress.message(f"note: an interrupted run for another bundle has left {human_size(kept)} of this one")
            source = LeftoverSource(source, leftover)
        writer = stack.enter_context(ArchiveWriter(target, contents, options.part_size))
        written = export(plan, source, writer, progress, options.workers)
    discard(target)
    return written
