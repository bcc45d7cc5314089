"""Images that come from files, on their way into an archive: their names, their platforms, whether they are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Optional

from bundler.definition.file_request import FileRequest
from bundler.definition.spec import ImageRequest, Spec, unite
from bundler.planning.plan import Plan
from bundler.sources.files.bundle import BundleFile
from bundler.sources.files.contents import COPY_AGAIN
from bundler.sources.files.image_file import ImageFile
from bundler.sources.files.kinds import Opener
from bundler.sources.files.source import FilesSource, Taken
from bundler.sources.source import Source
from bundler.sources.spool import Spool
from bundles.archive.manifest import TOOLS
from bundles.errors import (
    ArchiveError,
    BundleError,
    ContentError,
    DamagedArchiveError,
    IncompleteArchiveError,
    NotFoundError,
    Problem,
    UsageError,
)
from bundles.oci.descriptor import OCI_LAYER
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.listing import listed
from bundles.runtime.program import quote
from bundles.runtime.sizes import human_size

_RAW = frozenset({OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"})
_SHOWN = 20
_NOT_WHOLE = "make it anew, or give the file that has the rest, too"


@dataclasses.dataclass(frozen=True)
class FromFiles:
    """What was asked for, with the images that are in files, and what gives their bytes.

    Args:
        spec: with requests for them.
        source: files, then whatever was there before.
        taken: the images.
        notes: what people should know.
    """

    spec: Spec
    source: FilesSource
    taken: tuple[Taken, ...]
    notes: tuple[str, ...]

    @property
    def digests(self) -> dict[Reference, Digest]:
        """The digest of each image that comes from a file."""
        return {item.reference: item.held.root.digest for item in self.taken}

    @property
    def in_bundles(self) -> frozenset[Reference]:
        """The names of images from archives of ours, with which all travels that is attached to them there."""
        return frozenset(item.reference for item in self.taken if isinstance(item.file, BundleFile))

    def raw_layers(self, plan: Plan) -> Iterator[str]:
        """Say how much comes uncompressed, as Docker's classic image store saves it."""
        raw = [layer.size for layer, _ in plan.layers if layer.media_type in _RAW and self.source.has(layer)]
        if raw:
            yield (
                f"{len(raw)} layers ({human_size(sum(raw))}) are not compressed in their file: --recompress zstd makes "
                "them smaller, and changes digests"
            )

    def check(self, plan: Plan, spool: Spool) -> None:
        """Make sure that the files have every layer of their images.

        Raises:
            IncompleteArchiveError: some lack layers; all that do are named.
        """
        lost: dict[tuple[str, Optional[str]], dict[str, int]] = {}
        for layer, repository in plan.layers:
            file = self.source.owner_of(repository)
            if file and not layer.urls and not spool.has(layer.digest) and not self.source.has(layer):
                counts = lost.setdefault((file.where, file.missing()), {})
                counts[repository.familiar] = counts.get(repository.familiar, 0) + 1
        problems = [
            Problem(name, f"{count} of its layers {'is' if count == 1 else 'are'} not in `{where}`, or of another size")
            for (where, _), counts in lost.items()
            for name, count in counts.items()
        ]
        if problems:
            reasons = [reason for _, reason in lost if reason]
            raise IncompleteArchiveError(
                "; ".join(["some images are not whole", *dict.fromkeys(reasons)]),
                hint="give the base, too: bundle:BASE.tar" if reasons else _NOT_WHOLE,
                problems=problems,
            )


@contextlib.contextmanager
def from_files(spec: Spec, source: Source, opener: Opener) -> Iterator[FromFiles]:
    """Open the files that are named; what is taken from them goes in front of `source` until the block ends.

    Args:
        spec: what was asked for.
        source: gives everything else.
        opener: opens them, and is closed at the end.

    Raises:
        UsageError: a file is not there or of another kind, or lacks what was asked of it; an image has no name, or two
            have the same. All of it at once.
        NotFoundError: images are not there for the platforms.
        ArchiveError: a file is damaged.
    """
    with opener:
        opener.check(spec.files)
        files: dict[ImageFile, None] = {}
        taken: list[Taken] = []
        failures: list[tuple[str, BundleError]] = []
        for request in spec.files:
            try:
                file = opener.open(request)
                files[file] = None
                taken += _named(file, request)
            except BundleError as error:
                failures.append((request.text, _of_file(error)))
        if failures:
            raise _all_together(failures)
        taken, notes = _without_doubles(taken, spec)
        united, more = _requested(spec, taken)
        every = [note for file in files for note in file.notes]
        yield FromFiles(united, FilesSource(source, tuple(files), taken), tuple(taken), (*every, *notes, *more))


def _of_file(error: BundleError) -> BundleError:
    """Return what is wrong with content as what is wrong with a file: no registry is to blame."""
    if isinstance(error, ContentError):
        error = DamagedArchiveError(error.message, hint=error.hint, problems=error.problems)
    if isinstance(error, ArchiveError) and not error.problems:
        error.hint = error.hint or COPY_AGAIN
    return error


def _all_together(failures: Sequence[tuple[str, BundleError]]) -> BundleError:
    if len(failures) == 1:
        return failures[0][1]
    problems: list[Problem] = []
    for text, error in failures:
        problems += error.problems or [error.as_problem(text)]
    kinds = {type(error) for _, error in failures}
    kind = kinds.pop() if len(kinds) == 1 else UsageError
    return kind(f"{len(failures)} files cannot be used; nothing was written", problems=problems)


def _named(file: ImageFile, request: FileRequest) -> list[Taken]:
    """Name the images that a request wants of a file.

    Raises:
        UsageError: some have no name, there or on the command line.
    """
    taken, problems = [], []
    selected = file.selected(request)
    # A tag without a name is often there beside the whole name.
    known = {held.root.digest for held in selected if held.reference}
    for held in selected:
        reference = request.named(held.tag) or held.reference
        if reference is None and held.root.digest not in known:
            choice = request.choice or held.label or f"@{held.number}"
            shown = f"the image `{choice}`" if held.label else f"an image without a name ({held.root.digest.short})"
            typed = request.typed(choice)
            problems.append(Problem(shown, "it has no full name there", f"say it: NAME={typed}"))
        elif reference is not None:
            taken.append(Taken(reference, held, file, request))
    if problems:
        raise UsageError(f"images of `{file.where}` have no name", problems=problems)
    return taken


def _without_doubles(taken: Sequence[Taken], spec: Spec) -> tuple[list[Taken], list[str]]:
    """Take each name once.

    Raises:
        UsageError: two different images have the same name, or one is named as an image of a registry, too.
    """
    kept: dict[Reference, Taken] = {}
    roles: dict[str, Taken] = {}
    problems, notes = [], []
    said = {image.reference for image in spec.images if image.role == "frontend"}
    for item in taken:
        name, other = item.reference.familiar, kept.get(item.reference)
        role = item.held.role
        if role == "frontend" and role in spec.roles and item.reference in said:
            continue
        if role in TOOLS and role != "frontend":
            if role in spec.roles:
                continue
            first = roles.setdefault(role, item)
            if first.held.root.digest != item.held.root.digest or first.reference != item.reference:
                notes.append(f"{name} ({role}) of `{item.file.where}` is left out: {role} is from `{first.file.where}`")
                continue
        if item.reference in spec.named:
            request = item.request
            if isinstance(item.file, BundleFile) and request.takes_all and role not in TOOLS:
                notes.append(f"{name} is the one that is named, not that of `{item.file.where}`")
                continue
            step = f"leave `{name}` out, or give this one another name: NAME={request.typed(f'@{item.held.number}')}"
            if role in TOOLS:
                step = f"to take this part of the toolchain from a registry: --toolchain {quote(f'{role}={name}')}"
            problems.append(
                Problem(name, f"it is in `{request.text}`, and named besides: expected from one of them", step)
            )
        elif other is None or _is_base_of(other.file, item.file):
            kept[item.reference] = item
        elif other.held.root.digest != item.held.root.digest and not _is_base_of(item.file, other.file):
            step = f"give one of them another name: NAME={item.request.typed(item.held.label or name)}"
            if item.file.where == other.file.where:
                # Their name does not tell them apart.
                one, another = (each.request.typed(f"@{each.held.number}") for each in (other, item))
                step = f"name them one by one, one by another name: {one} NAME={another}"
            problems.append(
                Problem(
                    name,
                    f"it is {other.held.root.digest} in `{other.request.text}`, and {item.held.root.digest} in "
                    f"`{item.request.text}`",
                    step,
                )
            )
    if problems:
        raise UsageError("images from several sources have the same name", problems=problems)
    return list(kept.values()), notes


def _is_base_of(file: ImageFile, delta: ImageFile) -> bool:
    """Tell whether a delta builds on an archive, whose older images then give way to its own."""
    if not isinstance(file, BundleFile) or not isinstance(delta, BundleFile):
        return False
    return file.archive.digest in delta.bases


def _requested(spec: Spec, taken: Sequence[Taken]) -> tuple[Spec, list[str]]:
    """Ask for the images, each for those of the wanted platforms that it is there for; tools for all hosts.

    Raises:
        NotFoundError: one is there for none of them, or a tool is not there for a host.
    """
    hosts, platforms = _platforms(spec, taken)
    requests, problems, notes = [], [], []
    for item in taken:
        request = item.request
        offered = item.file.platforms_of(item.held)
        is_tool = item.held.role in TOOLS
        said = spec.hosts_said if is_tool else spec.platforms_said
        wanted = hosts if is_tool else platforms
        lacking = [platform for platform in hosts if not platform.best_of(offered)] if is_tool and offered else []
        if isinstance(item.file, BundleFile) and not said:
            wanted = tuple(offered)
        chosen = tuple(platform for platform in wanted if platform.best_of(offered))
        if lacking:
            problems.append(_tool_is_lacking(item, offered, hosts, lacking))
        elif request.platforms and offered and not is_tool:
            chosen = request.platforms
        elif offered and not chosen:
            some = _joined(itertools.islice(offered, _SHOWN))
            problems.append(
                Problem(
                    item.reference.familiar,
                    f"`{item.file.where}` has it for {_list(offered)}, and not for {_list(wanted)}",
                    f"take it for what it has: {quote(f'{request.text},platform={some}')}",
                )
            )
        elif offered and len(chosen) < len(wanted):
            rest = [platform for platform in wanted if platform not in chosen]
            notes.append(f"{item.reference.familiar} is for {_list(chosen)} only, not for {_list(rest)}")
        elif not offered and item.held.role == "base":
            notes.append(f"{item.reference.familiar} is for no platform: it travels as the artifact that it is")
        requests.append(ImageRequest(item.reference, item.held.role, chosen, origin=request.text))
    if problems:
        raise NotFoundError("images are not there for the platforms that are wanted", problems=problems)
    others = spec.from_daemon or any(image.role == "base" for image in spec.images)
    if not spec.platforms_said:
        found = dict.fromkeys(p for image in requests if image.role not in TOOLS for p in image.platforms)
        # Without images of registries the bundle is for what the files have.
        platforms = tuple(dict.fromkeys((*(platforms if others else ()), *found))) or platforms
    wanted_besides, more = _without_defaults(spec.images, taken)
    notes += more
    images = unite((*wanted_besides, *requests))
    return dataclasses.replace(spec, images=images, platforms=platforms, host_platforms=hosts), notes


def _without_defaults(images: Sequence[ImageRequest], taken: Sequence[Taken]) -> tuple[list[ImageRequest], list[str]]:
    """Leave the toolchain that nobody named out where a file has that part of it; also say so."""
    given = {item.held.role: item for item in taken if item.held.role in TOOLS and item.held.role != "frontend"}
    kept, notes = [], []
    for image in images:
        item = given.get(image.role)
        if item is None or item.reference == image.reference:
            kept.append(image)
        elif image.default:
            where = f"{image.role} is from `{item.file.where}`"
            notes.append(f"{image.reference.familiar} ({image.role}) is left out: {where}")
        else:
            # It is wanted as an image to build on, too.
            kept.append(dataclasses.replace(image, role="base"))
    return kept, notes


def _tool_is_lacking(
    item: Taken, offered: Collection[Platform], hosts: Sequence[Platform], lacking: Sequence[Platform]
) -> Problem:
    """Say that a part of the toolchain could not run on some hosts."""
    role, name = item.held.role, item.reference.familiar
    served = _joined([platform for platform in hosts if platform not in lacking] or offered)
    return Problem(
        f"{name} ({role})",
        f"`{item.file.where}` has it for {_list(offered)}, and hosts are {_list(hosts)}",
        f"--host-platform {served}; or take it from a registry: --toolchain {quote(f'{role}={name}')}",
    )


def _platforms(spec: Spec, taken: Sequence[Taken]) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """Return the platforms of hosts and of base images: what was said, else what archives of ours are for."""
    bundles = {id(item.file): item.file.archive.manifest for item in taken if isinstance(item.file, BundleFile)}
    hosts = tuple(dict.fromkeys(platform for manifest in bundles.values() for platform in manifest.host_platforms))
    return (spec.host_platforms if spec.hosts_said or not hosts else hosts), spec.platforms


def _joined(platforms: Iterable[Platform]) -> str:
    return ",".join(map(str, platforms))


def _list(platforms: Collection[Platform]) -> str:
    return listed(platforms, _SHOWN) or "no platform"
