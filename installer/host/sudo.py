"""Who called, under sudo: whose home Docker's settings live in, and whom the files there belong to.

`sudo` makes this program root and its home /root, while the person goes on to call `docker buildx build` without it:
then builder, plugin and settings belong into that person's home. Who may use Docker only with sudo goes on to call
`sudo docker`, which looks into root's home: then they belong there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bundles.runtime.system import system

_SOCKET = "/var/run/docker.sock"


def environment_of_invoker(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the HOME of the person who called sudo, when that person uses Docker without it.

    Variables that name places themselves (DOCKER_CONFIG, XDG_STATE_HOME, ...) stay.
    """
    result = dict(environment)
    number = environment.get("SUDO_UID", "")
    if not system.is_root() or not number.isdigit() or int(number) == 0:
        return result
    import pwd  # not on Windows

    with contextlib.suppress(KeyError, OSError):
        user = pwd.getpwuid(int(number))
        socket = Path(environment.get("DOCKER_HOST", "").partition("unix://")[2] or _SOCKET).stat()
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        if socket.st_uid == user.pw_uid or (socket.st_gid != 0 and socket.st_gid in groups):
            result["HOME"] = user.pw_dir
    return result


def settings_of_invoker(environment: Mapping[str, str]) -> bool:
    """Tell whether Docker's settings are in the home of the person who called sudo: ssh goes by root's all the same.

    Args:
        environment: what `environment_of_invoker` gave.
    """
    if not system.is_root() or "SUDO_UID" not in environment:
        return False
    import pwd  # not on Windows

    return environment.get("HOME") not in (None, pwd.getpwuid(0).pw_dir)


def hand_over(directories: Iterable[Path], since: float) -> None:
    """Give what root wrote into somebody's directories to the owner of the directory that holds each of them.

    Args:
        directories: those of Docker's settings; one that is not there is passed over.
        since: seconds since the epoch; what has not changed since then stays.
    """
    if not system.is_root():
        return
    for directory in directories:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            owner = directory.parent.stat()
            if owner.st_uid != 0:
                top = _open(directory, owner.st_uid)
                stack.callback(os.close, top)
                # By open directories: the owner may meanwhile put a link to elsewhere in the place of one.
                for _, _, files, folder in os.fwalk(".", dir_fd=top):
                    for name in (".", *files):
                        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        # One with a second name may be root's own, elsewhere.
                        is_single = name == "." or state.st_nlink == 1
                        # The clock of a file system may lag behind by some milliseconds.
                        if state.st_uid == 0 and is_single and state.st_ctime >= since - 1:
                            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)


def _open(directory: Path, owner: int) -> int:
    """Open a directory; where its name is a link, only one that is the owner's, too.

    Raises:
        OSError: it is not there, or not a directory of the owner's.
    """
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    if os.fstat(file).st_uid != owner:
        os.close(file)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(directory))
    return file
