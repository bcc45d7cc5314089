"""A wire to a registry that counts what goes through it, has a speed, and can be told what to do at a certain byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Callable, Optional

_PIECE = 32 << 10
# What may be under way on one connection when its end dies; small, so that `served` is what the reader got, nearly.
_BUFFER = 32 << 10


class Wire:
    """Passes TCP connections on to `target` (a port of 127.0.0.1). A context manager.

    `served` counts the bytes that went to clients, and with `both` those that came from them, too. `at(count, action)`
    calls `action` once when that many did.
    """

    def __init__(self, target: int, speed: float = 60e6, *, both: bool = False) -> None:
        self._target, self._speed, self._both = target, speed, both
        self._lock = threading.Lock()
        self._next = 0.0
        self._actions: list[tuple[int, Callable[[], None]]] = []
        self._open: set[socket.socket] = set()
        self.served = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def at(self, count: int, action: Callable[[], None]) -> None:
        with self._lock:
            self._actions.append((count, action))

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break everything, and take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, sink, counts in ((client, server, self._both), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, sink, counts, client), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if counts:
                    self._pace(len(data))
                sink.sendall(data)
                if counts:
                    self._count(len(data))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if source is not client:
            time.sleep(0.05)
            with self._lock:
                self._open -= {source, sink}
            source.close()
            sink.close()

    def _pace(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self._speed
            wait = self._next - now
        time.sleep(wait)

    def _count(self, count: int) -> None:
        with self._lock:
            self.served += count
            due = [action for at, action in self._actions if at <= self.served]
            self._actions = [(at, action) for at, action in self._actions if at > self.served]
        for action in due:
            action()
