"""A server that takes a request and does not answer."""

from __future__ import annotations

import queue
import threading

# Seconds to connect, and to wait for an answer: longer than any test waits.
PATIENT = (5.0, 600.0)


class Stall:
    """Requests that are not answered before `release`, or within half a minute."""

    def __init__(self) -> None:
        self.asked, self._released = threading.Event(), threading.Event()
        self._outcomes: queue.Queue[bool] = queue.Queue()

    def wait(self) -> None:
        self.asked.set()
        self._outcomes.put(self._released.wait(30))

    def release(self) -> None:
        self._released.set()

    @property
    def outlasted(self) -> bool:
        """Whether the first of them was still unanswered when it was released."""
        return self._outcomes.get(timeout=60)
