"""Signals that are held back come afterwards, once, and to the handler that was there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bundles.interruption import held


@pytest.fixture
def handler() -> Iterator[list[int]]:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end(handler: list[int]) -> None:
    with held():
        os.kill(os.getpid(), signal.SIGTERM)
        assert handler == []
    assert handler == [signal.SIGTERM]
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM] * 2


def test_ctrl_c_is_still_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), held():
        os.kill(os.getpid(), signal.SIGINT)


def test_an_error_inside_is_passed_on_and_handlers_are_back(handler: list[int]) -> None:
    with pytest.raises(ValueError, match="mine"), held():
        raise ValueError("mine")
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM]


def test_other_threads_are_left_alone() -> None:
    found = []

    def work() -> None:
        with held():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
