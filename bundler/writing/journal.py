"""What of an unfinished archive is already written, so that a second run goes on where the first one stopped.

A text file beside the `.partial`: the first line names the bundle, the others say how many leading bytes of a blob are
in place. A claim is a hint and never trusted: the bytes are hashed again, and a wrong claim costs a download, not a
wrong archive. Claims of written but not yet synced bytes count only while the machine has not been started anew.

It only ever grows, so that a run that ends while it begins loses nothing. It is also the lock: one writer at a time.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Optional

from bundler.sources.own_files import open_own
from bundler.sources.writer_lock import open_for_writer
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.runtime.system import system

# More than any size has.
_DIGITS = 20
_SUFFIX = ".journal"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT


class Journal:
    """Opens the journal of one bundle at `path`, and locks it until it is closed; nothing is written before `begin`.

    `claims` are what an earlier run left: digest to number of bytes. `renaming` says that an earlier run had all of
    the archive on the medium and began to give the files their final names. A journal of another bundle, or of the
    same with other `parts` (how it is cut), claims nothing.

    Raises:
        BundleError: another process has it.
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, bundle: Digest, parts: str = "whole") -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = open_for_writer(path, path.name[: -len(_SUFFIX)], lambda: open_own(path, _FLAGS))
        self._first = f"bundle {bundle} {parts}"
        data = _content(self._file)
        self.claims, complete = _read(data, self._first, system.boot_id())
        self.renaming = complete and bool(self.claims)
        self._is_new, self._ends_in_mid_line = not data, bool(data) and not data.endswith(b"\n")

    def begin(self) -> None:
        """Write down that this run works on the bundle; what another one left is forgotten."""
        if not self.claims:
            os.ftruncate(self._file, 0)
            self._append(f"{self._first}\n")
        elif self._ends_in_mid_line:
            self._append("\n")
            self._ends_in_mid_line = False
        self._append(f"boot {system.boot_id()}\n")

    def written(self, digest: Digest, size: int) -> None:
        """Claim that the first `size` bytes of a blob are written (they survive the end of this process)."""
        self._append(f"written {digest} {size}\n")

    def synced(self, sizes: dict[Digest, int]) -> None:
        """Claim that these leading bytes are on the medium (they survive a power cut)."""
        self._append("".join(f"synced {digest} {size}\n" for digest, size in sizes.items()), sync=True)

    def complete(self) -> None:
        """Claim that everything is on the medium, and that from now on files get their final names."""
        self._append("complete\n", sync=True)

    def adopt(self, claims: dict[Digest, int]) -> None:
        """Begin by taking over a finished archive: its files are to get their unfinished names back."""
        self.begin()
        self._append("".join(f"synced {digest} {size}\n" for digest, size in claims.items()))
        self.complete()
        self.claims, self.renaming = claims, True

    def _append(self, text: str, *, sync: bool = False) -> None:
        with self._lock:
            if self._file >= 0:
                os.write(self._file, text.encode())
                if sync:
                    system.sync_data(self._file)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def give_up(self) -> None:
        """Leave what an earlier run left, and no trace of this one: nothing is going to be done."""
        if self._is_new:
            self.remove()
        else:
            self.close()

    def remove(self) -> None:
        """Remove it: the archive is complete, and there is nothing to remember."""
        # Before the lock is given up, so that nobody finds a journal without a writer.
        self.path.unlink(missing_ok=True)
        self.close()


def journal_of(path: Path) -> Path:
    """Return where the journal of the archive `path` is."""
    return path.with_name(path.name + _SUFFIX)


def bundle_of(path: Path) -> Optional[tuple[Digest, str]]:
    """Tell of which bundle a journal is, and how that is cut; None when there is none, or nothing in it."""
    try:
        with path.open("rb") as file:
            words = file.readline(1 << 16).decode("ascii", "replace").split()
        return (Digest(words[1]), words[2]) if len(words) == 3 and words[0] == "bundle" else None
    except (OSError, UsageError):
        return None


def _content(file: int) -> bytes:
    pieces = []
    offset = 0
    buffer = memoryview(bytearray(1 << 20))
    while count := system.read_at(file, buffer, offset):
        pieces.append(bytes(buffer[:count]))
        offset += count
    return b"".join(pieces)


def _read(data: bytes, first: str, boot: str) -> tuple[dict[Digest, int], bool]:
    """Return the claims, and whether files were getting their final names."""
    lines = data.decode("ascii", "replace").split("\n")
    claims: dict[Digest, int] = {}
    if lines[0] != first:
        return claims, False
    same_boot = complete = False
    # The text behind the last newline is a line that was being written when the process ended.
    for line in lines[1:-1]:
        kind, _, rest = line.partition(" ")
        digest, _, size = rest.partition(" ")
        if kind == "boot":
            same_boot = rest == boot and boot != "unknown"
        elif kind == "complete":
            complete = True
        elif (kind == "synced" or (kind == "written" and same_boot)) and size.isdigit() and len(size) < _DIGITS:
            try:
                blob, count = Digest(digest), int(size)
            except UsageError:
                continue
            # A sync that began before a blob grew is noted after that: it takes nothing back.
            before = claims.get(blob, 0) if kind == "synced" and same_boot else 0
            claims[blob] = max(before, count)
    return claims, complete
