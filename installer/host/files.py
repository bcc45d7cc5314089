"""Writing files on the host so that they are whole or not there, and belong to the right user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

from bundles.errors import BundleError, HostError, reason
from bundles.runtime.filesystem import free_space, open_locked, replace_file
from bundles.runtime.program import quote


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
        replace_file(path, content, mode, _owner(path if path.exists() else path.parent))
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
    return [place for place in (directory, *directory.parents) if not place.exists()][::-1]


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
        _adopt(place)


def _owner(path: Path) -> Optional[tuple[int, int]]:
    """Return whom root gives what it makes there or in there; None when this is not root, who cannot give."""
    if os.geteuid() != 0:
        return None
    state = path.stat()
    return state.st_uid, state.st_gid


def _adopt(path: Path) -> None:
    """Give what root made to the owner of its directory."""
    owner = _owner(path.parent)
    if owner:
        os.chown(path, *owner)


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
            file = open_locked(path, lambda: os.open(path, os.O_RDWR | os.O_CREAT, 0o666), busy)
            stack.callback(os.close, file)
            _adopt(path)
        except OSError as error:
            raise _refused(path, error) from None
        yield


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
