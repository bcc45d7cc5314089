"""How many connections there may be at once: each has a thread and buffers of its own."""

from __future__ import annotations

import threading
from typing import Callable

# A thread that was told to end may take its time; then the next one is told.
_PAUSE = 1.0


class Room:
    """Counts connections. Where there is no room, the one that has waited longest for its client goes. Thread-safe.

    Args:
        most: so many there are at once.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._closed = most, 0, False
        self._waiting: dict[object, Callable[[], None]] = {}
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Take a place once there is one; False when it was closed."""
        with self._changed:
            while self._taken >= self._most and not self._closed:
                if self._waiting:
                    self._waiting.pop(next(iter(self._waiting)))()
                self._changed.wait(_PAUSE)
            self._taken += not self._closed
            return not self._closed

    def waits(self, connection: object, end: Callable[[], None]) -> None:
        """Note that nothing is lost when a connection is ended by `end`: its client has asked for nothing."""
        with self._changed:
            self._waiting.pop(connection, None)
            self._waiting[connection] = end
            self._changed.notify()

    def works(self, connection: object) -> None:
        """Note that its client has asked for something."""
        with self._changed:
            self._waiting.pop(connection, None)

    def leave(self, connection: object) -> None:
        """Give a place back."""
        with self._changed:
            self._waiting.pop(connection, None)
            self._taken -= 1
            self._changed.notify()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
