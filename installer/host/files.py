"""Writing files on the host so that they are whole or not there, and belong to the right user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

from bundles.errors import BundleError, HostError, reason
from bundles.runtime.filesystem import free_space, open_locked, replace_file
from bundles.runtime.program import quote
from installer.host.relay import made_by_script, remove_at_end


def read_optional(path: Path) -> Optional[bytes]:
    """Read a file, or return None when it is not there.

    Raises:
        HostError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"`{path}` cannot be read: {reason(error)}") from None


def write_atomically(path: Path, content: Iterable[bytes], mode: int) -> None:
    """Write a file whole, as `replace_file` does.

    Missing directories are made. When root writes below somebody's directory (sudo), what is made belongs to the owner
    of that directory.

    Raises:
        HostError: it cannot be written.
        OSError: no space (errno ENOSPC), which the command line reports as such.
    """
    try:
        _make_directories(path.parent)
        # Whoever had an older file there keeps it.
        replace_file(path, content, mode, _owner(path if os.path.lexists(path) else path.parent))
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> Exception:
    """Explain why `path` cannot be written, with the next step; no space stays what it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    directory = quote(_nearest_directory(path))
    if isinstance(error, PermissionError):
        hint = f"sudo chown $USER {directory}"
    elif error.errno == errno.EROFS:
        hint = f"findmnt -T {directory}; it has to be mounted for writing"
    else:
        hint = f"ls -ld {directory} {quote(path)}"
    return HostError(f"`{path}` cannot be written: {reason(error)}", hint=hint)


def is_writable(path: Path) -> bool:
    """Tell whether `write_atomically` would be allowed to write there."""
    directory = _nearest_directory(path)
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _nearest_directory(path: Path) -> Path:
    """Return the nearest of the directories above `path` that can be seen to be there."""
    for place in path.parents:
        # Below a directory that must not be searched, asking is an error.
        with contextlib.suppress(OSError):
            if place.exists():
                return place
    return Path("/")


def missing_directories(directory: Path) -> list[Path]:
    """Return the directories that have to be made for `directory` to be there, the outermost first."""
    made = made_by_script()
    return [place for place in (directory, *directory.parents) if place in made or not place.exists()][::-1]


def is_seen(path: Path) -> bool:
    """Tell whether something is there. What is below a directory that this user may not search is not seen."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises PermissionError


def device_of(path: Path) -> int:
    """The file system that a path is on, or would be on."""
    return next(parent for parent in (path, *path.parents) if is_seen(parent)).stat().st_dev


def usable_size(path: Path) -> Optional[int]:
    """Return the bytes that are free at a path or at its nearest parent; None when that cannot be seen."""
    for place in (path, *path.parents):
        try:
            return free_space(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def directory_size(directory: Path) -> Optional[int]:
    """Return the bytes that what is in a directory takes on the disk, None when that cannot be seen."""
    try:
        if not os.access(directory, os.R_OK | os.X_OK):
            return None
        return sum(entry.lstat().st_blocks * 512 for entry in directory.rglob("*") if not entry.is_dir())
    except OSError:
        return None


def _make_directories(directory: Path) -> None:
    for place in missing_directories(directory):
        place.mkdir(mode=0o700, exist_ok=True)
        owner = _owner(place.parent)
        if owner:
            # Whoever owns the directory above can put another one, or a link, in the place of this one.
            file = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                give(file, owner)
            finally:
                os.close(file)


def _owner(path: Path) -> Optional[tuple[int, int]]:
    """Return whom root gives what it makes in that directory, or in the place of that file; None when not root."""
    if os.geteuid() != 0:
        return None
    state = path.lstat() if path.is_symlink() and not path.is_dir() else path.stat()
    return state.st_uid, state.st_gid


def give(file: int, owner: tuple[int, int]) -> None:
    """Give an open file or directory of root's to somebody; what belongs to another, or has a second name, stays."""
    state = os.fstat(file)
    if (state.st_uid, state.st_gid) == owner:
        # Nothing to do, which matters where install.sh made it and the container may only read it.
        return
    if state.st_uid == os.geteuid() and (stat.S_ISDIR(state.st_mode) or state.st_nlink == 1):
        os.fchown(file, *owner)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two installations do not work on one host at a time.

    Raises:
        BundleError: another one holds it.
        HostError: it cannot be made.
    """
    busy = BundleError(
        "another `bundle install` is running on this host", hint="wait until it has ended, then run this again"
    )
    with contextlib.ExitStack() as stack:
        try:
            _make_directories(path.parent)
            stack.callback(os.close, open_locked(path, lambda: _open_lock(path), busy))
        except OSError as error:
            raise _refused(path, error) from None
        yield


def _open_lock(path: Path) -> int:
    """Open a lock file. One that root makes belongs to the owner of its directory; one that is there is not given away.

    Raises:
        OSError: it cannot be made, or another thing has its name.
    """
    owner = _owner(path.parent)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "it is not a file") from None
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if owner:
            give(file, owner)
    except OSError:
        os.close(file)
        raise
    return file


def remove_directories(directories: Iterable[Path]) -> None:
    """Remove directories as far as they are empty, those inside of others first."""
    deepest = sorted(directories, key=lambda place: -len(place.parts))
    for directory in deepest:
        with contextlib.suppress(OSError):
            directory.rmdir()
    remove_at_end(directory for directory in deepest if is_seen(directory))


def remove_file(path: Path) -> None:
    """Remove a file; one that is not there is no error.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"`{path}` cannot be removed: {reason(error)}", hint=f"sudo rm {quote(path)}") from None


def remove_tree(place: Path) -> None:
    """Remove a directory and what is in it; one that is not there is no error.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"`{place}` cannot be removed: {reason(error)}", hint=f"sudo rm -r {quote(place)}") from None


def read_json_file(path: Path) -> Optional[dict[str, Any]]:
    """Read a JSON object that another program keeps on the host; None when the file is not there.

    Raises:
        HostError: it cannot be read, or is not a JSON object.
    """
    data = read_optional(path)
    if data is None:
        return None
    try:
        value = json.loads(data) if data.strip() else {}
    except ValueError as error:
        hint = f"python3 -m json.tool {quote(path)}"
        raise HostError(f"`{path}` is not valid JSON: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise HostError(f"`{path}` is not a JSON object")
    return value
