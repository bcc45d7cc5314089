"""What the file system under a path allows."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Optional

from bundles.errors import BundleError, UsageError, reason

# The largest file of FAT32: its size field has 32 bits.
FAT_LIMIT = 4_294_967_295
_FAT = frozenset({"vfat", "msdos", "fat", "fuse.fusefat", "umsdos"})
_MOUNTS = Path("/proc/self/mountinfo")


def largest_file(directory: Path, mounts: Path = _MOUNTS) -> Optional[int]:
    """Return the most bytes that a file there can have, when its file system has a low limit; else None.

    Args:
        directory: where the file will be.
        mounts: the table of mounts, as proc(5) describes /proc/PID/mountinfo.
    """
    return FAT_LIMIT if _type(directory.resolve(), mounts) in _FAT else None


def _type(directory: Path, mounts: Path) -> str:
    """Find the type of the file system there; empty when it is not known. The last mount on the longest path counts."""
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
    """Return the bytes that this user can still write there."""
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


def partial_of(path: Path) -> Path:
    """Return the temporary name under which a file is written, and that a killed run leaves."""
    # Always the same one: the next run writes it over.
    return path.with_name(f".{path.name}.partial")


def replace_file(
    path: Path, content: Iterable[bytes], mode: Optional[int] = None, owner: Optional[tuple[int, int]] = None
) -> None:
    """Write a file under a temporary name beside it, sync it, then give it its name: it is whole or as it was.

    Args:
        path: the file.
        content: its bytes, in pieces.
        mode: its permissions; what the umask leaves when they are not given.
        owner: user and group that it is given to.

    Raises:
        OSError: it cannot be written.
    """
    temporary = partial_of(path)
    # What a killed run has left; or what somebody put there, and must not be written to.
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            for piece in content:
                stream.write(piece)
            if mode is not None:
                os.fchmod(file, mode)
            if owner:
                os.chown(file, *owner)
            stream.flush()
            os.fsync(file)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_whole(path: Path, content: Iterable[bytes]) -> None:
    """Write a file that the user named, as `replace_file` does.

    Args:
        path: the file.
        content: its bytes, in pieces; what making them raises is passed on, and leaves nothing behind.

    Raises:
        UsageError: it cannot be written.
        OSError: no space (errno ENOSPC), which the command line reports as such.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        replace_file(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(
            f"`{path}` cannot be written: {reason(error)}",
            hint="name a file in a directory that exists and that you may write to",
        ) from None


def open_locked(path: Path, opened: Callable[[], int], busy: BundleError) -> int:
    """Open a file or directory and lock it for this process until it is closed.

    On a file system without locks it is only opened: two runs at once are then the user's to avoid.

    Args:
        path: what is locked.
        opened: opens it, and makes it when it is not there.
        busy: is raised when another process has it.

    Raises:
        OSError: it cannot be opened.
    """
    while True:
        file = opened()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(file)
                raise busy from None
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # another one ended, and took it along, while this one waited for the lock
