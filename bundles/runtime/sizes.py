"""Sizes as people write them: `4000MiB`, `650MB`, `4294967295`."""

from __future__ import annotations

import re

from bundles.errors import UsageError

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1 << 10 * power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Read a number of bytes: digits, perhaps a fraction, and B, kB, MB, GB, TB or KiB, MiB, GiB, TiB.

    A bare `M` or `G` is refused: tools disagree on what it means, and on FAT32 the difference decides.

    Raises:
        UsageError: it is not one, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if not match or unit is None:
        raise UsageError(f"`{text[:40]}` is not a size: expected a number and MiB, GiB, MB or GB, such as 4000MiB")
    whole, _, fraction = match[1].partition(".")
    size: int = int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    if size < 1:
        raise UsageError(f"`{text[:40]}` is too small: expected at least one byte")
    return size


def human_size(count: float) -> str:
    """Write a number of bytes for people, in powers of 1024: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
