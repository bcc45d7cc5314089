"""The least of Windows that bundles/runtime/windows.py asks for, over what Linux has.

It shows what that module does with it, and not how Windows answers: docs/hosts.md says on what that was seen.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import os
import pathlib
import sys
import types
from pathlib import Path
from typing import Any, Optional

import pytest

_WRITE, _SHARE_DELETE, _LINK_ITSELF = 0x4000_0000, 0x4, 0x0020_0000
_CREATE_NEW, _OPEN_ALWAYS = 1, 4
_LOCK_VIOLATION = 33


class Kernel32:
    """Files and locks. `shared` are those that may get another name while they are open: descriptor and inode."""

    def __init__(self) -> None:
        self.shared: set[tuple[int, int]] = set()
        self.last_error = 0
        self.file_system = "NTFS"

        def create(
            path: str, access: int, share: int, security: None, how: int, attributes: int, template: None
        ) -> int:
            flags = os.O_RDWR if access & _WRITE else os.O_RDONLY
            flags |= os.O_CREAT if how in (_CREATE_NEW, _OPEN_ALWAYS) else 0
            flags |= os.O_EXCL if how == _CREATE_NEW else 0
            file = os.open(path, flags | (os.O_NOFOLLOW if attributes & _LINK_ITSELF else 0), 0o666)
            if share & _SHARE_DELETE:
                self.shared.add((file, os.fstat(file).st_ino))
            return file

        def lock(handle: ctypes.c_void_p, low: int, high: int, size: int, size_high: int) -> int:
            file = handle.value or 0
            assert (high << 32) + low > os.fstat(file).st_size + (1 << 50), "who reads what is locked gets an error"
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.last_error = _LOCK_VIOLATION
                return 0
            return 1

        def volume(root: str, *rest: Any) -> int:
            rest[-2].value = self.file_system
            return 1

        # Functions, whose types can be set.
        self.CreateFileW, self.LockFile, self.GetVolumeInformationW = create, lock, volume

    def is_open(self, path: Path, *, shared: bool) -> bool:
        """Tell whether this process has a file open, in the way that lets it get another name or in the other."""
        try:
            wanted = path.stat()
        except OSError:
            return False
        for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
            try:
                status = os.fstat(int(entry))
            except OSError:
                continue
            if os.path.samestat(status, wanted) and ((int(entry), status.st_ino) in self.shared) == shared:
                return True
        return False


def install(patch: pytest.MonkeyPatch) -> Kernel32:
    """Put it where windows.py looks for it, and have files that are open keep their names as Windows does."""
    kernel32 = Kernel32()

    def handed_out(handle: int, flags: int) -> int:
        if flags & os.O_APPEND:
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_APPEND)
        return handle

    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.open_osfhandle, msvcrt.get_osfhandle = handed_out, lambda file: file
    winreg: Any = types.ModuleType("winreg")
    winreg.HKEY_LOCAL_MACHINE, winreg.OpenKey = 0, _no_key
    patch.setitem(sys.modules, "msvcrt", msvcrt)
    patch.setitem(sys.modules, "winreg", winreg)
    patch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel32, raising=False)
    patch.setattr(ctypes, "get_last_error", lambda: kernel32.last_error, raising=False)
    patch.setattr(ctypes, "FormatError", os.strerror, raising=False)
    for name in ("replace", "rename", "unlink"):
        patch.setattr(pathlib.Path, name, _sharing(kernel32, getattr(pathlib.Path, name)))
    return kernel32


def load(patch: pytest.MonkeyPatch) -> tuple[Any, Kernel32]:
    """Return bundles/runtime/windows.py over it, in a process that goes on to be Linux."""
    kernel32 = install(patch)
    patch.delitem(sys.modules, "bundles.runtime.windows", raising=False)
    module = importlib.import_module("bundles.runtime.windows")
    patch.delitem(sys.modules, "bundles.runtime.windows")
    return module, kernel32


def _no_key(*arguments: object) -> None:
    raise FileNotFoundError(errno.ENOENT, "no such key")


def _sharing(kernel32: Kernel32, function: Any) -> Any:
    def checked(path: Path, target: Optional[Path] = None, **options: Any) -> Any:
        if kernel32.is_open(path, shared=False) or (
            target and any(kernel32.is_open(target, shared=how) for how in (False, True))
        ):
            raise PermissionError(errno.EACCES, "the process cannot access the file: it is being used", str(path))
        return function(path, *([target] if target else []), **options)

    return checked
