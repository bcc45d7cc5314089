"""Pushing a file to its medium while the rest of it is still on its way."""

from __future__ import annotations

import threading
from typing import Optional

from bundler.writing.journal import Journal
from bundler.writing.partial_files import Unfinished
from bundles.archive.layout import Entry
from bundles.oci.digest import Digest

# How much is written before it is pushed to the medium: what a power loss can cost. On a slow medium more comes in
# during a sync, and the next one takes it all.
_STEP = 16 << 20


class Syncer(threading.Thread):
    """A thread that syncs `files` every 16 MiB and journals which bytes are safe then."""

    def __init__(self, files: Unfinished, journal: Journal) -> None:
        super().__init__(name="sync", daemon=True)
        self._files, self._journal = files, journal
        self._error: Optional[BaseException] = None
        self._changed = threading.Condition()
        self._pending = 0
        self._stopped = False
        self._positions: dict[Digest, int] = {}

    def wrote(self, count: int) -> None:
        """Note that `count` more bytes are written, anywhere in the archive. Raises as `check` does."""
        self.check()
        with self._changed:
            self._pending += count
            if self._pending >= _STEP:
                self._changed.notify()

    def check(self) -> None:
        """See whether all syncs went well. The system reports a failure once only: a later success means nothing.

        Raises:
            DiskFullError, ArchiveError: one did not.
        """
        if self._error:
            raise self._error

    def reached(self, entry: Entry, position: int) -> None:
        """Note that the first `position` bytes of a blob are written."""
        with self._changed:
            self._positions[Digest("sha256:" + entry.name[-64:])] = position

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  handed to the next writer
            self._error = error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._pending >= _STEP)
                if self._stopped:
                    return
                self._pending = 0
                safe, self._positions = self._positions, {}
            self._files.sync()
            self._journal.synced(safe)

    def stop(self) -> None:
        """End the thread; a sync under way is waited for."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self.is_alive():
            self.join()
