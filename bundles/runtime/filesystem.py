"""What the file system under a path allows."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Optional

from bundles.errors import BundleError, UsageError, reason
from bundles.runtime.program import quote
from bundles.runtime.signals import held
from bundles.runtime.system import system

# The largest file of FAT32: its size field has 32 bits.
FAT_LIMIT = 4_294_967_295
_FAT = frozenset({"vfat", "msdos", "fat", "fat32", "fuse.fusefat", "umsdos"})


def largest_file(directory: Path) -> Optional[int]:
    """Return the most bytes that a file there can have, when its file system has a low limit; else None."""
    return FAT_LIMIT if system.file_system(directory) in _FAT else None


def free_space(directory: Path) -> int:
    """Return the bytes that this user can still write there."""
    return shutil.disk_usage(directory).free


def partial_of(path: Path) -> Path:
    """Return the temporary name under which a file is written, and that a killed run leaves."""
    # Always the same one: the next run writes it over.
    return path.with_name(f".{path.name}.partial")


def probe(path: Path) -> None:
    """Ask for a file, which need not be there.

    Raises:
        OSError: none can be: the name is too long, or a directory on the way must not be entered.
    """
    # Path.exists keeps that to itself, from Python 3.14 on.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()


def check_name(path: Path, hint: str) -> None:
    """Raise UsageError, with that next step, when no file of this system can be called so."""
    if why := system.forbidden(path.name):
        raise UsageError(f"`{path.name}` cannot be written: {why}", hint=hint)


def no_directory(path: Path) -> UsageError:
    """Return the error for a directory that is not there, where a file is to be written."""
    written_out = without_tilde(path)
    step = f"mkdir -p {quote(path)}" if written_out is None else f"no shell has replaced the `~`: write {written_out}"
    return UsageError(f"the directory `{path}` does not exist", hint=step)


def without_tilde(path: Path) -> Optional[str]:
    """Return, quoted, the path that was meant where a `~` stayed, as shells leave it within a word; else None."""
    # Who has no home has nothing that it could have meant.
    with contextlib.suppress(ValueError, RuntimeError):
        return quote(Path(*path.parts[path.parts.index("~") :]).expanduser())
    return None


def check_ending(text: str) -> None:
    """Raise UsageError when a path ends in a slash and is no directory: a file would be written without the slash."""
    if text.endswith(("/", os.sep)) and not Path(text).is_dir():
        raise no_directory(Path(text))


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
        BundleError: another process is writing it, or has begun to meanwhile.
        OSError: it cannot be written.
    """
    temporary = partial_of(path)
    busy = BundleError(f"`{path}` is being written by another process", hint="wait until that has ended, and try again")
    with contextlib.ExitStack() as stack:
        # An interruption finds all of it or nothing, and so leaves nothing.
        with held():
            file = _open_new(temporary, 0o666 if mode is None else 0o600, busy)
            stream = stack.enter_context(os.fdopen(file, "wb"))
            stack.callback(_remove_named, file, temporary)
        for piece in content:
            stream.write(piece)
        system.set_access(file, mode, owner)
        stream.flush()
        system.sync(file)
        # Where there are no locks, somebody may have taken it for what a killed run has left.
        if not system.is_named(file, temporary):
            raise busy
        system.replace(temporary, path)


def _remove_named(file: int, path: Path) -> None:
    """Remove a file while it is open and locked, unless what has its name now is another's."""
    if system.is_named(file, path):
        path.unlink()


def _open_new(path: Path, mode: int, busy: BundleError) -> int:
    """Make a file and lock it; `busy` is raised when another process has it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    while True:
        try:
            return open_locked(path, lambda: system.open_file(path, flags, mode), busy)
        except FileExistsError:
            _remove_left(path, busy)


def _remove_left(path: Path, busy: BundleError) -> None:
    """Remove what a killed run has left; or what somebody put there, and must not be written to."""
    try:
        left = open_locked(path, lambda: system.open_no_link(path, os.O_RDWR), busy)
    except OSError:
        # Nobody writes a link, or what may not be written to.
        path.unlink(missing_ok=True)
        return
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(left)


def write_whole(path: Path, content: Iterable[bytes]) -> None:
    """Write a file that the user named, as `replace_file` does.

    Args:
        path: the file.
        content: its bytes, in pieces; what making them raises is passed on, and leaves nothing behind.

    Raises:
        UsageError: it cannot be written.
        BundleError: another process is writing it.
        OSError: no space for that file (errno ENOSPC), which the command line reports as such.
    """
    check_name(path, "name another file")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        replace_file(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # That of a write names no file, and one of a rename the temporary one.
            raise OSError(error.errno, error.strerror, str(path)) from None
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise no_directory(path.parent) from None
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
        if not system.lock(file):
            os.close(file)
            raise busy
        if system.is_named(file, path):
            return file
        os.close(file)  # another one ended, and took it along, while this one waited for the lock
