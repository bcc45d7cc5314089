"""What is slow to make and kept in the cache: products, the programs in them, and many of them made at once.

A product is a directory `<cache>/<name>/<fingerprint>`. The fingerprint is taken from the recipe, so a changed
recipe makes a new product and an old checkout still finds its own. A product has its final name only when it is whole.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from .cache import cache_dir, lock
from .durations import last, timed
from .progress import say

_LANES = 3  # two keep two cores busy, and one waits for the network


@dataclass(frozen=True, slots=True)
class Product:
    """Something slow to make, kept in the cache.

    `recipe` is text that names all that decides the result. `build` gets an empty directory and fills it. `needs` are
    made before it. `seconds` is roughly what it takes on a quiet machine with two cores.
    """

    name: str
    recipe: str
    build: Callable[[Path], None]
    needs: tuple[Product, ...] = ()
    seconds: float = 0

    @property
    def path(self) -> Path:
        """Where the product is once it is made."""
        fingerprint = hashlib.sha256(self.recipe.encode()).hexdigest()[:12]
        return cache_dir() / self.name / fingerprint

    @property
    def doing(self) -> str:
        """What is said while it is made."""
        return f"making {self.name}"

    @property
    def ready(self) -> bool:
        """Whether the product is in the cache."""
        return self.path.is_dir()

    def make(self) -> Path:
        """Return the product's directory, building it, and first what it needs, when it is not in the cache."""
        if self.ready:
            return self.path
        for product in self.needs:
            product.make()
        with lock(self.name):
            if not self.ready:
                self._build()
        return self.path

    def _build(self) -> None:
        parent = self.path.parent
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(".building-*"):
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
        temporary.chmod(0o755)
        try:
            with timed(self.doing, f"made {self.name}", self.seconds):
                self.build(temporary)
                temporary.rename(self.path)
        except BaseException:
            say(f"could not make {self.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@dataclass(frozen=True, slots=True)
class Program:
    """One program of a product: a file in its directory."""

    name: str
    product: Product

    @property
    def file(self) -> Path:
        """Where the program is once its product is made."""
        return self.product.path / self.name

    def make(self) -> Path:
        """Return the program's path, making its product first when it is not in the cache."""
        self.product.make()
        return self.file


def missing(products: Iterable[Product]) -> list[Product]:
    """Return those of `products`, and of what they need, that are not in the cache."""
    found: dict[Path, Product] = {}

    def visit(product: Product) -> None:
        if product.path not in found and not product.ready:
            found[product.path] = product
            for need in product.needs:
                visit(need)

    for product in products:
        visit(product)
    return list(found.values())


def make_all(products: Iterable[Product]) -> None:
    """Make what is missing of `products`, several at a time, first what the longest work waits for."""
    todo = {product.path: product for product in missing(products)}
    order = TopologicalSorter(
        {path: [need.path for need in each.needs if need.path in todo] for path, each in todo.items()}
    )
    urgency = _urgency(todo)
    order.prepare()
    startable: list[Path] = []
    running: dict[Future[Path], Path] = {}
    with ThreadPoolExecutor(_LANES) as pool:
        while order.is_active():
            startable = sorted([*startable, *order.get_ready()], key=urgency.__getitem__)
            while startable and len(running) < _LANES:
                path = startable.pop()
                running[pool.submit(todo[path].make)] = path
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                path = running.pop(future)
                future.result()
                order.done(path)


def expected(products: Sequence[Product]) -> float:
    """Return how many seconds it should take to make all of `products`, which are missing, on two cores."""
    work = sum(_seconds(product) for product in products)
    return max(work / 2, *_urgency({product.path: product for product in products}).values())


def _urgency(todo: dict[Path, Product]) -> dict[Path, float]:
    """How many seconds of work start with each product: its own, and the longest that waits for it."""
    urgency: dict[Path, float] = {}

    def measure(path: Path) -> float:
        if path not in urgency:
            waiting = [other for other, each in todo.items() if any(need.path == path for need in each.needs)]
            urgency[path] = _seconds(todo[path]) + max(map(measure, waiting), default=0)
        return urgency[path]

    for path in todo:
        measure(path)
    return urgency


def _seconds(product: Product) -> float:
    known = last(product.doing)
    return product.seconds if known is None else known
