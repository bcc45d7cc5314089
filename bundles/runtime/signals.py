"""Ctrl-C and SIGTERM: the first one ends a command in order, a later one at once.

They can be made to wait: one that comes while a thread is being started would leave it half started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

from bundles.errors import InterruptedByUser

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What comes within so many seconds of the first one belongs to it: a key that bounced, a supervisor that sends both.
_TOGETHER = 0.5


class Interruption:
    """The handler of both signals, once for each process.

    It raises KeyboardInterrupt, which no handler of errors takes for one. Another one in the midst of what ends a
    command would leave locks and threads behind. Who does not want to wait for the end interrupts again: nothing is
    lost by that, as nothing is by SIGKILL.
    """

    def __init__(self) -> None:
        self._first: Optional[float] = None

    def install(self) -> None:
        """Handle both signals; Ctrl-C stays ignored where it is, as by a shell's background jobs."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else "ended by SIGTERM")
        if now - self._first >= _TOGETHER:
            with contextlib.suppress(OSError):
                os.write(2, f"error: {explained('interrupted twice, ended at once')}\n".encode())
            os._exit(InterruptedByUser.exit_code)


def explained(what: str) -> InterruptedByUser:
    """Return an interruption as one of our errors."""
    return InterruptedByUser(what, hint="run the same command again; it goes on")


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for a moment; what came meanwhile is handled at the end.

    For the main thread, where Python runs signal handlers; in any other it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Optional[FrameType]]] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for number in _SIGNALS:
            before[number] = signal.signal(number, lambda *arrival: came.append(arrival))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number_came, frame in came[:1]:
        handler = before[signal.Signals(number_came)]
        if callable(handler):
            handler(number_came, frame)
        elif handler is signal.SIG_DFL:
            signal.raise_signal(number_came)
