"""What an earlier run left beside an archive is used only when it is ours.

In a directory that others may write to, such as /tmp, anybody can plant a file under a name that a run looks for: a
link to a file of this user, or a file that its owner changes after it was checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from bundles.errors import UsageError
from bundles.runtime.system import system


def open_own(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file that this user made, or nobody yet; never through a link.

    The owner of the directory it is in counts as this user: nobody can protect a file from him, and on a file system
    without owners (FAT, exFAT) everything is his.

    Args:
        path: what is opened.
        flags: as for os.open.
        mode: the permissions of a file that is made.

    Raises:
        UsageError: it is a link, has a second name, is no plain file, or belongs to somebody else.
        OSError: it cannot be opened.
    """
    return _checked(path, lambda: system.open_no_link(path, flags, mode))


def open_own_directory(path: Path) -> int:
    """Open a directory that this user made, likewise, so that it can be locked.

    Raises:
        UsageError, OSError: as for `open_own`.
    """
    return _checked(path, lambda: system.open_directory(path))


def _checked(path: Path, opened: Callable[[], int]) -> int:
    if path.is_symlink():
        raise _not_ours(path, "is a link")
    file = opened()
    try:
        status = os.fstat(file)
        if system.is_of_another(status, path.parent.stat()):
            raise _not_ours(path, f"belongs to another user (uid {status.st_uid})")
        if not stat.S_ISDIR(status.st_mode) and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            raise _not_ours(path, "has a second name, or is no plain file")
    except BaseException:
        os.close(file)
        raise
    return file


def _not_ours(path: Path, what: str) -> UsageError:
    return UsageError(
        f"`{path}` {what}: expected what an earlier run of this user left there, or nothing",
        hint="remove it if it is nobody's, or choose another place with -o FILE",
    )
