"""Hashing a whole file while it is being written, in parallel and out of order."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Optional

from bundles.errors import InterruptedByUser
from bundles.layout import Entry, Layout

_CHUNK = 1 << 20


class FrontierHasher(threading.Thread):
    """A thread that hashes `file` from the front to as far as it is written without a gap.

    Blobs arrive in nearly the order of the archive, so what is hashed is still in the page cache. A blob that begins
    again takes the hash back to where the blob began. Writers call `grown` and `complete`.
    """

    def __init__(self, file: int, layout: Layout) -> None:
        super().__init__(name="hash", daemon=True)
        self._file, self._layout = file, layout
        self._changed = threading.Condition()
        self._ready: dict[int, int] = {}
        """For each entry (by the offset of its header) the offset up to which it is written."""
        self._restarted: set[int] = set()
        self._stopped = False
        self._hash = hashlib.sha256()
        self._error: Optional[BaseException] = None

    def grown(self, entry: Entry, position: int) -> None:
        """The first `position` bytes of an entry are written; 0 means that it begins again."""
        with self._changed:
            if position == 0:
                self._restarted.add(entry.offset)
            # Never the whole entry: only `complete` says that it will not begin again.
            self._ready[entry.offset] = min(entry.data_offset + position, entry.end - 1)
            self._changed.notify()

    def complete(self, entry: Entry) -> None:
        """All of an entry is written, padding included, and will not change."""
        with self._changed:
            self._ready[entry.offset] = entry.end
            self._changed.notify()

    def run(self) -> None:
        try:
            buffer = memoryview(bytearray(_CHUNK))
            for entry in self._layout.entries:
                self._hash_entry(entry, buffer)
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits for the result
            self._error = error

    def _hash_entry(self, entry: Entry, buffer: memoryview) -> None:
        before = self._hash.copy()
        position = entry.offset
        while position < entry.end:
            ready = self._wait(entry, position)
            if ready is None:
                self._hash, position = before.copy(), entry.offset
                continue
            view = buffer[: ready - position]
            count = os.preadv(self._file, [view], position)
            self._hash.update(view[:count])
            position += count

    def _wait(self, entry: Entry, position: int) -> Optional[int]:
        """Wait for bytes behind `position` and return up to where they are; None when the entry has begun again."""
        with self._changed:
            while True:
                if self._stopped:
                    raise InterruptedByUser("interrupted")
                if entry.offset in self._restarted:
                    self._restarted.discard(entry.offset)
                    return None
                if self._ready.get(entry.offset, 0) > position:
                    return self._ready[entry.offset]
                self._changed.wait()

    def result(self, tail: bytes) -> str:
        """The hex digest of the whole file, once every entry is complete; `tail` is what follows the entries."""
        self.join()
        if self._error:
            raise self._error
        self._hash.update(tail)
        return self._hash.hexdigest()

    def stop(self) -> None:
        """End the thread, whatever it waits for."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self.is_alive():
            self.join()
