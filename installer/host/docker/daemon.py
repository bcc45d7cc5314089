"""Which process the engine is that answers at a socket: asked of the kernel, never guessed from names.

A host may run several dockerds, of containers and of users without root too, and any process may bear the name. The
kernel says who listens at a socket. Where that is systemd, which opened the socket and handed it over, the engine is
the dockerd that holds the same socket open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import Optional

_NAME = "dockerd"
_LISTENS = 0x10000  # SO_ACCEPTCON, in the kernel's table of sockets


def engine_process(path: Optional[str], proc: Path) -> Optional[int]:
    """Return the process of the engine at a socket; None when it cannot be proven which one it is.

    Args:
        path: the socket; None for an engine that has none on this host.
        proc: where the processes of this host are seen.
    """
    listener = _listener(path) if path else None
    if not path or listener is None:
        return None
    if _is_dockerd(proc / str(listener)):
        return listener
    inode = _inode(os.path.realpath(path), proc)
    holders = [] if inode is None else [place for place in proc.glob("[0-9]*") if _is_dockerd(place)]
    found = [int(place.name) for place in holders if _holds(place, f"socket:[{inode}]")]
    return found[0] if len(found) == 1 else None


def only_dockerd(proc: Path) -> Optional[int]:
    """Return the one dockerd that this host runs outside of containers: good enough for a look at its arguments."""
    found = [place for place in proc.glob("[0-9]*") if _is_dockerd(place) and not _is_nested(place)]
    return int(found[0].name) if len(found) == 1 else None


def sees_the_same(pid: int, directory: Path, proc: Path, root: Path) -> bool:
    """Tell whether a process has the same directory under that name as this host; where both lack it, its parents.

    Args:
        pid: the process.
        directory: an absolute path, without links.
        proc: where the processes of this host are seen.
        root: where the file system of this host is seen.
    """
    for place in (directory, *directory.parents):
        name = place.relative_to("/")
        try:
            theirs = _state(proc / str(pid) / "root" / name)
        except PermissionError:
            # Only root may look there. A process with numbers in several tables is in a container, which all may see.
            return not _is_nested(proc / str(pid))
        ours = _state(root / name)
        if theirs is not None or ours is not None:
            return theirs is not None and ours is not None and os.path.samestat(theirs, ours)
    return False


def _state(place: Path) -> Optional[os.stat_result]:
    try:
        return place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_nested(process: Path) -> bool:
    with contextlib.suppress(OSError):
        for line in (process / "status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "NSpid":
                return len(value.split()) > 1
    return False


def _listener(path: str) -> Optional[int]:
    """Ask the kernel which process began to listen at a socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
        pid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
        # 0 is a process of a table that is not seen from here.
        return int(pid) or None
    return None


def _is_dockerd(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(errors="replace").strip() == _NAME
    return False


def _inode(path: str, proc: Path) -> Optional[str]:
    """Find the number of the one socket that listens under that name."""
    found = []
    with contextlib.suppress(OSError):
        for line in (proc / str(os.getpid()) / "net" / "unix").read_text(errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and os.path.realpath(fields[7]) == path and int(fields[3], 16) & _LISTENS:
                found.append(fields[6])
    return found[0] if len(found) == 1 else None


def _holds(process: Path, name: str) -> bool:
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(entry) == name:  # noqa: PTH115  what it leads to is no path
                    return True
    return False
