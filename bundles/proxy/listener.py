"""The socket that the proxy listens on. It imports next to nothing: whoever is in a hurry opens the port first."""

from __future__ import annotations

import socket

_BACKLOG = 128


def listen(port: int) -> socket.socket:
    """Listen on a port of this machine's own address, never another; connections wait until a server takes them.

    Args:
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """
    return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
