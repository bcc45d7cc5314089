"""Answers that come before all of a body was sent: nobody sends on, over TLS no less, and no answer is lost."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from bundles.errors import UnavailableError
from bundles.registry.connections import Connections
from bundles.registry.early_answers import send
from bundles.registry.proxies import Proxies
from bundles.registry.transport import Transport, Upload
from tests.support.fake_registry import Certificate

Connect = Callable[..., Transport]
SIZE = 64 << 20  # more than the kernel takes when nobody reads
REFUSED = b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 2\r\n\r\nno"
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"

# Nobody is to use a connection that is about to be closed.
PROBED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request as soon as its head is there. What else comes on that connection stays unread.

    `answers` are sent in turn, each on a connection of its own; `answered` is set after each. With `reads_on`, it reads
    the body before the last of them. With `late`, it answers when the body has begun to come.
    """

    def __init__(
        self, answers: list[bytes], tls: Optional[Certificate], *, reads_on: bool = False, late: bool = False
    ) -> None:
        self._answers, self._reads_on, self._late = answers, reads_on, late
        self.answered = threading.Event()
        self.connections: list[socket.socket] = []
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls: Optional[ssl.SSLContext] = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(tls.file, tls.key)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self.connections):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # the thread may be waiting for it
            each.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while self._answers:
                connection, _ = self._listener.accept()
                # Else an answer waits for 40 ms, until the other end has acknowledged TLS's session tickets.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if (connection.recv(1, socket.MSG_PEEK) == b"\x16") != bool(self._tls):
                    connection.close()  # whoever asks whether it speaks TLS
                    continue
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self.connections.append(connection)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        if head.startswith(b"GET /v2/ "):
            connection.sendall(PROBED)
            connection.close()
            return
        if self._late:
            connection.recv(1)
        connection.sendall(self._answers.pop(0))
        self.answered.set()
        if self._reads_on:
            while self.received < SIZE:
                self.received += len(connection.recv(1 << 20))
            connection.sendall(self._answers.pop(0))


class Waiting:
    """A body of which the third block waits until there is an answer."""

    def __init__(self, server: Server) -> None:
        self._server, self.sent = server, 0

    def __len__(self) -> int:
        return SIZE

    def read(self, count: int, /) -> bytes:
        if self.sent >= 2 * count:
            self._server.answered.wait(10)
        self.sent += count
        return bytes(count)


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Optional[Certificate]]:
    yield certificate if request.param == "tls" else None


def put(transport: Transport, host: str, body: Upload) -> bytes:
    expect = frozenset({413, 201})
    with transport.request("PUT", host, "/v2/x", scope="", body=body, expect=expect, retry=False) as response:
        return response.read_all(100)


def test_nothing_is_sent_after_the_answer(connect: Connect, tls: Optional[Certificate]) -> None:
    with Server([REFUSED], tls) as server:
        body = Waiting(server)
        assert put(connect(), server.host, lambda: body) == b"no"
    assert 0 < body.sent < SIZE


def test_nothing_is_sent_where_an_answer_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(REFUSED)
        assert not send(ours, b"body", patience=5)
        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(100) == b""


def test_an_answer_is_heard_while_nothing_is_taken(connect: Connect, tls: Optional[Certificate]) -> None:
    with Server([REFUSED], tls, late=True) as server:
        assert put(connect(), server.host, bytes(SIZE)) == b"no"


def test_who_takes_nothing_and_says_nothing_is_given_up(tls: Optional[Certificate]) -> None:
    connections = Connections(frozenset(), None, (), (5.0, 0.1), Proxies(frozenset()))
    given_up = pytest.raises(UnavailableError, match="failed: timed out")
    with Server([b""], tls) as server, contextlib.closing(connections), given_up:
        connections.send("PUT", f"{'https' if tls else 'http'}://{server.host}/v2/x", {}, bytes(SIZE))


def test_the_connection_is_not_used_again(connect: Connect, tls: Optional[Certificate]) -> None:
    """What comes next on it would be taken for the rest of the body."""
    with Server([REFUSED, CREATED], tls) as server:
        transport = connect()
        assert put(transport, server.host, lambda: Waiting(server)) == b"no"
        assert put(transport, server.host, b"small") == b"ok"


def test_who_is_told_to_continue_continues(connect: Connect, tls: Optional[Certificate]) -> None:
    with Server([b"HTTP/1.1 100 Continue\r\n\r\n", CREATED], tls, reads_on=True) as server:
        body = Waiting(server)
        assert put(connect(), server.host, lambda: body) == b"ok"
        assert body.sent == server.received == SIZE
