"""Reading bundle.toml (docs/definition.md)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from bundler.definition.build import Build, name_of, unique
from bundler.definition.file_request import FileRequest
from bundler.definition.oci_layout import cache_of
from bundler.definition.spec import TOOLCHAIN, Definition, FromDaemon, mirrored, read_images
from bundles.archive.manifest import check_name
from bundles.errors import UsageError, reason
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import quote

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_definition(path: Path) -> Definition:
    """Read bundle.toml (docs/definition.md).

    Raises:
        UsageError: it cannot be read, is not TOML, or has a key or value that means nothing; the message says where.
    """
    value = _load(path)
    known = {"name", "platforms", "host-platforms", "images", "merge", "mirrors", "toolchain", "attestations"}
    known |= {"from-daemon", "recompress", "zstd-level", "foreign-layers", "dockerfiles", "build-args", "exclude"}
    known |= {"records", "caches", "build"}
    for key in value:
        if key not in known:
            raise _wrong(path, key, "is not known here" + _suggestion(key, known))
    try:
        images, own, files = _images(value, path.parent)
        return Definition(
            name=_name(value.get("name")),
            platforms=_platforms(value, "platforms"),
            host_platforms=_platforms(value, "host-platforms"),
            images=images,
            image_platforms=own,
            merge=_merges(_table(value, "merge")),
            mirrors=_mirrors(_table(value, "mirrors")),
            toolchain=_toolchain(_table(value, "toolchain")),
            attestations=_flag(value, "attestations"),
            dockerfiles=tuple(path.parent / name for name in _strings(value, "dockerfiles")),
            exclude=tuple(_strings(value, "exclude")),
            build_args=_build_args(_table(value, "build-args")),
            from_daemon=tuple(map(FromDaemon.parse, _strings(value, "from-daemon"))),
            recompress=_recompress(value),
            zstd_level=_level(value),
            foreign_layers=_flag(value, "foreign-layers"),
            records=tuple(path.parent / name for name in _strings(value, "records")),
            caches=tuple(cache_of(text, path.parent) for text in _strings(value, "caches")),
            builds=_builds(path.parent, value),
            files=files,
        )
    except UsageError as error:
        raise UsageError(f"`{path}`: {error.message}", hint=error.hint) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        inside = path / "bundle.toml"
        hint = (
            f"--file {quote(inside)}"
            if path.is_dir() and inside.exists()
            else "write one, or name the one that there is: -f FILE"
        )
        raise UsageError(f"`{path}` cannot be read: {reason(error)}", hint=hint) from None
    except UnicodeDecodeError:
        hint = "what images come from is named without -f: bundle:FILE, oci-archive:FILE, docker-archive:FILE"
        raise UsageError(f"`{path}` is not valid TOML: it is no text", hint=hint) from None
    except tomllib.TOMLDecodeError as error:
        why = str(error)
        raise UsageError(f"`{path}` is not valid TOML: {why[:1].lower()}{why[1:]}") from None
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


def _images(
    value: dict[str, Any], directory: Path
) -> tuple[tuple[Reference, ...], dict[Reference, tuple[Platform, ...]], tuple[FileRequest, ...]]:
    items = value.get("images", [])
    if not isinstance(items, list) or not all(isinstance(item, (str, dict)) for item in items):
        raise UsageError('`images` is not a list of strings: expected images = ["..."]')
    return read_images((item if isinstance(item, str) else _image(item) for item in items), directory)


def _image(table: dict[str, Any]) -> str:
    """Read `{ image = "...", platforms = [...] }` as the command line would say it."""
    known = ("image", "platforms")
    for key in table:
        if key not in known:
            raise UsageError(f"`images` has `{key}`, which is not known here" + _suggestion(key, known))
    image, platforms = table.get("image"), _strings(table, "platforms")
    if not isinstance(image, str) or not platforms:
        raise UsageError(
            f'`images` has `{table}`: expected such as {{ image = "debian:12", platforms = ["linux/amd64"] }}'
        )
    return f"{image},platform={','.join(platforms)}"


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


def _mirrors(table: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    mirrors: dict[str, tuple[str, ...]] = {}
    for key in table:
        name = mirrored(key)
        mirrors[name] = (*mirrors.get(name, ()), *_strings(table, key))
    return mirrors


def _builds(folder: Path, value: dict[str, Any]) -> tuple[Build, ...]:
    """Read the [[build]] tables; what they say of arguments adds to [build-args]."""
    tables = value.get("build", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError("`build` is not a list of tables: expected [[build]] before each")
    everywhere = _build_args(_table(value, "build-args"))
    builds = [_build(folder, table, everywhere) for table in tables]
    return unique(builds, 'give one of them another, such as name = "app-test"')


def _build(folder: Path, table: dict[str, Any], everywhere: dict[str, str]) -> Build:
    known = ("name", "context", "dockerfile", "target", "args", "platforms")
    for key in table:
        if key not in known:
            raise UsageError(f"a [[build]] has `{key}`, which is not known here" + _suggestion(key, known))
    texts = {key: table.get(key) for key in ("name", "context", "dockerfile", "target")}
    for key, text in texts.items():
        if text is not None and (not isinstance(text, str) or not text):
            raise UsageError(f'`{key}` of a [[build]] is `{text}`: expected a string, such as {key} = "app"')
    if not texts["context"]:
        raise UsageError('a [[build]] has no `context`: expected the directory, such as context = "app"')
    context = folder / texts["context"]
    return Build(
        texts["name"] or name_of(context.resolve().name),
        context,
        folder / texts["dockerfile"] if texts["dockerfile"] else None,
        texts["target"],
        {**everywhere, **_build_args(_table(table, "args"), "args")},
        _platforms(table, "platforms"),
    )


def _build_args(table: dict[str, Any], name: str = "build-args") -> dict[str, str]:
    for key, text in table.items():
        if not isinstance(text, str):
            raise UsageError(f'`{name}.{key}` is `{text}`: expected a string, such as {key} = "12"')
    return dict(table)


def _toolchain(table: dict[str, Any]) -> dict[str, Optional[Reference]]:
    chosen: dict[str, Optional[Reference]] = {}
    for role, text in table.items():
        if role not in TOOLCHAIN:
            raise UsageError(f"`{role}` is not a part of the toolchain" + _suggestion(role, TOOLCHAIN))
        if not isinstance(text, (bool, str)):
            raise UsageError(
                f"`toolchain.{role}` is `{text}`: expected an image, true for the usual one, or false to leave it out"
            )
        chosen[role] = Reference.parse(TOOLCHAIN[role] if text is True else text) if text else None
    return chosen
