"""Lists for messages, cut off where they would be longer than anybody reads."""

from __future__ import annotations

import itertools
from collections.abc import Collection


def listed(names: Collection[object], most: int) -> str:
    """Return the first `most` names, and how many more there are: `a, b and 7 more`; nothing when there is none."""
    shown = ", ".join(map(str, itertools.islice(names, most)))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
