"""A port for who can only be told which one to listen on."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

# The first of those that the kernel hands out, and the last.
_HANDED_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FROM, _TO = 20_000, 32_768


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens.

    It is none of those that the kernel hands out: another test, of another process, that asks for any port or only
    connects to somewhere, would have it before the one that it is for listens.
    """
    first = int(_HANDED_OUT.read_text().split()[0]) if _HANDED_OUT.exists() else _TO
    while True:
        port = _FROM + secrets.randbelow((first if first > _FROM else _TO) - _FROM)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
