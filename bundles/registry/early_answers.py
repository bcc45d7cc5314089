"""Answers that come while a body is still on its way: a refusal, after which nobody wants the rest of it.

nginx answers to a body that is too large before it has read any of it, and then reads on for 30 s and throws away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import time
from typing import Any, Optional, Union

from urllib3.util.wait import wait_for_read, wait_for_socket

# `HTTP/1.1 413`: enough to tell an answer from a "100 Continue" that nobody asked for, after which the body is wanted.
_HEAD = 12
_FIRST_DIGIT = 9
# Seconds between two looks for an answer while the other end takes nothing.
_LOOK_EVERY = 0.1


class Tls(ssl.SSLSocket):
    """A TLS socket of which the beginning can be looked at without taking it away."""

    _kept = b""

    def getpeername(self) -> Any:
        """Return the other end's address, which Python asks for before TLS begins.

        Raises:
            ConnectionResetError: the connection is gone. Python would go on as with a socket that is yet to be
                connected, and leave it open when that fails.
        """
        try:
            return super().getpeername()
        except OSError:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
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


def send(sock: socket.socket, data: Union[bytes, memoryview], patience: float) -> bool:
    """Send `data`, or less when the other end begins an answer meanwhile, and tell whether all of it was sent.

    Args:
        sock: a connection.
        data: what to send.
        patience: seconds for which the other end may take nothing.

    Raises:
        TimeoutError: it took nothing for longer than that.
        OSError: the connection broke.
    """
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        left = memoryview(data)
        while left and not has_answered(sock):
            try:
                left = left[sock.send(left) :]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                _wait(sock, isinstance(error, ssl.SSLWantReadError), patience)
        return not left
    finally:
        sock.settimeout(timeout)


def _wait(sock: socket.socket, read: bool, patience: float) -> None:
    """Wait until it is worth trying to send again, or until there is an answer."""
    end = time.monotonic() + patience
    while not wait_for_socket(sock, read=read, write=not read, timeout=_LOOK_EVERY) and not has_answered(sock):
        if time.monotonic() > end:
            raise TimeoutError


def has_answered(sock: socket.socket) -> bool:
    """Tell whether the other end has begun an answer. A connection that merely ended has not."""
    if isinstance(sock, Tls):
        head = sock.peek(_HEAD) if wait_for_read(sock, 0) or sock.peek(0) else b""
    elif wait_for_read(sock, 0):
        head = b""
        with contextlib.suppress(OSError):
            head = sock.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    else:
        return False
    return len(head) == _HEAD and head[_FIRST_DIGIT : _FIRST_DIGIT + 1] != b"1"
