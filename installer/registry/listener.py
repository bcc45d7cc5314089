"""Who listens on a TCP port of this host, as the kernel's tables say it: anybody may read whose a socket is, and only
root, or the owner, which process has it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
from pathlib import Path
from typing import Optional

_LISTEN = "0A"


def listener(proc: Path, ip: str, port: int) -> Optional[str]:
    """Return a word or more for people about who listens there; None when that cannot be seen."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                place, _, number = fields[1].partition(":")
                if fields[3] == _LISTEN and int(number, 16) == port and _covers(_address(place), ip):
                    return _words(proc, int(fields[7]), fields[9])
    return None


def _address(text: str) -> str:
    """Read an address as the kernel writes it: 32-bit words, each in this machine's own order of bytes."""
    data = b"".join(struct.pack("=I", int(word, 16)) for word in re.findall(".{8}", text))
    found = ipaddress.ip_address(data)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _covers(held: str, ip: str) -> bool:
    any_of_its_kind = ipaddress.ip_address(held).is_unspecified and (":" in held or ":" not in ip)
    return held == ip or any_of_its_kind


def _words(proc: Path, uid: int, inode: str) -> str:
    import pwd  # not on Windows, where `push` runs and nobody listens

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    process = _process(proc, inode)
    return f"{process} of the user `{user}`" if process else f"a process of the user `{user}`"


def _process(proc: Path, inode: str) -> Optional[str]:
    for entry in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == f"socket:[{inode}]" for link in (entry / "fd").iterdir()):  # noqa: PTH115
                return f"`{(entry / 'comm').read_text().strip()}` (process {entry.name})"
    return None
