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
}
_DEFAULT_PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
_DEFAULT_HOSTS = (Platform("linux", "amd64"),)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image to bundle, for these platforms; `merge` has the source of each platform when there are several."""

    reference: Reference
    role: str
    platforms: tuple[Platform, ...]
    merge: tuple[tuple[Platform, Reference], ...] = ()


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that `bundle create` needs to know. `mirrors` maps a registry to the hosts that are tried in its stead."""

    name: str
    platforms: tuple[Platform, ...]
    host_platforms: tuple[Platform, ...]
    images: tuple[Wanted, ...]
    mirrors: Mapping[str, tuple[str, ...]]
    attestations: bool


@dataclasses.dataclass(frozen=True)
class Definition:
    """What one place says (bundle.toml or the command line); None and empty mean that it does not say.

    `toolchain` maps a role to a reference, or to None to leave it out.
    """

    name: Optional[str] = None
    platforms: tuple[Platform, ...] = ()
    host_platforms: tuple[Platform, ...] = ()
    images: tuple[Reference, ...] = ()
    merge: Mapping[Reference, tuple[tuple[Platform, Reference], ...]] = dataclasses.field(default_factory=dict)
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    toolchain: Mapping[str, Optional[Reference]] = dataclasses.field(default_factory=dict)
    attestations: Optional[bool] = None


def combine(file: Definition, line: Definition, default_name: str) -> Spec:
    """One Spec from bundle.toml and the command line: images add up, everything else on the command line wins.

    Raises:
        UsageError: nothing to bundle.
    """
    platforms = line.platforms or file.platforms or _DEFAULT_PLATFORMS
    hosts = line.host_platforms or file.host_platforms or _DEFAULT_HOSTS
    toolchain = {role: Reference.parse(text) for role, text in TOOLCHAIN.items()}
    chosen: dict[str, Optional[Reference]] = {**toolchain, **file.toolchain, **line.toolchain}
    wanted = [Wanted(reference, role, hosts) for role, reference in chosen.items() if reference]
    bases = dict.fromkeys((*file.images, *line.images))
    for target, sources in file.merge.items():
        if target in bases:
            raise UsageError(f"`{target.familiar}` is both an image and the target of a merge: name it once")
        wanted.append(Wanted(target, "base", tuple(platform for platform, _ in sources), sources))
    wanted += [Wanted(reference, "base", platforms) for reference in bases]
    # Without bundle.toml a toolchain alone is a slip; with one it is a choice.
    if not wanted or (file == Definition() and all(item.role != "base" for item in wanted)):
        raise UsageError("nothing to bundle: no image is named", hint="bundle create debian:12 -o offline.tar")
    attestations = line.attestations if line.attestations is not None else bool(file.attestations)
    name = line.name or file.name or default_name
    check_name(name)
    return Spec(name, platforms, hosts, _united(wanted), {**file.mirrors, **line.mirrors}, attestations)


def _united(wanted: Iterable[Wanted]) -> tuple[Wanted, ...]:
    """Each reference once: an image of the toolchain that is also a base image gets the platforms of both."""
    united: dict[Reference, Wanted] = {}
    for item in wanted:
        known = united.get(item.reference)
        platforms = tuple(dict.fromkeys((*known.platforms, *item.platforms))) if known else item.platforms
        united[item.reference] = dataclasses.replace(known or item, platforms=platforms)
    return tuple(united.values())


def read_definition(path: Path) -> Definition:
    """Read bundle.toml (docs/definition.md).

    Raises:
        UsageError: it cannot be read, is not TOML, or has a key or value that means nothing; the message says where.
    """
    value = _load(path)
    known = {"name", "platforms", "host-platforms", "images", "merge", "mirrors", "toolchain", "attestations"}
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


def _toolchain(table: dict[str, Any]) -> dict[str, Optional[Reference]]:
    chosen: dict[str, Optional[Reference]] = {}
    for role, text in table.items():
        if role not in TOOLCHAIN:
            raise UsageError(f"`{role}` is not a part of the toolchain" + _suggestion(role, TOOLCHAIN))
        if text is not False and not isinstance(text, str):
            raise UsageError(f"`toolchain.{role}` is `{text}`: expected an image, or false to leave it out")
        chosen[role] = Reference.parse(text) if text else None
    return chosen
