"""What Windows has: `posix.py` has the same names, and says what each is for.

Files are opened by CreateFileW, since os.open lets nobody rename or remove what is open. Everything else is Python's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

# Of Windows alone, as type checkers know, which look at this module on other systems, too.
_msvcrt: Any = importlib.import_module("msvcrt")
_winreg: Any = importlib.import_module("winreg")
_ctypes: Any = ctypes
_kernel32: Any = _ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.CreateFileW.restype = ctypes.c_void_p
_kernel32.CreateFileW.argtypes = [
    ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32,
    ctypes.c_void_p,
]  # fmt: skip

NAME = "Windows"
PYTHON = "py"
IS_HOST = False
DOCKER_ENGINE = "npipe:////./pipe/docker_engine"
CERTIFICATES = (Path(os.environ.get("PROGRAMDATA") or r"C:\ProgramData") / "Docker" / "certs.d",)

# winnt.h, fileapi.h
_READ, _WRITE = 0x8000_0000, 0x4000_0000
_SHARED = 0x7  # reading, writing, and getting another name or none
_CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
_NORMAL, _THE_LINK_ITSELF = 0x80, 0x0020_0000
_INVALID = ctypes.c_void_p(-1).value
_IS_LINK = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT

# A lock keeps others from reading the bytes, too: what is locked is one far behind the end of any file, given by the
# upper half of its offset.
_LOCKED_HALF = 0x7FFF_FFFF
_LOCK_VIOLATION = 33
# What stands for a directory that is locked: a directory itself cannot be.
_LOCK_FILE = ".lock"
# A position belongs to an open file, and not to a thread.
_POSITIONS = [threading.Lock() for _ in range(64)]
# Scanners for viruses and search engines open what has just been written, for a moment.
_BUSY, _PATIENCE = (5, 32, _LOCK_VIOLATION), 5.0
# What CON.txt means, too.
_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 255
_MAX_PATH = 260
# What neither cmd nor PowerShell takes for anything else.
_PLAIN = re.compile(r"[\w.:\\/=@+*-]+")
# Counts the starts of the machine.
_BOOTS = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters"


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    return _open(path, flags, _NORMAL)


def open_no_link(path: Path, flags: int, mode: int = 0o666) -> int:
    file = _open(path, flags, _NORMAL | _THE_LINK_ITSELF)
    if getattr(os.fstat(file), "st_file_attributes", 0) & _IS_LINK:
        os.close(file)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return file


def _open(path: Path, flags: int, attributes: int) -> int:
    access = (_READ | _WRITE) if flags & os.O_RDWR else _WRITE if flags & os.O_WRONLY else _READ
    how = _CREATE_NEW if flags & os.O_EXCL else _OPEN_ALWAYS if flags & os.O_CREAT else _OPEN_EXISTING
    handle = _kernel32.CreateFileW(str(path), access, _SHARED, None, how, attributes, None)
    if handle in (None, _INVALID):
        code = _ctypes.get_last_error()
        raise OSError(0, _ctypes.FormatError(code).strip(), str(path), code)
    return int(_msvcrt.open_osfhandle(handle, flags & os.O_APPEND))


def open_directory(path: Path) -> int:
    # A junction is none of the links that Python knows.
    if path.is_symlink() or getattr(os.lstat(path), "st_file_attributes", 0) & _IS_LINK:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return open_no_link(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT)


def remove_directory(path: Path, file: int) -> None:
    with contextlib.suppress(OSError):
        (path / _LOCK_FILE).unlink()
    # Only now is it gone, and the directory can be.
    os.close(file)
    with contextlib.suppress(OSError):
        path.rmdir()


def is_named(file: int, path: Path) -> bool:
    try:
        place = path / _LOCK_FILE if path.is_dir() else path
        return os.path.samestat(os.fstat(file), place.stat())
    except OSError:
        # One that is removed and still open somewhere cannot be looked at.
        return False


def lock(file: int) -> bool:
    done = _kernel32.LockFile(ctypes.c_void_p(_msvcrt.get_osfhandle(file)), 0, _LOCKED_HALF, 1, 0)
    return bool(done) or _ctypes.get_last_error() != _LOCK_VIOLATION


def read_at(file: int, buffer: memoryview, offset: int) -> int:
    with _POSITIONS[file % len(_POSITIONS)]:
        os.lseek(file, offset, os.SEEK_SET)
        data = os.read(file, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def write_at(file: int, data: memoryview, offset: int) -> int:
    with _POSITIONS[file % len(_POSITIONS)]:
        os.lseek(file, offset, os.SEEK_SET)
        return os.write(file, data)


def sync_data(file: int) -> None:
    os.fsync(file)


def sync(file: int) -> None:
    os.fsync(file)


def sync_directory(path: Path) -> None:
    """Do nothing: a program cannot; NTFS writes names into its journal."""


def forget(file: int, offset: int, size: int) -> None:
    """Do nothing: a program cannot."""


def replace(source: Path, target: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError as error:
            if getattr(error, "winerror", 0) not in _BUSY or time.monotonic() > end or target.is_dir():
                raise
        time.sleep(0.05)


def set_access(file: int, mode: Optional[int], owner: Optional[tuple[int, int]]) -> None:
    """Do nothing: a file has what the directory gives to those in it."""


def is_root() -> bool:
    return False


def is_of_another(status: os.stat_result, directory: os.stat_result) -> bool:
    # Who may write into a directory is settled there, and what stands in it is not asked whose it is.
    return False


def allocated(status: os.stat_result) -> int:
    return status.st_size


def file_system(directory: Path) -> str:
    root = os.path.splitdrive(directory.absolute())[0] + "\\"
    name = ctypes.create_unicode_buffer(32)
    known = _kernel32.GetVolumeInformationW(root, None, 0, None, None, None, name, len(name))
    return name.value.lower() if known else ""


def forbidden(name: str) -> Optional[str]:
    wrong = sorted({letter for letter in name if letter in '<>:"/\\|?*' or ord(letter) < 32})
    if wrong:
        return f"Windows has no `{wrong[0]}` in names of files"
    if _DEVICES.fullmatch(name):
        return "Windows has a device of that name"
    if name.endswith((".", " ")):
        return "Windows takes a dot or a space at the end away"
    return "it is too long" if len(name.encode("utf-16-le")) // 2 > _LONGEST_NAME else None


def full_path(path: Path, beyond: int) -> Path:
    absolute = path.absolute()
    if len(str(absolute)) + beyond < _MAX_PATH or str(absolute).startswith("\\\\?\\"):
        return absolute
    # The long form knows no `..`.
    text = os.path.normpath(absolute)
    return Path(f"\\\\?\\UNC\\{text[2:]}" if text.startswith("\\\\") else f"\\\\?\\{text}")


def boot_id() -> str:
    try:
        with _winreg.OpenKey(_winreg.HKEY_LOCAL_MACHINE, _BOOTS) as key:
            return str(_winreg.QueryValueEx(key, "BootId")[0])
    except OSError:
        return "unknown"


def home(environment: Mapping[str, str]) -> Path:
    # Not HOME, which a shell such as Git's sets and docker does not look at.
    return Path(environment.get("USERPROFILE") or Path.home())


def certificates_name(host_port: str) -> str:
    return host_port.replace(":", "")


def compare_checksums(name: str) -> str:
    # It has no program that compares: this prints the checksums, and those they are to be.
    return f"Get-FileHash {quote(f'{name}*')}; type {quote(f'{name}.sha256')}"


def quote(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    # As programs take their command line apart: backslashes count double in front of a quotation mark.
    inner = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" + found[2] if found[2] else ""), text)
    return f'"{inner}"'


def is_closed_pipe(error: OSError) -> bool:
    return isinstance(error, BrokenPipeError) or error.errno == errno.EINVAL
