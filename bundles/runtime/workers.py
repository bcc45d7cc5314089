"""Work done by several threads that ends as soon as it cannot succeed any more."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Callable, TypeVar

from bundles.runtime.signals import held

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            error = next((future.exception() for future in futures if future in done and future.exception()), None)
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
