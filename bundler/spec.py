"""What is wanted in a bundle: the command line and bundle.toml as one value."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.manifest import check_name
from bundles.platform import Platform
from bundles.reference import Reference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOOLCHAIN = {
    "registry": "registry:3",
    "buildkit": "moby/buildkit:buildx-stable-1",
    "buildx": "docker/buildx-bin:latest",
    "binfmt": "tonistiigi/binfmt:latest",
    "frontend": "docker/dockerfile:1",
    "python": "python:3-slim",
}
_DEFAULT_PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
_DEFAULT_HOSTS = (Platform("linux", "amd64"),)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image to bundle, for these platforms; `merge` has the source of each platform when there are several.

    An `optional` one is left out, with a note, where it does not exist or costs too much: see `bundler.resolve`.
    """

    reference: Reference
    role: str
    platforms: tuple[Platform, ...]
    merge: tuple[tuple[Platform, Reference], ...] = ()
    optional: bool = False


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
    """

    name: str
    platforms: tuple[Platform, ...]
    host_platforms: tuple[Platform, ...]
    images: tuple[Wanted, ...]
    mirrors: Mapping[str, tuple[str, ...]]
    attestations: bool
    from_daemon: tuple[FromDaemon, ...] = ()
    recompress: bool = False
    zstd_level: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Definition:
    """What one place says (bundle.toml or the command line); None and empty mean that it does not say.

    `toolchain` maps a role to a reference, or to None to leave it out. `dockerfiles` are to be looked through, and
    `found` is what was found there.
    """

    name: Optional[str] = None
    platforms: tuple[Platform, ...] = ()
    host_platforms: tuple[Platform, ...] = ()
    images: tuple[Reference, ...] = ()
    merge: Mapping[Reference, tuple[tuple[Platform, Reference], ...]] = dataclasses.field(default_factory=dict)
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    toolchain: Mapping[str, Optional[Reference]] = dataclasses.field(default_factory=dict)
    attestations: Optional[bool] = None
    from_daemon: tuple[FromDaemon, ...] = ()
    recompress: Optional[bool] = None
    zstd_level: Optional[int] = None
    with_python: bool = False
    dockerfiles: tuple[Path, ...] = ()
    build_args: Mapping[str, str] = dataclasses.field(default_factory=dict)
    found: tuple[Wanted, ...] = ()


def platforms_of(file: Definition, line: Definition) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """The platforms of the base images and of the hosts: the command line's, else bundle.toml's, else the defaults."""
    platforms = line.platforms or file.platforms or _DEFAULT_PLATFORMS
    return platforms, line.host_platforms or file.host_platforms or _DEFAULT_HOSTS


def combine(file: Definition, line: Definition, default_name: str) -> Spec:
    """One Spec from bundle.toml and the command line: images add up, everything else on the command line wins.

    Raises:
        UsageError: nothing to bundle.
    """
    platforms, hosts = platforms_of(file, line)
    toolchain = {role: Reference.parse(text) for role, text in TOOLCHAIN.items()}
    chosen: dict[str, Optional[Reference]] = {**toolchain, **file.toolchain, **line.toolchain}
    asked = line.with_python or "python" in file.toolchain or "python" in line.toolchain
    wanted = [
        Wanted(reference, role, hosts, optional=role == "python" and not asked)
        for role, reference in chosen.items()
        if reference
    ]
    bases = dict.fromkeys((*file.images, *line.images))
    for target, sources in file.merge.items():
        if target in bases:
            raise UsageError(f"`{target.familiar}` is both an image and the target of a merge: name it once")
        wanted.append(Wanted(target, "base", tuple(platform for platform, _ in sources), sources))
    wanted += [Wanted(reference, "base", platforms) for reference in bases]
    local = (*file.from_daemon, *line.from_daemon)
    given = {*file.merge, *(item.reference for item in local)}
    wanted += [item for item in line.found if item.reference not in given]
    names = [*(item.reference for item in wanted), *(item.reference for item in local)]
    for reference in (item.reference for item in local):
        if names.count(reference) > 1:
            raise UsageError(f"`{reference.familiar}` is named twice: expected from Docker or from a registry, once")
    # Without bundle.toml a toolchain alone is a slip; with one it is a choice.
    if not names or (file == Definition() and not local and all(item.role != "base" for item in wanted)):
        raise UsageError("nothing to bundle: no image is named", hint="bundle create debian:12 -o offline.tar")
    attestations = line.attestations if line.attestations is not None else bool(file.attestations)
    name = line.name or file.name or default_name
    check_name(name)
    recompress = line.recompress if line.recompress is not None else bool(file.recompress)
    return Spec(
        name,
        platforms,
        hosts,
        _united(wanted),
        {**file.mirrors, **line.mirrors},
        attestations,
        local,
        recompress,
        line.zstd_level or file.zstd_level,
    )


def _united(wanted: Iterable[Wanted]) -> tuple[Wanted, ...]:
    """Each reference once: an image of the toolchain that is also a base image gets the platforms of both.

    One that is the target of a merge gets the merge and its platforms: nothing else of that name is bundled.
    """
    united: dict[Reference, Wanted] = {}
    for item in wanted:
        known = united.get(item.reference)
        merge = item.merge or (known.merge if known else ())
        platforms = tuple(dict.fromkeys((*known.platforms, *item.platforms))) if known else item.platforms
        if merge:
            platforms = tuple(platform for platform, _ in merge)
        optional = item.optional and (known is None or known.optional)
        united[item.reference] = dataclasses.replace(known or item, platforms=platforms, merge=merge, optional=optional)
    return tuple(united.values())


def read_definition(path: Path) -> Definition:
    """Read bundle.toml (docs/definition.md).

    Raises:
        UsageError: it cannot be read, is not TOML, or has a key or value that means nothing; the message says where.
    """
    value = _load(path)
    known = {"name", "platforms", "host-platforms", "images", "merge", "mirrors", "toolchain", "attestations"}
    known |= {"from-daemon", "recompress", "zstd-level", "dockerfiles", "build-args"}
    for key in value:
        if key not in known:
            raise _wrong(path, key, "is not known here" + _suggestion(key, known))
    try:
        return Definition(
            name=_name(value.get("name")),
            platforms=_platforms(value, "platforms"),
            host_platforms=_platforms(value, "host-platforms"),
            images=tuple(Reference.parse(text) for text in _strings(value, "images")),
            merge=_merges(_table(value, "merge")),
            mirrors={host: tuple(_strings(value["mirrors"], host)) for host in _table(value, "mirrors")},
            toolchain=_toolchain(_table(value, "toolchain")),
            attestations=_flag(value, "attestations"),
            dockerfiles=tuple(path.parent / name for name in _strings(value, "dockerfiles")),
            build_args=_build_args(_table(value, "build-args")),
            from_daemon=tuple(map(FromDaemon.parse, _strings(value, "from-daemon"))),
            recompress=_recompress(value),
            zstd_level=_level(value),
        )
    except UsageError as error:
        raise UsageError(f"`{path}`: {error.message}", hint=error.hint) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}") from None
    return value


def _wrong(path: Path, key: str, what: str) -> UsageError:
    return UsageError(f"`{path}`: `{key}` {what}")


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean `{close[0]}`?" if close else f": expected one of {', '.join(sorted(known))}"


def _name(value: Any) -> Optional[str]:
    if value is not None:
        check_name(value)
    return None if value is None else str(value)


def _flag(value: dict[str, Any], key: str) -> Optional[bool]:
    flag = value.get(key)
    if flag is not None and not isinstance(flag, bool):
        raise UsageError(f"`{key}` is `{flag}`: expected true or false")
    return flag


def _recompress(value: dict[str, Any]) -> Optional[bool]:
    choice = value.get("recompress")
    if choice not in (None, False, "zstd"):
        raise UsageError(f'`recompress` is `{choice}`: expected "zstd", or false')
    return None if choice is None else bool(choice)


def _level(value: dict[str, Any]) -> Optional[int]:
    level = value.get("zstd-level")
    if level is not None and (not isinstance(level, int) or isinstance(level, bool) or not 1 <= level <= 19):
        raise UsageError(f"`zstd-level` is `{level}`: expected a number from 1 to 19")
    return level


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    table = value.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"`{key}` is not a table: expected [{key}]")
    return table


def _strings(value: dict[str, Any], key: str) -> list[str]:
    items = value.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UsageError(f'`{key}` is not a list of strings: expected {key} = ["..."]')
    return items


def _platforms(value: dict[str, Any], key: str) -> tuple[Platform, ...]:
    return tuple(dict.fromkeys(Platform.parse(text) for text in _strings(value, key)))


def _merges(table: dict[str, Any]) -> dict[Reference, tuple[tuple[Platform, Reference], ...]]:
    merges = {}
    for target, sources in table.items():
        if not isinstance(sources, dict) or not sources or not all(isinstance(text, str) for text in sources.values()):
            raise UsageError(f'`merge."{target}"` needs a line for each platform, such as "linux/arm64" = "IMAGE"')
        reference = Reference.parse(target)
        if reference.digest:
            raise UsageError(f"`{target}` has a digest, and a merged image gets a new one: give it a tag")
        merges[reference] = tuple((Platform.parse(key), Reference.parse(text)) for key, text in sources.items())
    return merges


def _build_args(table: dict[str, Any]) -> dict[str, str]:
    for key, text in table.items():
        if not isinstance(text, str):
            raise UsageError(f'`build-args.{key}` is `{text}`: expected a string, such as {key} = "12"')
    return dict(table)


def _toolchain(table: dict[str, Any]) -> dict[str, Optional[Reference]]:
    chosen: dict[str, Optional[Reference]] = {}
    for role, text in table.items():
        if role not in TOOLCHAIN:
            raise UsageError(f"`{role}` is not a part of the toolchain" + _suggestion(role, TOOLCHAIN))
        if text is not False and not isinstance(text, str):
            raise UsageError(f"`toolchain.{role}` is `{text}`: expected an image, or false to leave it out")
        chosen[role] = Reference.parse(text) if text else None
    return chosen
