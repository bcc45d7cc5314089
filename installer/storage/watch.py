"""Whether a storage still answers while images are pushed to it.

Where a cable is pulled nobody is refused: the registry waits for its storage, and who pushes for the registry, until
the kernel gives up after a quarter of an hour. So the storage is asked beside it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Callable, Optional

from bundles.errors import BundleError, UnreachableError

# Three times in a row, each after ten seconds without a byte: it is away, and not busy.
_INTERVAL = 5.0
_PATIENCE = 3


class Watch:
    """Asks again and again, and ends what waits when nothing answers any more.

    watch = Watch(lambda: bucket.send("GET"), transport.close)
    with watch.watching():
        ...
    if watch.lost: ...

    Args:
        ask: asks the storage for something small.
        end: ends what waits for the registry.
        interval: seconds between two questions.
    """

    def __init__(self, ask: Callable[[], object], end: Callable[[], None], interval: float = _INTERVAL) -> None:
        self._ask, self._end, self._interval = ask, end, interval
        self._over = threading.Event()
        self.lost: Optional[UnreachableError] = None
        """How the storage does not answer, when that was why something was ended."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Do it while the context lasts."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        missed = 0
        while not self._over.wait(self._interval):
            try:
                self._ask()
                missed = 0
            except UnreachableError as error:
                missed += 1
                if missed >= _PATIENCE and not self._over.is_set():
                    self.lost = error
                    self._end()
                    return
            except BundleError:
                # It answers, whatever it says.
                missed = 0
