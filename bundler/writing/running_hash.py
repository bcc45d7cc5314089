"""Hashing an archive while it is being written, in parallel and out of order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Optional

from bundler.writing.partial_files import Unfinished
from bundles.archive.layout import Entry, Layout
from bundles.errors import ArchiveError, InterruptedByUser
from bundles.runtime.workers import join

_CHUNK = 1 << 20


class _PartHash:
    """The SHA-256 of each of several files of `sizes` bytes, fed with their bytes in a row."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self._left = self._sizes[0]
        self._hash = hashlib.sha256()
        self.done: tuple[str, ...] = ()

    def update(self, data: memoryview) -> None:
        while len(data) >= self._left and len(self.done) < len(self._sizes):
            self._hash.update(data[: self._left])
            data = data[self._left :]
            self.done += (self._hash.hexdigest(),)
            self._hash = hashlib.sha256()
            self._left = self._sizes[len(self.done)] if len(self.done) < len(self._sizes) else 0
        self._hash.update(data)
        self._left -= len(data)

    def copy(self) -> _PartHash:
        twin = _PartHash(self._sizes)
        twin._left, twin._hash, twin.done = self._left, self._hash.copy(), self.done
        return twin


class FrontierHasher(threading.Thread):
    """A thread that hashes `files` from the front to as far as they are written without a gap, each on its own.

    Blobs arrive in nearly the order of the archive, so what is hashed is still in the page cache. A blob that begins
    again takes the hash back to where the blob began. Writers call `grown` and `complete`.
    """

    def __init__(self, files: Unfinished, layout: Layout) -> None:
        super().__init__(name="hash", daemon=True)
        self._files, self._layout = files, layout
        self._changed = threading.Condition()
        self._ready: dict[int, int] = {}
        """For each entry (by the offset of its header) the offset up to which it is written."""
        self._restarted: set[int] = set()
        self._stopped = False
        self._hash = _PartHash(files.sizes)
        self._error: Optional[BaseException] = None

    def grown(self, entry: Entry, position: int) -> None:
        """Note that the first `position` bytes of an entry are written; 0 means that it begins again."""
        with self._changed:
            if position == 0:
                self._restarted.add(entry.offset)
            # Never the whole entry: only `complete` says that it will not begin again.
            self._ready[entry.offset] = min(entry.data_offset + position, entry.end - 1)
            self._changed.notify()

    def complete(self, entry: Entry) -> None:
        """Note that all of an entry is written, padding included, and will not change."""
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
            count = self._files.readinto(position, view)
            if not count:
                raise ArchiveError(
                    f"`{self._files.partials[0]}` was cut by another program while it was written",
                    hint="run the same command again; it goes on where it stopped",
                )
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

    def result(self, tail: bytes) -> tuple[str, ...]:
        """Return the hex digest of each file, once every entry is complete; `tail` is what follows the entries."""
        join(self)
        if self._error:
            raise self._error
        self._hash.update(memoryview(tail))
        return self._hash.done

    def stop(self) -> None:
        """End the thread, whatever it waits for."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self.is_alive():
            self.join()
