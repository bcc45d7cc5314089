"""The cache that all checkouts on this machine share, and its locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SetupError
from .progress import say


def cache_dir() -> Path:
    """The cache directory; made if missing. `BUNDLE_TESTBED_CACHE` overrides /var/cache/bundle-testbed."""
    directory = Path(os.environ.get("BUNDLE_TESTBED_CACHE") or "/var/cache/bundle-testbed").absolute()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def lock(name: str, directory: Path | None = None) -> Iterator[None]:
    """Hold the lock `name` against every other process and thread that uses this cache, or this `directory`."""
    path = (directory or cache_dir() / "locks") / f"{name.replace('/', '-')}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run to finish with {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def only_root() -> None:
    """Raise SetupError unless this process is root."""
    if os.geteuid() != 0:
        raise SetupError("the testbed makes machines out of namespaces and needs root; run it as root")
