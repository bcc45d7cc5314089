"""A TLS handshake between two contexts, without a network."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def connected(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> Iterator[ssl.SSLSocket]:
    """Connect as a client that asks for `name`; gives its end."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            yield connection
    finally:
        ours.close()
        thread.join(10)
