"""Work done by several threads that ends as soon as it cannot succeed any more."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Callable, TypeVar

from bundles.runtime.signals import held

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, cancel: Callable[[], None]
) -> list[_Result]:
    """The result of `work` for each item, in order.

    When one fails, or the user interrupts, the rest is dropped: `cancel` is called, which must end what the others wait
    for, and they are waited for before the error is passed on.
    """
    with ThreadPoolExecutor(workers, "worker") as pool:
        try:
            with held():
                futures = [pool.submit(work, item) for item in items]
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            return [future.result() for future in futures if future in done]
        except BaseException:
            cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
