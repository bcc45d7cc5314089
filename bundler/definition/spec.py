"""What is wanted in a bundle: the command line and bundle.toml as one value."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional, Union

from bundler.definition.build import Build
from bundler.definition.file_request import KINDS, FileRequest, is_platform
from bundler.definition.oci_layout import CACHES, LayoutContent, read_cache
from bundler.definition.record import Record, pins_of
from bundles.archive.manifest import TOOLS, check_name
from bundles.dockerfile.images import DEFAULT_SCANNER
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference, registry_name
from bundles.runtime.program import own_command, quote

TOOLCHAIN = {
    "registry": "registry:3",
    "buildkit": "moby/buildkit:buildx-stable-1",
    "buildx": "docker/buildx-bin:latest",
    "binfmt": "tonistiigi/binfmt:latest",
    "frontend": "docker/dockerfile:1",
    "scanner": DEFAULT_SCANNER,
    "python": "python:3-slim",
}
# Taken along only when they are asked for.
ON_REQUEST = frozenset({"scanner"})
DEFAULT_PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
_PLATFORM = "platform="
_DEFAULT_HOSTS = (Platform("linux", "amd64"),)


@dataclasses.dataclass(frozen=True)
class Compression:
    """How layers become zstd: `level` from 1 (fast) to 19 (small), `threads` the cores for one layer, 0 for all."""

    level: int = 9
    threads: int = 0


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """One image to bundle, for these platforms; `merge` has the source of each platform when there are several.

    An `optional` one is left out, with a note, where it does not exist or costs too much (bundler/planning/resolve.py).
    `origin` is what was written for the file that it comes from; empty for one of a registry. A `default` one is a part
    of the toolchain that nobody named.
    """

    reference: Reference
    role: str
    platforms: tuple[Platform, ...]
    merge: tuple[tuple[Platform, Reference], ...] = ()
    optional: bool = False
    origin: str = ""
    default: bool = False


@dataclasses.dataclass(frozen=True)
class FromDaemon:
    """An image to take from the local Docker: the name it gets, and the local images, one for each platform."""

    reference: Reference
    sources: tuple[Reference, ...]

    @classmethod
    def parse(cls, text: str) -> FromDaemon:
        """Read `IMAGE`, or `NAME=IMAGE,IMAGE` for images of one platform each that become one.

        Raises:
            UsageError: anything else.
        """
        name, equals, images = text.rpartition("=")
        sources = tuple(Reference.parse(image) for image in images.split(",") if image.strip())
        if not sources or (equals and not name) or (not equals and len(sources) > 1):
            raise UsageError(
                f"`{text}` does not say what to take from Docker: expected IMAGE, or NAME=IMAGE,IMAGE such as "
                "app:1=app-amd64:1,app-arm64:1"
            )
        target = Reference.parse(name) if equals else sources[0]
        if target.digest is not None:
            raise UsageError(f"`{target.familiar}` has a digest: expected a name with a tag")
        return cls(target, sources)


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that `bundle create` needs to know. `mirrors` maps a registry to the hosts that are tried in its stead.

    `recompress` says that gzip layers of base images become zstd; `zstd_level` is None for the default.
    `foreign_layers` allows to fetch layers that are in no registry from the addresses that their manifests give, which
    makes ordinary layers of them. `layouts` has what of `images` is in OCI image layouts on this machine: the tapes and
    caches of `records`, and other caches.

    `files` hold further images, whose names are known once they are open (bundler/planning/files.py). No image of a
    name in `named` is taken from them, nor one for a role in `roles`: what is to be there was said. `platforms_said`
    and `hosts_said` tell whether the platforms were.
    """

    name: str
    platforms: tuple[Platform, ...]
    host_platforms: tuple[Platform, ...]
    images: tuple[ImageRequest, ...]
    mirrors: Mapping[str, tuple[str, ...]]
    attestations: bool
    from_daemon: tuple[FromDaemon, ...] = ()
    recompress: bool = False
    zstd_level: Optional[int] = None
    foreign_layers: bool = False
    records: tuple[Record, ...] = ()
    layouts: Mapping[Reference, LayoutContent] = dataclasses.field(default_factory=dict)
    files: tuple[FileRequest, ...] = ()
    named: frozenset[Reference] = frozenset()
    roles: frozenset[str] = frozenset()
    platforms_said: bool = True
    hosts_said: bool = True

    @property
    def asked(self) -> tuple[Reference, ...]:
        """What registries are asked for: a merged image is its sources, and what is in layouts is here."""
        sources = [reference for item in self.images for _, reference in item.merge]
        names = [item.reference for item in self.images if not item.merge and item.reference not in self.layouts]
        return (*names, *sources)


@dataclasses.dataclass(frozen=True)
class Definition:
    """What one place says (bundle.toml or the command line); None and empty mean that it does not say.

    `image_platforms` are the platforms of those images that have their own. `toolchain` maps a role to a reference, or
    to None to leave it out. `dockerfiles` are to be looked through, but for what `exclude` fits, and `found` is what
    was found there. `records` are directories that `bundle record` wrote, `caches` build caches: a reference each, or
    the directory of an OCI image layout. `builds` are what `bundle record` records. `files` have images, too.
    """

    name: Optional[str] = None
    platforms: tuple[Platform, ...] = ()
    host_platforms: tuple[Platform, ...] = ()
    images: tuple[Reference, ...] = ()
    image_platforms: Mapping[Reference, tuple[Platform, ...]] = dataclasses.field(default_factory=dict)
    merge: Mapping[Reference, tuple[tuple[Platform, Reference], ...]] = dataclasses.field(default_factory=dict)
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    toolchain: Mapping[str, Optional[Reference]] = dataclasses.field(default_factory=dict)
    attestations: Optional[bool] = None
    from_daemon: tuple[FromDaemon, ...] = ()
    recompress: Optional[bool] = None
    zstd_level: Optional[int] = None
    foreign_layers: Optional[bool] = None
    with_python: bool = False
    dockerfiles: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    build_args: Mapping[str, str] = dataclasses.field(default_factory=dict)
    found: tuple[ImageRequest, ...] = ()
    records: tuple[Path, ...] = ()
    caches: tuple[Union[Reference, Path], ...] = ()
    builds: tuple[Build, ...] = ()
    files: tuple[FileRequest, ...] = ()


def read_images(
    texts: Iterable[str], directory: Path
) -> tuple[tuple[Reference, ...], dict[Reference, tuple[Platform, ...]], tuple[FileRequest, ...]]:
    """Read `IMAGE` or `IMAGE,platform=P[,P]`: the images, the platforms of those that have their own, and files.

    Args:
        texts: what was written.
        directory: the one that relative paths of files are seen from.

    Raises:
        UsageError: anything else.
    """
    own: dict[Reference, tuple[Platform, ...]] = {}
    references, files = [], []
    for text in texts:
        if is_platform(text) or text.startswith(_PLATFORM):
            raise UsageError(
                f"`{text}` is a platform: expected an image",
                hint="in PowerShell, what has commas in it stands in quotes: --platform 'linux/amd64,linux/arm64'",
            )
        file = FileRequest.parse(text, directory)
        if file is not None:
            files.append(file)
            continue
        image, comma, rest = text.partition(",")
        if comma and not rest.startswith(_PLATFORM):
            raise UsageError(f"`{text}` is not an image: expected IMAGE, or IMAGE,platform=linux/amd64")
        try:
            reference = Reference.parse(image)
        except UsageError as error:
            raise UsageError(error.message, hint=_files_hint(image)) from None
        references.append(reference)
        if comma:
            platforms = Platform.parse_list(rest[len(_PLATFORM) :].replace(f",{_PLATFORM}", ","))
            if not platforms:
                raise UsageError(f"`{text}` names no platform: expected such as {image},platform=linux/amd64")
            own[reference] = tuple(dict.fromkeys((*own.get(reference, ()), *platforms)))
    return tuple(references), own, tuple(files)


def _files_hint(text: str) -> Optional[str]:
    """Say how a file is named, where something that is no image looks like one; and an image that has a scheme."""
    if "://" in text:
        return f"an image has no scheme: {quote(text.rpartition('://')[2])}"
    if not text.startswith((".", "/", "~")) and "=" not in text:
        return None
    return f"a file is named with what it is: {', '.join(f'{kind}:PATH' for kind in KINDS)}"


def mirrored(text: str) -> str:
    """Return the registry that a mirror's key means: `docker.io`, `INDEX.docker.io` or `https://docker.io/v2/`.

    Raises:
        UsageError: it names a repository, too.
    """
    path = text.strip().rpartition("://")[2].partition("/")[2].strip("/")
    name = registry_name(text.strip())
    if not name or path not in ("", "v1", "v2"):
        raise UsageError(
            f"`{text}` is not a registry that can have a mirror: expected HOST[:PORT], such as {name or 'docker.io'}"
        )
    return name


def idle_mirrors(mirrors: Iterable[str], references: Iterable[Reference]) -> list[str]:
    """Say which mirrors stand for a registry of which nothing is asked for: the name is likely mistyped.

    Args:
        mirrors: the registries that have some.
        references: what is asked for.
    """
    asked = list(dict.fromkeys(registry_name(reference.registry) for reference in references))
    notes = []
    for registry in mirrors:
        if registry not in asked:
            close = difflib.get_close_matches(registry, asked, 1)
            meant = f": did you mean `{close[0]}`?" if close else ""
            notes.append(f"the mirror for `{registry}` is not used, no image comes from there{meant}")
    return notes


def platforms_of(file: Definition, line: Definition) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """Return the platforms of base images and of hosts: the command line's, else bundle.toml's, else the defaults."""
    platforms = line.platforms or file.platforms or DEFAULT_PLATFORMS
    return platforms, line.host_platforms or file.host_platforms or _DEFAULT_HOSTS


def combine(file: Definition, line: Definition, default_name: str, records: Sequence[Record] = ()) -> Spec:
    """Make one Spec of bundle.toml and the command line: images add up, everything else on the command line wins.

    `records` are those that both name.

    Raises:
        UsageError: nothing to bundle.
    """
    platforms, hosts = platforms_of(file, line)
    files = (*file.files, *line.files)
    toolchain = {role: Reference.parse(text) for role, text in TOOLCHAIN.items() if role not in ON_REQUEST}
    said: dict[str, Optional[Reference]] = {**file.toolchain, **line.toolchain}
    if any(item.kind == "bundle" and item.takes_all for item in files):
        # An archive of ours brings the toolchain that it has, and goes on without what it does without.
        toolchain = {"python": toolchain["python"]} if line.with_python or records else {}
    chosen: dict[str, Optional[Reference]] = {**toolchain, **said}
    # What a record has is replayed by a program of this one, which needs Python.
    asked = line.with_python or "python" in file.toolchain or "python" in line.toolchain or bool(records)
    wanted = [
        ImageRequest(reference, role, hosts, optional=role == "python" and not asked, default=role not in said)
        for role, reference in chosen.items()
        if reference
    ]
    bases = dict.fromkeys((*file.images, *line.images))
    for target, sources in file.merge.items():
        if target in bases:
            raise UsageError(f"`{target.familiar}` is both an image and the target of a merge: name it once")
        wanted.append(ImageRequest(target, "base", tuple(platform for platform, _ in sources), sources))
    own = {**file.image_platforms, **line.image_platforms}
    wanted += [ImageRequest(reference, "base", own.get(reference, platforms)) for reference in bases]
    local = (*file.from_daemon, *line.from_daemon)
    # What says its platforms itself is not wanted for those too that Dockerfiles are built for.
    given = {*file.merge, *own, *(item.reference for item in local)}
    wanted += [item for item in line.found if item.reference not in given]
    wanted += _recorded(records, hosts)
    if records and not chosen.get("python"):
        raise UsageError(
            "there is a record, and the python image is left out: what was recorded is replayed by a program in it",
            hint="do not leave it out (--without python, or python = false in [toolchain]), or leave the record out",
        )
    layouts, caches = _caches((*file.caches, *line.caches), records)
    wanted += caches
    names = [*(item.reference for item in wanted), *(item.reference for item in local)]
    for reference in (item.reference for item in local):
        if names.count(reference) > 1:
            raise UsageError(f"`{reference.familiar}` is named twice: expected from Docker or from a registry, once")
    # Without bundle.toml a toolchain alone is a slip; with one it is a choice.
    if not files and (not names or (file == Definition() and not local and all(item.role in TOOLS for item in wanted))):
        raise UsageError("nothing to bundle: no image is named", hint=own_command("create debian:12 -o offline.tar"))
    # Docker 29 pulls the attestations with an image, and no image whose index names some that are not there.
    attestations = line.attestations if line.attestations is not None else file.attestations is not False
    name = line.name or file.name or default_name
    check_name(name)
    recompress = line.recompress if line.recompress is not None else bool(file.recompress)
    return Spec(
        name,
        platforms,
        hosts,
        unite(wanted),
        {**file.mirrors, **line.mirrors},
        attestations,
        local,
        recompress,
        line.zstd_level or file.zstd_level,
        bool(file.foreign_layers if line.foreign_layers is None else line.foreign_layers),
        tuple(records),
        layouts,
        files,
        frozenset((*bases, *file.merge, *(item.reference for item in local))),
        frozenset(said),
        bool(line.platforms or file.platforms),
        bool(line.host_platforms or file.host_platforms),
    )


def _recorded(records: Sequence[Record], hosts: tuple[Platform, ...]) -> Iterator[ImageRequest]:
    """Ask for what builds took: their images, and what the network answered."""
    pins = pins_of(records)
    for image in (image for record in records for image in record.recorded.images):
        reference = image.reference
        if pins.get(reference, image.digest) != image.digest:
            # The name stands for another one already: this one is there by its digest.
            reference = Reference(reference.registry, reference.repository, None, image.digest)
        # A frontend has no platforms there: it runs on the host.
        yield ImageRequest(reference, "base" if image.platforms else "frontend", image.platforms or hosts)
    yield from (ImageRequest(reference, "tape", ()) for record in records for reference in record.tapes)


def _caches(
    named: Iterable[Union[Reference, Path]], records: Sequence[Record]
) -> tuple[dict[Reference, LayoutContent], list[ImageRequest]]:
    """Return what is in layouts, and the requests for all caches.

    Raises:
        UsageError: two have one name, or one is not what it should be.
    """
    layouts: dict[Reference, LayoutContent] = {}
    requests = []
    for contents in (*(record.contents for record in records), *(read_cache(p) for p in named if isinstance(p, Path))):
        for reference, content in contents.items():
            other = layouts.setdefault(reference, content)
            if other.directory != content.directory:
                raise UsageError(
                    f"`{other.directory}` and `{content.directory}` both have `{reference.familiar}`: expected names "
                    "that differ",
                    hint="record one of them anew with another --name, or give the directory another name",
                )
            if reference.repository == CACHES:
                requests.append(ImageRequest(reference, "cache", ()))
    return layouts, [*requests, *(ImageRequest(item, "cache", ()) for item in named if isinstance(item, Reference))]


def unite(wanted: Iterable[ImageRequest]) -> tuple[ImageRequest, ...]:
    """List each reference once: an image of the toolchain that is also a base image gets the platforms of both.

    One that is the target of a merge gets the merge and its platforms: nothing else of that name is bundled.
    """
    united: dict[Reference, ImageRequest] = {}
    for item in wanted:
        known = united.get(item.reference)
        merge = item.merge or (known.merge if known else ())
        platforms = tuple(dict.fromkeys((*known.platforms, *item.platforms))) if known else item.platforms
        if merge:
            platforms = tuple(platform for platform, _ in merge)
        optional = item.optional and (known is None or known.optional)
        united[item.reference] = dataclasses.replace(
            known or item,
            platforms=platforms,
            merge=merge,
            optional=optional,
            default=item.default and (known is None or known.default),
            origin=item.origin or (known.origin if known else ""),
        )
    return tuple(united.values())
