"""The cache that all checkouts on this machine share: products, their locks and their recipes.

A product is a directory `<cache>/<name>/<fingerprint>`. The fingerprint is taken from the recipe, so a changed
recipe makes a new product and an old checkout still finds its own. A product has its final name only when it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Product:
    """Something slow to make, kept in the cache.

    `recipe` is text that names all that decides the result. `build` gets an empty directory and fills it.
    """

    name: str
    recipe: str
    build: Callable[[Path], None]

    @property
    def path(self) -> Path:
        """Where the product is once it is made."""
        fingerprint = hashlib.sha256(self.recipe.encode()).hexdigest()[:12]
        return cache_dir() / self.name / fingerprint

    @property
    def ready(self) -> bool:
        """Whether the product is in the cache."""
        return self.path.is_dir()

    def make(self) -> Path:
        """Return the product's directory, building it first when it is not in the cache."""
        if self.ready:
            return self.path
        with lock(self.name):
            if not self.ready:
                self._build()
        return self.path

    def _build(self) -> None:
        parent = self.path.parent
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(".building-*"):
            shutil.rmtree(stale)
        say(f"making {self.name}")
        began = time.monotonic()
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
        temporary.chmod(0o755)
        try:
            self.build(temporary)
        except BaseException:
            say(f"could not make {self.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        temporary.rename(self.path)
        say(f"made {self.name} in {time.monotonic() - began:.1f} s")


def only_root() -> None:
    """Raise SetupError unless this process is root."""
    if os.geteuid() != 0:
        raise SetupError("the testbed makes machines out of namespaces and needs root; run it as root")
