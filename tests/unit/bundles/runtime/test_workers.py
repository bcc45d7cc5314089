"""Work in several threads: results in order, the first real error, and an end to everything when one fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from bundles.runtime.workers import in_parallel


class Stop:
    """What `cancel` does here: it is counted, and lets the threads go that wait for it."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.calls = 0

    def cancel(self) -> None:
        self.calls += 1
        self.cancelled.set()


@pytest.fixture
def stop() -> Iterator[Stop]:
    stop = Stop()
    yield stop
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("worker")] == []


def interrupt() -> None:
    # A signal that comes just before the main thread begins to wait would only be seen when the wait is over.
    time.sleep(0.5)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_results_are_in_the_order_of_the_items(stop: Stop) -> None:
    def work(number: int) -> int:
        time.sleep((5 - number) / 100)
        return number * number

    assert in_parallel(work, range(5), 3, stop.cancel) == [0, 1, 4, 9, 16]
    assert in_parallel(work, [], 3, stop.cancel) == []
    assert stop.calls == 0


def test_the_error_is_the_first_one_and_not_what_cancelling_made_of_the_others(stop: Stop) -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            time.sleep(0.05)
            raise ValueError("the cause")
        # An earlier item, which would come first by its place.
        assert stop.cancelled.wait(30)
        raise RuntimeError("cancelled")

    with pytest.raises(ValueError, match="the cause"):
        in_parallel(work, range(50), 2, stop.cancel)
    assert stop.calls == 1
    # The worker that had failed may have taken one more before the rest was dropped.
    assert len(begun) <= 3


def test_all_that_are_under_way_have_ended_before_the_error_is_passed_on(stop: Stop) -> None:
    ended: list[int] = []
    under_way = threading.Barrier(3)

    def work(number: int) -> None:
        under_way.wait(30)
        if number == 0:
            raise ValueError("the cause")
        assert stop.cancelled.wait(30)
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(ValueError, match="the cause"):
        in_parallel(work, range(3), 3, stop.cancel)
    assert sorted(ended) == [1, 2]


def test_an_interruption_cancels(stop: Stop) -> None:
    waiting = threading.Barrier(3)
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        waiting.wait(30)
        assert stop.cancelled.wait(30)
        raise RuntimeError("cancelled")

    def interruption() -> None:
        waiting.wait(30)
        interrupt()

    thread = threading.Thread(target=interruption)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, range(20), 2, stop.cancel)
    thread.join()
    assert stop.calls == 1
    assert sorted(begun) == [0, 1]
