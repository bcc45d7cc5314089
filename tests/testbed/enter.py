"""Run a command inside an air-gapped host, or bind a directory of the machine into it.

    enter.py run PID USER -- COMMAND...     USER is a name of the host's /etc/passwd; PID is the host's init
    enter.py mount PID SOURCE TARGET rw|ro  SOURCE is a path of the machine, TARGET one of the host

A program of its own, and without imports from this package, because a process must be alone to change its namespaces.
It passes signals on to the command and ends as the command ends; when it is killed the command is killed too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000,
)  # fmt: skip
_NAMESPACES = {
    "ipc": _CLONE_NEWIPC, "uts": _CLONE_NEWUTS, "net": _CLONE_NEWNET, "pid": _CLONE_NEWPID, "mnt": _CLONE_NEWNS,
}  # fmt: skip
_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # the same numbers on amd64 and arm64
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_RDONLY = 1, 4, 1
_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _join(pid: int, names: tuple[str, ...]) -> None:
    """Move this process into the namespaces `names` of process `pid`, and to its root directory."""
    files = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), name) for name in names]
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    for file, name in files:
        _check(_libc.setns(file, _NAMESPACES[name]), f"cannot join the {name} namespace of process {pid}")
        os.close(file)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)


def _identity(user: str) -> tuple[int, int, list[int]]:
    """The user id, the group id and all groups of `user` by the host's own files."""
    with Path("/etc/passwd").open() as file:
        known = {fields[0]: fields for fields in (line.rstrip("\n").split(":") for line in file)}
    if user not in known:
        raise OSError(f"the host has no user `{user}`")
    uid, gid = int(known[user][2]), int(known[user][3])
    with Path("/etc/group").open() as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return uid, gid, [gid, *(int(row[2]) for row in rows if user in row[3].split(","))]


def _exec(command: list[str]) -> None:
    """Become `command`. (os.execvp imports modules late, and this Python's are not to be found in the host.)"""
    folders = [""] if "/" in command[0] else [f"{folder}/" for folder in os.environ["PATH"].split(":")]
    failure: OSError | None = None
    for folder in folders:
        try:
            os.execv(f"{folder}{command[0]}", command)
        except FileNotFoundError as error:
            failure = failure or error
        except OSError as error:
            failure = error
    missing = failure is None or isinstance(failure, FileNotFoundError)
    sys.stderr.write(f"{command[0]}: {'not found' if failure is None else failure.strerror}\n")
    sys.stderr.flush()
    os._exit(127 if missing else 126)


def _run(pid: int, user: str, command: list[str]) -> int:
    _join(pid, ("ipc", "uts", "net", "pid", "mnt"))
    uid, gid, groups = _identity(user)
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in _PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        try:
            os.chdir(os.environ["HOME"])
        except OSError:
            os.chdir("/")
        _exec(command)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    return 128 - code


def _mount(pid: int, source: str, target: str, read_only: bool) -> int:
    tree = _check(
        _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE | _AT_RECURSIVE),
        f"cannot bind {source}",
    )
    if read_only:
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        _check(
            _libc.syscall(
                _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)
            ),
            f"cannot make {source} read-only",
        )
    is_folder = Path(source).is_dir()
    _join(pid, ("mnt",))
    if is_folder:
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _check(
        _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH),
        f"cannot mount at {target}",
    )
    return 0


def main(arguments: list[str]) -> int:
    """Do what the command line says and return the exit code."""
    action, pid, *rest = arguments
    try:
        if action == "run":
            return _run(int(pid), rest[0], rest[2:])
        return _mount(int(pid), rest[0], rest[1], rest[2] == "ro")
    except OSError as error:
        sys.stderr.write(f"enter.py: {error}\n")
        return 125


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
