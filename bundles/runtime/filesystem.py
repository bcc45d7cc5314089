"""What the file system under a path allows."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from bundles.errors import BundleError, UsageError, reason

# The largest file of FAT32: its size field has 32 bits.
FAT_LIMIT = 4_294_967_295
_FAT = frozenset({"vfat", "msdos", "fat", "fuse.fusefat", "umsdos"})
_MOUNTS = Path("/proc/self/mountinfo")


def largest_file(directory: Path, mounts: Path = _MOUNTS) -> Optional[int]:
    """The most bytes that a file in `directory` can have, when its file system is one with a low limit; else None.

    Args:
        directory: where the file will be.
        mounts: the table of mounts, as proc(5) describes /proc/PID/mountinfo.
    """
    return FAT_LIMIT if _type(directory.resolve(), mounts) in _FAT else None


def _type(directory: Path, mounts: Path) -> str:
    """The type of the file system there; empty when it is not known. The last mount on the longest path counts."""
    best, found = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, rest = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if (point == directory or point in directory.parents) and len(point.parts) >= best:
            best, found = len(point.parts), rest.partition(" ")[0]
    return found


def free_space(directory: Path) -> int:
    """The bytes that this user can still write there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def sync_directory(path: Path) -> None:
    """Push the names in a directory to the medium."""
    directory = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems (FUSE, CIFS) cannot sync a directory; the file itself is synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO, errno.ENOSYS):
            raise
    finally:
        os.close(directory)


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file whole: it never has its name with only a part of its content."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def open_locked(path: Path, archive: str, opened: Callable[[], int]) -> int:
    """A file or directory that is locked for the one writer of an archive, until it is closed.

    On a file system without locks it is only opened: two runs at once are then the user's to avoid.

    Args:
        path: what is locked.
        archive: the archive's name.
        opened: opens it, and makes it when it is not there.

    Raises:
        BundleError: another process has it.
    """
    while True:
        file = opened()
        _lock(file, archive)
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # another writer ended, and took it along, while this one waited for the lock


def _lock(file: int, archive: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(file)
            raise BundleError(
                f"`{archive}` is being written by another `bundle create`",
                hint="wait for it to end, or choose another -o FILE",
            ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, then give it its name: it is whole or as it was.

    Raises:
        UsageError: it cannot be written.
        OSError: no space (errno ENOSPC), which the command line reports as such.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(
            f"`{path}` cannot be written: {reason(error)}",
            hint="name a file in a directory that exists and that you may write to",
        ) from None
