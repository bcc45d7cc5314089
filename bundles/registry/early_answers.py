"""Answers that come while a body is still on its way: a refusal, after which nobody wants the rest of it.

nginx answers to a body that is too large before it has read any of it, and then reads on for 30 s and throws away.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Optional

from urllib3.util.wait import wait_for_read

# `HTTP/1.1 413`: enough to tell an answer from a "100 Continue" that nobody asked for, after which the body is wanted.
_HEAD = 12
_FIRST_DIGIT = 9


class Tls(ssl.SSLSocket):
    """A TLS socket of which the beginning can be looked at without taking it away."""

    _kept = b""

    def sendall(self, data: Any, flags: int = 0) -> None:
        try:
            super().sendall(data, flags)
        except (ssl.SSLEOFError, ConnectionResetError):
            # Why the server hung up, such as that it wants a certificate, is still to be read: as an error.
            self._kept += super().recv(1)
            raise

    def recv_into(self, buffer: Any, nbytes: Optional[int] = None, flags: int = 0) -> int:
        if not self._kept:
            return super().recv_into(buffer, nbytes, flags)
        piece = self._kept[: nbytes or len(buffer)][: len(buffer)]
        self._kept = self._kept[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def peek(self, count: int) -> bytes:
        """Return up to `count` bytes of what has come; what TLS says to itself, such as a session ticket, is none."""
        timeout = self.gettimeout()
        self.settimeout(0)
        try:
            with contextlib.suppress(OSError):
                self._kept += super().recv(count - len(self._kept)) if len(self._kept) < count else b""
        finally:
            self.settimeout(timeout)
        return self._kept


def has_answered(sock: object) -> bool:
    """Tell whether the other end has begun an answer. A connection that merely ended has not."""
    if not isinstance(sock, socket.socket):
        return False  # TLS in the TLS of a proxy
    if isinstance(sock, Tls):
        head = sock.peek(_HEAD) if wait_for_read(sock, 0) or sock.peek(0) else b""
    elif wait_for_read(sock, 0):
        head = b""
        with contextlib.suppress(OSError):
            head = sock.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    else:
        return False
    return len(head) == _HEAD and head[_FIRST_DIGIT : _FIRST_DIGIT + 1] != b"1"
