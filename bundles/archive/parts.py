"""An archive cut into parts, `offline.tar.001` and so on: their names, where the cuts are, where the parts are.

The parts in a row are the bytes of the whole archive, so bundle.json and its digest know nothing of them. All parts but
the last two have the same size. The last one holds the whole program, so that Python can run it: where a cut would go
through the program it is made before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bundles.archive.layout import BLOCK, OCI_LAYOUT, OCI_LAYOUT_NAME, Layout, header
from bundles.errors import IncompleteArchiveError, UsageError
from bundles.runtime.listing import listed
from bundles.runtime.sizes import human_size

MAX_PARTS = 999
_PART = re.compile(r"(.+)\.([0-9]{3})", re.ASCII)


def part_name(name: str, number: int) -> str:
    """Return the name of part `number`, counted from 1, of the archive `name`."""
    return f"{name}.{number:03}"


def is_first_part(path: Path) -> bool:
    """Tell whether that is the name of the first part of an archive."""
    return path.suffix == ".001" and len(path.name) > 4


def cut(layout: Layout, size: int) -> tuple[int, ...]:
    """Return the sizes of the parts, none larger than `size` bytes; whole blocks, so that `dd` can take slices.

    Raises:
        UsageError: the program does not fit into a part of that size, or there would be more than 999 parts.
    """
    size -= size % BLOCK
    if size < max(layout.program_size, BLOCK):
        raise UsageError(
            f"parts of {human_size(size)} are too small: the last one holds the program, "
            f"which has {human_size(layout.program_size)}",
            hint="--split 4000MiB, for FAT32; or --split 650MiB, for a CD",
        )
    ends = list(range(size, layout.size, size))
    if ends and ends[-1] > layout.program_offset:
        ends[-1] = layout.program_offset
    ends.append(layout.size)
    if len(ends) > MAX_PARTS:
        raise UsageError(
            f"parts of {human_size(size)} make {len(ends)} parts: expected at most {MAX_PARTS}",
            hint="choose larger parts with --split",
        )
    return tuple(end - start for start, end in zip([0, *ends], ends))


def find(path: Path, directories: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Find the files of an archive in their order: `path` alone, or all parts when it is any one of them.

    `path` may also be the name of the whole when only parts are there. Parts are looked for beside `path`, then in
    `directories` in their order.

    Raises:
        IncompleteArchiveError: a part is missing between two others.
    """
    match = _PART.fullmatch(path.name)
    given = int(match[2]) if match else 0
    # Without a doubt an archive of its own, whatever it is called (`debian.012`).
    if match and given and not (given > 1 and begins_an_archive(path)):
        name = match[1]
    elif match or path.exists():
        return (path,)
    else:
        name = path.name
    found = {number: place for number, place in _parts(name, (path.parent, *directories))}
    if given:
        found[given] = path
    if not found:
        return (path,)
    missing = [part_name(name, number) for number in range(1, max(found)) if number not in found]
    if missing:
        places = ", ".join(f"`{place}`" for place in dict.fromkeys((path.parent, *directories)))
        raise IncompleteArchiveError(
            f"of `{name}`, {_listed(missing)} missing: looked in {places}",
            hint="put all parts into one directory, or name the others with --parts DIR",
        )
    return tuple(place for _, place in sorted(found.items()))


def _parts(name: str, directories: Sequence[Path], suffix: str = "") -> list[tuple[int, Path]]:
    """Find every part of that name, those of earlier directories last, so that they count in a dict."""
    parts = []
    for directory in reversed(directories):
        try:
            files = list(directory.iterdir())
        except OSError:
            continue
        for file in files:
            match = _PART.fullmatch(file.name[: len(file.name) - len(suffix)]) if file.name.endswith(suffix) else None
            if match and match[1] == name and int(match[2]):
                parts.append((int(match[2]), file.with_name(match[0])))
    return parts


def further_parts(path: Path, count: int, suffix: str = "") -> tuple[Path, ...]:
    """Find the parts of the archive `path` above number `count`, in order; with a suffix, those that have it.

    Gives the names without the suffix.
    """
    return tuple(place for number, place in sorted(_parts(path.name, [path.parent], suffix)) if number > count)


def _listed(names: Sequence[str]) -> str:
    return f"{listed([f'`{name}`' for name in names], 5)} {'is' if len(names) == 1 else 'are'}"


def begins_an_archive(path: Path) -> bool:
    """Tell whether a file begins as an archive does: the whole or the first part of one."""
    try:
        with path.open("rb") as file:
            return file.read(512) == header(OCI_LAYOUT_NAME, len(OCI_LAYOUT))
    except OSError:
        return False
