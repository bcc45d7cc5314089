"""How long things took the last time on this machine: kept in the cache, and kept when the cache is cleaned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cache import cache_dir, lock
from .progress import say

FILE = "durations.json"


@contextmanager
def timed(what: str, done: str, rough: float = 0) -> Iterator[None]:
    """Say `what` is being done and how long it took last time, then `done` and how long it took now.

    `rough` is the figure in seconds, of a quiet machine with two cores, that is said the first time. What fails is not
    kept.
    """
    say(f"{what}{_expected(what, rough)}")
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    say(f"{done} in {seconds:.1f} s")
    _keep(what, seconds)


def last(what: str) -> float | None:
    """Return the seconds that `what` took the last time; None when this machine does not know."""
    return _table().get(what)


def _expected(what: str, rough: float) -> str:
    seconds = last(what)
    if seconds is not None:
        return f" ({seconds:.0f} s last time)"
    return f" (about {rough:.0f} s on 2 cores)" if rough else ""


def _keep(what: str, seconds: float) -> None:
    with lock("durations"):
        temporary = _file().with_suffix(".new")
        temporary.write_text(json.dumps({**_table(), what: round(seconds, 1)}, indent=2, sort_keys=True) + "\n")
        temporary.replace(_file())


def _table() -> dict[str, float]:
    try:
        table: dict[str, float] = json.loads(_file().read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return table


def _file() -> Path:
    return cache_dir() / FILE
