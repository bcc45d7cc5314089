"""An archive's bytes as one seekable stream, whether it is one file or several parts."""

from __future__ import annotations

import bisect
import errno
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.layout import BLOCK, Layout, header
from bundles.archive.parts import find, part_name
from bundles.errors import (
    ArchiveError,
    DamagedArchiveError,
    IncompleteArchiveError,
    Problem,
    ReadError,
    UsageError,
    reason,
)
from bundles.oci.digest import Digest
from bundles.runtime.closeable import Closeable
from bundles.runtime.program import quote
from bundles.runtime.system import system

_FOREIGN = "is damaged, or a part of another archive"
# To tell where a part belongs it is compared with all others.
_EXPLAINED = 20

# What `bundle create` reads images from, as it is named there; no archive is called so.
_IMAGES_FROM = ("bundle", "oci", "oci-archive", "docker-archive", "hauler")
_ANOTHER_PATH = "give the path of the archive that `bundle create` wrote"


class Volume(Closeable):
    """The files of an archive, opened for reading at any offset, from any thread. A context manager.

    Args:
        path: the archive, or any of its parts.
        directories: where to look for parts besides the directory of `path`.
        files: its files in their order, where somebody knows them; else they are looked for.

    Raises:
        ArchiveError: a file cannot be opened, or a part is missing.
    """

    def __init__(self, path: Path, directories: Sequence[Path] = (), files: Sequence[Path] = ()) -> None:
        self.paths = tuple(files) or find(path, directories)
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
                count = system.read_at(self._files[index], view, start)
            except OSError as error:
                raise self._failed(index, start, reason(error)) from None
            if count == 0:
                raise self._failed(index, start, f"the file ends there, and had {self.sizes[index]} bytes before")
            done += count
        return done

    def locate(self, offset: int) -> tuple[int, int]:
        """Find the file (counted from 0) that holds that byte of the archive, and the offset in it."""
        index = min(bisect.bisect_right(self._ends, offset), len(self._ends) - 1)
        return index, offset - self._ends[index] + self.sizes[index]

    def names(self, offset: int, size: int) -> str:
        """Return the names of the files that hold `size` bytes from `offset`, for people."""
        first, last = self.locate(offset)[0], self.locate(offset + max(size, 1) - 1)[0]
        return ", ".join(path.name for path in self.paths[first : last + 1])

    def read(self, offset: int, size: int) -> bytes:
        """Read the bytes from `offset`, fewer than `size` only at the end; for small content."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        count = self.readinto(offset, memoryview(buffer))
        return bytes(buffer[:count])

    def _failed(self, index: int, offset: int, why: str) -> ReadError:
        return ReadError(
            f"`{self.paths[index]}` cannot be read at byte {offset}: {why}",
            hint="put the medium back in and run the same command again; it goes on where it stopped",
        )

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _open(path: Path) -> int:
    try:
        return system.open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        raise UsageError(f"`{path}` is not there", hint=_for_create(str(path)) or _ANOTHER_PATH) from None
    except OSError as error:
        raise ArchiveError(f"`{path}` cannot be opened: {reason(error)}", hint=_ANOTHER_PATH) from None


def _for_create(text: str) -> Optional[str]:
    """Say what to type for an archive or file that is named as an image of `bundle create`; None for anything else."""
    kind, _, rest = text.partition(":")
    if kind not in _IMAGES_FROM or not rest or not Path(rest).exists():
        return None
    return (
        f"give its path alone: {quote(rest)}" if kind == "bundle" else f"bundle create {quote(text)} makes an archive"
    )


def _size(path: Path, file: int) -> int:
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        system.read_at(file, memoryview(bytearray(1)), 0)
    except OSError as error:
        if error.errno == errno.EIO:
            raise ReadError(
                f"`{path}` cannot be read at byte 0: {reason(error)}", hint="put the medium back in"
            ) from None
        if error.errno == errno.ESPIPE:
            raise UsageError(
                f"`{path}` is a pipe: expected a file, since it is read at many places",
                hint="save what comes out of it to a file first, and name that",
            ) from None
        raise ArchiveError(f"`{path}` is not an archive: {reason(error)}", hint=_ANOTHER_PATH) from None
    return size


def check_parts(volume: Volume, layout: Layout, program: Digest) -> None:
    """Compare the parts with the layout; `program` is the digest of what the archive ends with.

    Raises:
        IncompleteArchiveError: a part is missing or cut short; the message has its name.
        DamagedArchiveError: a part stands in the place of another, or comes from another archive, or is one too many.
    """
    name = volume.paths[0].name[:-4]
    hint = f"{system.compare_checksums(name)} says which parts are right; copy the others again"
    if volume.size < layout.size:
        raise IncompleteArchiveError(
            f"`{name}` has {volume.size} of {layout.size} bytes in {len(volume.paths)} parts",
            hint=hint,
            problems=_shortage(volume, layout, name, program),
        )
    if volume.size > layout.size:
        raise DamagedArchiveError(
            f"`{name}` has {volume.size - layout.size} bytes too many in {len(volume.paths)} parts",
            hint=hint,
            problems=_excess(volume, layout),
        )
    starts = [sum(volume.sizes[:index]) for index in range(len(volume.paths))]
    wrong = [index for index, start in enumerate(starts) if not _fits(volume, layout, start, index)]
    if wrong:
        reasons = [_why(volume, layout, starts, index) for index in wrong[:_EXPLAINED]]
        reasons += [_FOREIGN] * len(wrong[_EXPLAINED:])
        problems = [Problem(volume.paths[index].name, why) for index, why in zip(wrong, reasons)]
        raise DamagedArchiveError(f"the parts of `{name}` do not belong together", hint=hint, problems=problems)


def _shortage(volume: Volume, layout: Layout, name: str, program: Digest) -> list[Problem]:
    """Find which parts are too short, as far as the sizes of the others and the end of the last one tell."""
    *before, last = volume.sizes
    full = max(before or [last])
    if _ends_right(volume, layout, program):
        # All but the last two have the same size, and the last one is whole: so the size of the one before it is known.
        expected = [*([full] * (len(before) - 1)), layout.size - last - full * (len(before) - 1)]
        if expected[-1] > full:
            expected = [full + 1] * len(before)
        return [_cut_short(volume, index) for index, size in enumerate(before) if size < expected[index]]
    short = [_cut_short(volume, index) for index, size in enumerate(before) if size < full]
    if last < full and volume.size != layout.program_offset:
        return [*short, _cut_short(volume, len(before))]
    return [*short, Problem(part_name(name, len(volume.paths) + 1), "is missing")]


def _cut_short(volume: Volume, index: int) -> Problem:
    return Problem(volume.paths[index].name, f"is cut short: it has {volume.sizes[index]} bytes")


def _excess(volume: Volume, layout: Layout) -> list[Problem]:
    total = 0
    for index, size in enumerate(volume.sizes):
        total += size
        if total == layout.size:
            return [Problem(path.name, "is a part too many") for path in volume.paths[index + 1 :]]
    sizes = zip(volume.paths, volume.sizes)
    return [Problem(path.name, f"has {size} bytes") for path, size in sizes]


def _ends_right(volume: Volume, layout: Layout, program: Digest) -> bool:
    """Tell whether the last part ends as the archive ends."""
    size = min(layout.program_size, volume.size)
    return Digest.of(volume.read(volume.size - size, size)) == program


def _fits(volume: Volume, layout: Layout, start: int, index: int) -> bool:
    """Tell whether the tar headers of file `index` are those that belong there when it begins at `start`."""
    here = sum(volume.sizes[:index])
    size = volume.sizes[index]
    return all(
        volume.read(here + offset - start, BLOCK) == block for offset, block in _headers(layout, start, start + size)
    )


def _headers(layout: Layout, start: int, end: int) -> Iterable[tuple[int, bytes]]:
    """Find the first and the last tar header between two offsets of the archive, and where they stand."""
    inside = [entry for entry in layout.entries if start <= entry.offset and entry.data_offset <= end]
    return [(entry.offset, header(entry.name, entry.size)) for entry in {*inside[:1], *inside[-1:]}]


def _why(volume: Volume, layout: Layout, starts: Sequence[int], index: int) -> str:
    place: Optional[int] = None
    for other, start in enumerate(starts):
        same_size = volume.sizes[other] == volume.sizes[index]
        if other != index and same_size and _headers(layout, start, start + volume.sizes[index]):
            place = other if _fits(volume, layout, start, index) else place
    if place is not None:
        return f"holds what belongs into `{volume.paths[place].name}`"
    return _FOREIGN
