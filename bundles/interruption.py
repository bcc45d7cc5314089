"""Interruptions that wait: a signal that comes while a thread is being started would leave it half started."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
