"""An archive's bytes as one seekable stream, whether it is one file or several parts."""

from __future__ import annotations

import bisect
import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from bundles.closing import Closing
from bundles.errors import ArchiveError, ReadError
from bundles.parts import find

_ANOTHER_PATH = "give the path of the archive that `bundle create` wrote"


class Volume(Closing):
    """The files of an archive, opened for reading at any offset, from any thread. A context manager.

    Args:
        path: the archive, or any of its parts.
        directories: where to look for parts besides the directory of `path`.

    Raises:
        ArchiveError: a file cannot be opened, or a part is missing.
    """

    def __init__(self, path: Path, directories: Sequence[Path] = ()) -> None:
        self.paths = find(path, directories)
        """The files, in their order."""
        self.sizes: tuple[int, ...] = ()
        """The size of each file in bytes."""
        self._files: list[int] = []
        try:
            for part in self.paths:
                self._files.append(_open(part))
                self.sizes += (_size(part, self._files[-1]),)
        except BaseException:
            self.close()
            raise
        self._ends = list(itertools.accumulate(self.sizes))
        self.size = self._ends[-1]

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; fewer bytes than asked for only at the end of the volume.

        Raises:
            ReadError: the medium failed; the message has the file and the offset in it.
        """
        done = 0
        while done < len(buffer) and offset + done < self.size:
            index, start = self.locate(offset + done)
            view = buffer[done : done + self.sizes[index] - start]
            try:
                count = os.preadv(self._files[index], [view], start)
            except OSError as error:
                raise self._failed(index, start, (error.strerror or str(error)).lower()) from None
            if count == 0:
                raise self._failed(index, start, f"the file ends there, and had {self.sizes[index]} bytes before")
            done += count
        return done

    def locate(self, offset: int) -> tuple[int, int]:
        """Which file (counted from 0) holds that byte of the archive, and the offset in it."""
        index = min(bisect.bisect_right(self._ends, offset), len(self._ends) - 1)
        return index, offset - self._ends[index] + self.sizes[index]

    def names(self, offset: int, size: int) -> str:
        """The names of the files that hold `size` bytes from `offset`, for people."""
        first, last = self.locate(offset)[0], self.locate(offset + max(size, 1) - 1)[0]
        return ", ".join(path.name for path in self.paths[first : last + 1])

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset`, fewer than `size` only at the end; for small content."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        count = self.readinto(offset, memoryview(buffer))
        return bytes(buffer[:count])

    def _failed(self, index: int, offset: int, reason: str) -> ReadError:
        return ReadError(
            f"`{self.paths[index]}` cannot be read at byte {offset}: {reason}",
            hint="put the medium back in and run the same command again; it goes on where it stopped",
        )

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ArchiveError(f"`{path}` cannot be opened: {reason}", hint=_ANOTHER_PATH) from None


def _size(path: Path, file: int) -> int:
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        os.pread(file, 1, 0)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.EIO:
            raise ReadError(f"`{path}` cannot be read at byte 0: {reason}", hint="put the medium back in") from None
        raise ArchiveError(f"`{path}` is not an archive: {reason}", hint=_ANOTHER_PATH) from None
    return size
