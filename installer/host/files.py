"""Writing files on the host so that they are whole or not there, and belong to the right user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

from bundles.errors import BundleError, HostError
from bundles.runtime.filesystem import free_space


def read_optional(path: Path) -> Optional[bytes]:
    """The content of a file, or None when it is not there.

    Raises:
        HostError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"`{path}` cannot be read: {_reason(error)}") from None


def write_atomically(path: Path, content: Iterable[bytes], mode: int) -> None:
    """Write a file under a temporary name in its directory, then give it its name.

    Missing directories are made. When root writes below somebody's directory (sudo), what is made belongs to the owner
    of that directory.

    Raises:
        HostError: it cannot be written.
        OSError: no space (errno ENOSPC), which the command line reports as such.
    """
    try:
        _make_directories(path.parent)
        temporary = partial_of(path)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                for chunk in content:
                    stream.write(chunk)
                os.fchmod(stream.fileno(), mode)
                _adopt(stream.fileno(), path)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise _refused(path, error) from None


def partial_of(path: Path) -> Path:
    """The temporary name under which a file is written, and that a killed run leaves."""
    # Always the same one: the next run writes it over.
    return path.with_name(f".{path.name}.partial")


def _refused(path: Path, error: OSError) -> Exception:
    """Why `path` cannot be written, with the next step; no space stays what it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    directory = shlex.quote(str(_nearest_directory(path)))
    if isinstance(error, PermissionError):
        hint = f"sudo chown $USER {directory}"
    elif error.errno == errno.EROFS:
        hint = f"findmnt -T {directory}; it has to be mounted for writing"
    else:
        hint = f"ls -ld {directory} {shlex.quote(str(path))}"
    return HostError(f"`{path}` cannot be written: {_reason(error)}", hint=hint)


def is_writable(path: Path) -> bool:
    """Whether `write_atomically` would be allowed to write there."""
    directory = _nearest_directory(path)
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _nearest_directory(path: Path) -> Path:
    """The nearest of the directories above `path` that can be seen to be there."""
    for place in path.parents:
        # Below a directory that must not be searched, asking is an error.
        with contextlib.suppress(OSError):
            if place.exists():
                return place
    return Path("/")


def missing_directories(directory: Path) -> list[Path]:
    """The directories that have to be made for `directory` to be there, the outermost first."""
    return [place for place in (directory, *directory.parents) if not place.exists()][::-1]


def is_seen(path: Path) -> bool:
    """Whether something is there. What is below a directory that this user may not search is not seen."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises PermissionError


def device_of(path: Path) -> int:
    """The file system that a path is on, or would be on."""
    return next(parent for parent in (path, *path.parents) if is_seen(parent)).stat().st_dev


def usable_size(path: Path) -> Optional[int]:
    """The bytes that are free at a path or at its nearest parent; None when that cannot be seen."""
    for place in (path, *path.parents):
        try:
            return free_space(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def _make_directories(directory: Path) -> None:
    for place in missing_directories(directory):
        place.mkdir(mode=0o700, exist_ok=True)
        _adopt(place, place)


def _adopt(target: int | Path, path: Path) -> None:
    """Give what root made at `path` to whom an older file had there, else to the owner of the directory."""
    if os.geteuid() != 0:
        return
    like = path.stat() if isinstance(target, int) and path.exists() else path.parent.stat()
    os.chown(target, like.st_uid, like.st_gid)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two installations do not work on one host at a time.

    Raises:
        BundleError: another one holds it.
        HostError: it cannot be made.
    """
    try:
        _make_directories(path.parent)
        stream = path.open("a")
    except OSError as error:
        raise _refused(path, error) from None
    with stream:
        try:
            _adopt(path, path)
        except OSError as error:
            raise _refused(path, error) from None
        try:
            os.lockf(stream.fileno(), os.F_TLOCK, 0)
        except (BlockingIOError, PermissionError):
            raise BundleError(
                "another `bundle install` is running on this host", hint="wait until it has ended, then run this again"
            ) from None
        except OSError as error:
            raise _refused(path, error) from None
        yield


def _word(path: Path | str) -> str:
    """A path as one word of a command that a person types."""
    return shlex.quote(str(path))


def _remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            f"`{path}` cannot be removed: {(error.strerror or '').lower()}", hint=f"sudo rm {_word(path)}"
        ) from None


def _remove_tree(place: Path) -> None:
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(
            f"`{place}` cannot be removed: {(error.strerror or '').lower()}", hint=f"sudo rm -r {_word(place)}"
        ) from None


def read_json_file(path: Path) -> Optional[dict[str, Any]]:
    """A JSON object that another program keeps on the host; None when the file is not there.

    Raises:
        HostError: it cannot be read, or is not a JSON object.
    """
    data = read_optional(path)
    if data is None:
        return None
    try:
        value = json.loads(data) if data.strip() else {}
    except ValueError as error:
        hint = f"python3 -m json.tool {shlex.quote(str(path))}"
        raise HostError(f"`{path}` is not valid JSON: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise HostError(f"`{path}` is not a JSON object")
    return value
