"""Work done by several threads that ends as soon as it cannot succeed any more.

Windows tells a main thread of Ctrl-C only when what it waits for has come: here nobody waits without a look around.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Callable, Optional, TypeVar

from bundles.runtime.signals import held

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Seconds between two looks around.
_GLANCE = 0.25


def join(thread: threading.Thread) -> None:
    """Wait for a thread to end, or for the user to interrupt."""
    while thread.is_alive():
        thread.join(_GLANCE)


def happens(event: threading.Event, seconds: float) -> bool:
    """Wait for an event that long, or for the user to interrupt; tell whether it came."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if event.wait(min(left, _GLANCE)):
            return True
    return event.is_set()


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    workers: int,
    cancel: Callable[[], None],
) -> list[_Result]:
    """Do `work` for each item and return the results in order; whatever happens, no thread is left at the end.

    Args:
        work: what is done for one item.
        items: begun in this order.
        workers: how many at once.
        cancel: called when one has failed, and when the user interrupts: makes those that are under way end soon.

    Raises:
        whatever `work` raised first, and not what being cancelled made the others raise.
    """
    with ThreadPoolExecutor(workers, "worker") as pool:
        try:
            with held():
                futures = [pool.submit(work, item) for item in items]
            error = _first_error(futures)
            if error:
                for future in futures:
                    future.cancel()
                cancel()
                wait(futures)
        except BaseException:
            # An interruption: what goes wrong in `work` stays in its future.
            pool.shutdown(wait=False, cancel_futures=True)
            cancel()
            raise
    if error:
        raise error
    return [future.result() for future in futures]


def _first_error(futures: Sequence[Future[_Result]]) -> Optional[BaseException]:
    """Wait until all are done or one has failed; return what the first one of those raised."""
    while True:
        done, left = wait(futures, _GLANCE, FIRST_EXCEPTION)
        error = next((future.exception() for future in futures if future in done and future.exception()), None)
        if error or not left:
            return error
