"""Layers that `create` makes itself: of images in the local Docker, and with --recompress. With their options.

Their sizes must be known before the archive is laid out, so they wait in a directory beside it until it is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.plan import Plan
from bundler.sources.source import Source
from bundler.sources.spool import Spool, SpooledSource
from bundler.writing.contents import Contents
from bundler.writing.fetch import export
from bundler.writing.previous import (
    Leftover,
    LeftoverSource,
    discard,
    set_aside,
)
from bundler.writing.writer import ArchiveWriter, Written
from bundles.errors import NotFoundError
from bundles.oci.platform import Platform
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size

if TYPE_CHECKING:
    from bundler.planning.recompress import Recompressed

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Made:
    """How many layers were made here, their bytes, and what recompressing changed, when it was asked for."""

    count: int
    size: int
    recompressed: Optional[Recompressed]

    def to_json(self) -> dict[str, Any]:
        """Keys of the document of `create`: madeSize, the bytes of those layers; recompressed, or null."""
        changed = self.recompressed.to_json() if self.recompressed else None
        return {"madeSize": self.size, "recompressed": changed}


def take_local(
    spec: Spec, source: Source, spool: Spool, threads: int, progress: Progress
) -> tuple[Spec, SpooledSource]:
    """Read what is wanted of the local Docker: the spec with those images too, and a source that has them.

    Raises:
        HostError: Docker does not answer.
        NetworkError: it does not have an image, or not for a wanted platform; or what it has is damaged.
    """
    spooled = SpooledSource(source, spool)
    if not spec.from_daemon:
        return spec, spooled
    from bundler.sources.docker_engine import platforms, read_images
    from bundler.sources.docker_save import OCI_ZSTD_LAYER, ZSTD_NOTE
    from bundler.sources.zstd import DEFAULT_LEVEL, Compression

    settings = Compression(spec.zstd_level or DEFAULT_LEVEL, threads)
    wanted = list(spec.images)
    names = ", ".join(item.reference.familiar for item in spec.from_daemon)
    progress.message(f"reading {names} from the local Docker")
    for item, local in zip(spec.from_daemon, read_images(spec.from_daemon, spool, settings)):
        spooled.add(item.reference, local)
        offered = platforms(local)
        chosen = tuple(platform for platform in spec.platforms if platform.best_of(offered))
        if not chosen:
            raise NotFoundError(
                f"the local Docker has `{item.reference.familiar}` for {_list(offered)}, and not for "
                f"{_list(spec.platforms)}",
                hint="choose platforms with --platform, or build it for these",
            )
        missing = [platform for platform in spec.platforms if platform not in chosen]
        if missing:
            progress.message(f"note: {item.reference.familiar} is for {_list(chosen)} only, not for {_list(missing)}")
        wanted.append(ImageRequest(item.reference, "base", chosen))
    if any(OCI_ZSTD_LAYER.encode() in data for data in spooled.documents):
        progress.message(f"note: {ZSTD_NOTE}")
    return dataclasses.replace(spec, images=tuple(wanted)), spooled


def make_smaller(
    spec: Spec, plan: Plan, source: SpooledSource, *, threads: int, workers: int, progress: Progress
) -> tuple[Plan, Made]:
    """The plan, with zstd layers when the spec asks for them, and which of its layers are made here.

    It also says which images are local.

    Raises:
        NetworkError: a layer cannot be had, or its content is not what its image says.
    """
    result = None
    if spec.recompress:
        from bundler.planning.recompress import recompress
        from bundler.sources.zstd import DEFAULT_LEVEL, Compression

        result = recompress(plan, source, Compression(spec.zstd_level or DEFAULT_LEVEL, threads), progress, workers)
        plan = dataclasses.replace(result.plan, notes=(*plan.notes, *result.notes()))
    plan = dataclasses.replace(plan, local=frozenset(item.reference for item in spec.from_daemon))
    sizes = [layer.size for layer, _ in plan.layers if source.spool.has(layer.digest)]
    return plan, Made(len(sizes), sum(sizes), result)


def _list(platforms: Sequence[Platform]) -> str:
    return ", ".join(map(str, platforms)) or "no platform"


def _write(
    plan: Plan,
    source: Source,
    contents: Contents,
    *,
    target: Path,
    part_size: Optional[int],
    workers: int,
    progress: Progress,
) -> Written:
    """Fetch and write; what an interrupted run for another bundle has left is used where it fits."""
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
        writer = stack.enter_context(ArchiveWriter(target, contents, part_size))
        written = export(plan, source, writer, progress, workers)
    discard(target)
    return written
