"""Say what is being done, with the time since the program started."""

from __future__ import annotations

import sys
import threading
import time

_started = time.monotonic()
_lock = threading.Lock()


def say(text: str) -> None:
    """Write one line to stderr: seconds since the start, then `text`."""
    with _lock:
        sys.stderr.write(f"[{time.monotonic() - _started:7.1f} s] {text}\n")
        sys.stderr.flush()
