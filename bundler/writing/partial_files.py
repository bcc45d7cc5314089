"""The files of an archive that is being written, as one: `NAME.partial`, or one for each part."""

from __future__ import annotations

import bisect
import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from bundler.sources.own_files import open_own
from bundles.archive.parts import further_parts
from bundles.errors import ArchiveError, BundleError, DiskFullError, UsageError, reason
from bundles.runtime.closeable import Closeable
from bundles.runtime.sizes import human_size
from bundles.runtime.system import system

PARTIAL = ".partial"


def unfinished_files(path: Path) -> list[Path]:
    """List the unfinished files of the archive `path` that are there, however it was cut."""
    names = (path, *further_parts(path, 0, PARTIAL))
    return [partial for partial in map(_partial, names) if partial.exists()]


def disk_usage(files: Sequence[Path]) -> int:
    """Count the bytes that files take up on the medium."""
    return sum(system.allocated(file.stat()) for file in files)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


class Unfinished(Closeable):
    """Opens or creates the unfinished files of `paths`. A context manager; for use by several threads.

    Args:
        paths: the final names, in order.
        sizes: the sizes in bytes that the files will have.
        renaming: an earlier run got as far as giving final names: files that have them are taken back.

    Raises:
        UsageError: they cannot be written there.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int], *, renaming: bool = False) -> None:
        self.paths, self.sizes = tuple(paths), tuple(sizes)
        self.partials = tuple(map(_partial, paths))
        self._ends = list(itertools.accumulate(sizes))
        self._files: list[int] = []
        try:
            taken_back = []
            for path, partial in zip(self.paths, self.partials):
                has_its_name = renaming and path.exists() and not partial.exists()
                place, create = (path, 0) if has_its_name else (partial, os.O_CREAT)
                self._files.append(open_own(place, os.O_RDWR | create, 0o644))
                taken_back += [(path, partial)] if has_its_name else []
            # Only now: where one of them cannot be written, all keep their names.
            for path, partial in taken_back:
                system.replace(path, partial)
            system.sync_directory(paths[0].parent)
        except OSError as error:
            self.close()
            raise UsageError(
                f"`{error.filename or paths[0]}` cannot be written: {reason(error)}",
                hint="choose another place with -o FILE",
            ) from None
        except UsageError:
            self.close()
            raise

    def clear(self) -> None:
        """Forget what is in them."""
        for file in self._files:
            os.ftruncate(file, 0)

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset of the archive, whole.

        Raises:
            DiskFullError: no space is left.
            ArchiveError: the medium failed.
        """
        done = 0
        while done < len(data):
            index, start = self._locate(offset + done)
            view = data[done : done + self.sizes[index] - start]
            try:
                done += system.write_at(self._files[index], view, start)
            except OSError as error:
                raise self._failed(error, index, start) from None

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with what was written at `offset`; fewer bytes only where nothing was written.

        Raises:
            ArchiveError: the medium failed.
        """
        done = 0
        while done < len(buffer) and offset + done < self._ends[-1]:
            index, start = self._locate(offset + done)
            try:
                view = buffer[done : done + self.sizes[index] - start]
                count = system.read_at(self._files[index], view, start)
            except OSError as error:
                raise self._failed(error, index, start) from None
            if count == 0:
                break
            done += count
        return done

    def sync(self) -> None:
        """Push what is written to the medium.

        Raises:
            DiskFullError, ArchiveError: as for `write`.
        """
        for index, file in enumerate(self._files):
            try:
                system.sync_data(file)
            except OSError as error:
                raise self._failed(error, index, self.sizes[index]) from None

    def end(self) -> None:
        """Give the files the sizes they are to have, and push them to the medium.

        Raises:
            DiskFullError, ArchiveError: as for `write`.
        """
        for index, (file, size) in enumerate(zip(self._files, self.sizes)):
            try:
                os.ftruncate(file, size)
                system.sync(file)
            except OSError as error:
                raise self._failed(error, index, size) from None

    def forget(self, offset: int, size: int) -> None:
        """Let these bytes come from the medium when they are read again.

        After a write that failed late, the page cache may hold bytes that the medium never got.
        """
        while size > 0:
            index, start = self._locate(offset)
            count = min(size, self.sizes[index] - start)
            system.forget(self._files[index], start, count)
            offset, size = offset + count, size - count

    def rename(self) -> None:
        """Give the files their final names."""
        for partial, path in zip(self.partials, self.paths):
            system.replace(partial, path)
        system.sync_directory(self.paths[0].parent)

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def _locate(self, offset: int) -> tuple[int, int]:
        index = min(bisect.bisect_right(self._ends, offset), len(self._ends) - 1)
        return index, offset - self._ends[index] + self.sizes[index]

    def _failed(self, error: OSError, index: int, offset: int) -> BundleError:
        name = self.partials[index]
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(
                f"no space left for `{name}`; the archive needs {human_size(self._ends[-1])} in all",
                hint="make room and run the same command again; it goes on where it stopped",
            )
        if error.errno == errno.EFBIG:
            return DiskFullError(
                f"the file system under `{name}` does not take a file of {human_size(offset)}",
                hint="use --split 4000MiB, or choose a place on another file system with -o FILE",
            )
        return ArchiveError(
            f"`{name}` cannot be written or read at byte {offset}: {reason(error)}",
            hint="run the same command again; it goes on where it stopped",
        )
