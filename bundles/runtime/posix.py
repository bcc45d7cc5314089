"""What Linux and macOS have: `windows.py` has the same names. What macOS lacks of the two is settled here, too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

NAME = {"linux": "Linux", "darwin": "macOS"}.get(sys.platform, sys.platform)
"""What people call this system."""
PYTHON = "python3"
"""What people type to run Python."""
IS_HOST = sys.platform.startswith("linux")
"""Whether an archive can be installed on such a system."""
DOCKER_ENGINE = "unix:///var/run/docker.sock"
"""Where Docker's engine listens when no context says anything else."""
CERTIFICATES = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
"""Where the system's administrator keeps certificates for single registries."""

_MOUNTS = Path("/proc/self/mountinfo")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# On macOS fsync(2) leaves bytes in the drive's cache; this pushes them on.
_FULL_SYNC: Optional[int] = getattr(fcntl, "F_FULLFSYNC", None)
# What is not the drive's failure, but a file system that knows no such thing (FUSE, CIFS).
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO, errno.ENOSYS)


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file, which may get another name, or be removed, while it is open.

    Args:
        path: of the file.
        flags: as for os.open: O_RDONLY or O_RDWR, with O_CREAT, O_EXCL or O_APPEND.
        mode: the permissions of one that is made.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, flags, mode)


def open_no_link(path: Path, flags: int, mode: int = 0o666) -> int:
    """Do the same, but not through a link in the place of the file.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW, mode)


def open_directory(path: Path) -> int:
    """Open a directory, never through a link, so that `lock` locks it.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def remove_directory(path: Path, file: int) -> None:
    """Remove a directory of `open_directory`, unless there is something in it, and close it."""
    try:
        # Before the lock is given up, so that nobody has the lock of one that is gone.
        with contextlib.suppress(OSError):
            path.rmdir()
    finally:
        os.close(file)


def is_named(file: int, path: Path) -> bool:
    """Tell whether what `open_file` or `open_directory` opened still has that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def lock(file: int) -> bool:
    """Lock an open file or directory until it is closed; False when another process, or another handle, has it.

    On a file system without locks nothing is locked, and that is no error.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def read_at(file: int, buffer: memoryview, offset: int) -> int:
    """Read at an offset, from any thread; return how many bytes came, 0 at the end."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [buffer], offset)
    # macOS before 11.
    data = os.pread(file, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


def write_at(file: int, data: memoryview, offset: int) -> int:
    """Write at an offset, from any thread; return how many bytes were taken."""
    return os.pwrite(file, data, offset)


def sync_data(file: int) -> None:
    """Push what was written to a file to its medium, and of what is known about it what is needed to read it."""
    if _FULL_SYNC is None:
        os.fdatasync(file)
    else:
        sync(file)


def sync(file: int) -> None:
    """Push a file to its medium."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(file, _FULL_SYNC)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(file)


def sync_directory(path: Path) -> None:
    """Push the names in a directory to the medium."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(directory)


def forget(file: int, offset: int, size: int) -> None:
    """Let these bytes come from the medium when they are read again, where the system can be asked for that."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, offset, size, os.POSIX_FADV_DONTNEED)


def replace(source: Path, target: Path) -> None:
    """Give a file another name; what had that name is gone.

    Raises:
        OSError: it cannot be done.
    """
    source.replace(target)


def set_access(file: int, mode: Optional[int], owner: Optional[tuple[int, int]]) -> None:
    """Give an open file its permissions, and to a user and a group."""
    if mode is not None:
        os.fchmod(file, mode)
    if owner:
        os.chown(file, *owner)


def is_root() -> bool:
    """Tell whether this runs as root, and may have been called with sudo."""
    return os.geteuid() == 0


def is_of_another(status: os.stat_result, directory: os.stat_result) -> bool:
    """Tell whether a file belongs neither to this user nor to the owner of the directory that it is in."""
    return status.st_uid not in (os.geteuid(), directory.st_uid)


def allocated(status: os.stat_result) -> int:
    """Return the bytes that a file takes up on the medium."""
    return status.st_blocks * 512


def file_system(directory: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system there, as mount(8) names it; empty when it is not known.

    Args:
        directory: where.
        mounts: the table of mounts, as proc(5) describes /proc/PID/mountinfo.
    """
    directory = directory.resolve()
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
        # The last mount on the longest path counts.
        if (point == directory or point in directory.parents) and len(point.parts) >= best:
            best, found = len(point.parts), rest.partition(" ")[0]
    return found


def forbidden(name: str) -> Optional[str]:
    """Return why a file here cannot have that name, None when it can."""
    return None


def full_path(path: Path, beyond: int) -> Path:
    """Return the absolute path, in a form that may be as long as the file system allows.

    Args:
        path: of a file or a directory.
        beyond: how much longer the paths are that are made of it.
    """
    return path.absolute()


def boot_id() -> str:
    """Return what is another word each time that the machine is started; `unknown` where there is none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        # macOS keeps it elsewhere.
        command = ["sysctl", "-n", "kern.bootsessionuuid"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def home(environment: Mapping[str, str]) -> Path:
    """Return the home directory of whom the environment is, where docker looks for it."""
    return Path(environment.get("HOME") or Path.home())


def certificates_name(host_port: str) -> str:
    """Return what Docker calls the directory of a registry's certificates."""
    return host_port


def compare_checksums(name: str) -> str:
    """Return what a person types to compare the files of an archive with NAME.sha256."""
    return f"{'shasum -a 256' if sys.platform == 'darwin' else 'sha256sum'} -c {quote(name)}.sha256"


def quote(text: str) -> str:
    """Return a text as one word of a command that a person types."""
    return shlex.quote(text)


def is_closed_pipe(error: OSError) -> bool:
    """Tell whether it says that nobody reads any more what is written."""
    return isinstance(error, BrokenPipeError)
