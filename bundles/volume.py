"""An archive's bytes as one seekable stream, wherever they are kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Optional

from bundles.errors import ArchiveError, ReadError


class Volume:
    """A file opened for reading at any offset, from any thread. A context manager.

    Raises:
        ArchiveError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise ArchiveError(
                f"`{path}` cannot be opened: {(error.strerror or str(error)).lower()}",
                hint="give the path of the archive that `bundle create` wrote",
            ) from None
        try:
            self.size = os.lseek(self._file, 0, os.SEEK_END)
            os.pread(self._file, 1, 0)
        except OSError as error:
            os.close(self._file)
            reason = "is a directory" if error.errno == errno.EISDIR else (error.strerror or str(error)).lower()
            raise ArchiveError(
                f"`{path}` is not an archive: {reason}", hint="give the path of the archive that `bundle create` wrote"
            ) from None

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; fewer bytes than asked for only at the end of the volume.

        Raises:
            ReadError: the medium failed; the message has the file and the offset.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._file, [buffer[done:]], offset + done)
            except OSError as error:
                raise ReadError(
                    f"`{self.path}` cannot be read at byte {offset + done}: {(error.strerror or str(error)).lower()}",
                    hint="put the medium back in and run the same command again; it goes on where it stopped",
                ) from None
            if count == 0:
                break
            done += count
        return done

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset`, fewer than `size` only at the end; for small content."""
        buffer = bytearray(size)
        count = self.readinto(offset, memoryview(buffer))
        return bytes(buffer[:count])

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Volume:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()
