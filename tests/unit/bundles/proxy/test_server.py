"""The proxy over the wire: CONNECT, bodies of every kind, clients that leave, and nothing but loopback."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from bundles.oci.digest import Digest
from bundles.proxy.certificates import Authority
from bundles.proxy.listener import listen
from bundles.proxy.server import Handler, ProxyServer, Reply, Request, Response
from tests.support.proxy_client import ProxyClient


class Echo(Handler):
    """Answers with what it was asked; /stream without a length, /endless until the client leaves."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.left = threading.Event()

    def answer(self, request: Request, reply: Reply) -> None:
        self.requests.append(request)
        if request.url.endswith("/stream"):
            reply(Response(200, {"x": "y"}, None, iter([b"one", b"two"])))
        elif request.url.endswith("/endless"):
            reply(Response(200, {}, None, self.endless()))
        elif request.url.endswith("/breaks"):
            reply(Response(200, {}, 100, self.breaks()))
        elif request.url.endswith("/nothing"):
            reply(Response.text(404, "not recorded: x", "Not recorded"))
        else:
            text = f"{request.method} {request.url} {request.headers.get('accept')}".encode()
            reply(Response(200, {}, len(text) + len(request.body), [text, request.body]))

    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            self.left.set()

    def breaks(self) -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(tmp_path: Path, echo: Echo) -> Iterator[ProxyServer]:
    with ProxyServer(listen(0), Authority(tmp_path), echo) as server:
        yield server


@pytest.fixture
def client(server: ProxyServer, tmp_path: Path) -> ProxyClient:
    return ProxyClient(server.port, tmp_path / "ca.pem")


@pytest.mark.parametrize("origin", ["http://host.example", "https://host.example:443", "https://host.example:8443"])
def test_the_handler_sees_the_whole_url(client: ProxyClient, origin: str) -> None:
    came = client.get(f"{origin}/a?b=c", Accept="x/y")
    assert (came.status, came.body) == (200, f"GET {origin}/a?b=c x/y".encode())


def test_several_requests_go_through_one_tunnel(server: ProxyServer, tmp_path: Path, echo: Echo) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
    connection.set_tunnel("host.example")
    for path in ("/1", "/stream", "/nothing", "/2"):
        connection.request("GET", path)
        connection.getresponse().read()
    connection.request("HEAD", "/3")
    head = connection.getresponse()
    assert (head.getheader("Content-Length"), head.read()) == (str(len("HEAD https://host.example:443/3 None")), b"")
    connection.request("GET", "/4")
    assert connection.getresponse().read() == b"GET https://host.example:443/4 None"
    assert [request.url[-2:] for request in echo.requests] == ["/1", "am", "ng", "/2", "/3", "/4"]
    connection.close()


def test_bodies_come_in_whole_and_in_chunks(client: ProxyClient, server: ProxyServer, echo: Echo) -> None:
    assert client.ask("POST", "http://h/", b"sent").body == b"POST http://h/ Nonesent"
    with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
        raw.sendall(
            b"POST http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nt: x\r\n\r\n"
        )
        raw.sendall(b"GET http://h/next HTTP/1.1\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: raw.recv(65536), b""))
    assert [request.body for request in echo.requests] == [b"sent", b"onetwo", b""]
    assert data.endswith(b"GET http://h/next None")


def test_bodies_that_are_not_held_come_as_their_digest(
    echo: Echo, client: ProxyClient, server: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Echo, "holds_bodies", False)
    client.ask("POST", "http://h/", b"one" * 100_000)
    client.get("http://h/")
    with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
        raw.sendall(b"POST http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        raw.sendall(b"3\r\none\r\n3\r\none\r\n0\r\n\r\n")
        while raw.recv(65536):
            pass
    assert [(request.body, request.body_digest) for request in echo.requests] == [
        (b"", Digest.of(b"one" * 100_000)),
        (b"", None),
        (b"", Digest.of(b"oneone")),
    ]


def test_a_body_that_ends_early_is_no_request(server: ProxyServer, echo: Echo) -> None:
    for request in (
        b"POST http://h/ HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
    ):
        with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(12) == b"HTTP/1.1 413"
    assert echo.requests == []


def idle(port: int, tls: Optional[ssl.SSLContext] = None) -> socket.socket:
    """A connection that has asked for something, and then for nothing more."""
    connection = socket.create_connection(("127.0.0.1", port), 20)
    if tls:
        connection.sendall(b"CONNECT h.example:443 HTTP/1.1\r\n\r\n")
        assert b"\r\n\r\n" in connection.recv(65536)
        connection = tls.wrap_socket(connection, server_hostname="h.example")
    connection.sendall(b"GET %s/ HTTP/1.1\r\nHost: h\r\n\r\n" % (b"" if tls else b"http://h"))
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection."""
    connection.settimeout(0.2)
    try:
        while connection.recv(65536):
            pass
    except socket.timeout:
        return False
    except (ConnectionError, ssl.SSLError):
        pass
    return True


@pytest.mark.parametrize("kind", ["plain", "tls", "silent", "half a handshake"])
def test_there_are_so_many_connections_and_those_that_wait_make_room(tmp_path: Path, echo: Echo, kind: str) -> None:
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(cafile=str(authority.certificate)) if kind == "tls" else None
    with ProxyServer(listen(0), authority, echo, connections=4) as server, contextlib.ExitStack() as stack:
        client = ProxyClient(server.port, authority.certificate)
        busy = stack.enter_context(client.open("GET", "https://host.example/endless"))
        assert busy.read(1) == b"x"
        waiting = []
        for _ in range(12):
            if kind in ("plain", "tls"):
                waiting.append(idle(server.port, tls))
            else:
                waiting.append(socket.create_connection(("127.0.0.1", server.port), 20))
                if kind == "half a handshake":
                    waiting[-1].sendall(b"CONNECT h.example:443 HTTP/1.1\r\n\r\n")
                    assert waiting[-1].recv(12) == b"HTTP/1.1 200"
            stack.enter_context(waiting[-1])
        assert client.get("https://host.example/a").status == 200
        # Two places are left for twelve, and what was being answered is still. Which two says the order in which their
        # threads came to wait; a thread may be late.
        assert sum(map(is_ended, waiting)) >= 10
        assert busy.read(1 << 20) == b"x" * (1 << 20)


def test_where_all_are_busy_one_more_waits_for_its_turn(tmp_path: Path, echo: Echo) -> None:
    authority = Authority(tmp_path)
    with ProxyServer(listen(0), authority, echo, connections=1) as server:
        client, came = ProxyClient(server.port, authority.certificate), []
        asking = threading.Thread(target=lambda: came.append(client.get("http://h/a").status))
        with client.open("GET", "http://h/endless") as response:
            assert response.read(1) == b"x"
            asking.start()
            assert response.read(1 << 20) == b"x" * (1 << 20)
            assert came == []
        asking.join(20)
        assert came == [200]
        # It can be ended while it is full.
        with client.open("GET", "http://h/endless") as response, client_of(server) as _:
            assert response.read(1) == b"x"
            server.close()


def client_of(server: ProxyServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 20)


def test_a_body_without_length_is_chunked_or_ends_with_the_connection(client: ProxyClient, server: ProxyServer) -> None:
    came = client.get("http://h/stream")
    assert (came.body, came.headers["transfer-encoding"], came.headers["x"]) == (b"onetwo", "chunked", "y")
    with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
        raw.sendall(b"GET http://h/stream HTTP/1.0\r\n\r\n")
        data = b"".join(iter(lambda: raw.recv(65536), b""))
    assert data.endswith(b"\r\n\r\nonetwo")


def test_a_refusal_names_the_url_inside_the_tunnel(client: ProxyClient) -> None:
    came = client.get("https://host.example/nothing")
    assert (came.status, came.reason, came.body) == (404, "Not recorded", b"not recorded: x\n")


def test_a_client_that_leaves_ends_the_body(client: ProxyClient, echo: Echo) -> None:
    with client.open("GET", "https://host.example/endless") as response:
        assert response.read(10) == b"x" * 10
    assert echo.left.wait(20)


def test_a_body_that_breaks_off_is_no_whole_one(client: ProxyClient) -> None:
    with client.open("GET", "https://host.example/breaks") as response, pytest.raises(http.client.IncompleteRead):
        response.read()


def test_a_client_that_does_not_trust_the_ca_gets_nothing(server: ProxyServer, tmp_path: Path, echo: Echo) -> None:
    other = Authority(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        ProxyClient(server.port, other.certificate).get("https://host.example/")
    assert echo.requests == []


def test_a_request_to_itself_and_a_body_beyond_all_measure_are_refused(server: ProxyServer) -> None:
    for request, status in (
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
        (b"POST http://h/ HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST http://h/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"413"),
        (b"POST http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", b"413"),
        (b"POST http://h/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"413"),
    ):
        with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
            raw.sendall(request)
            assert raw.recv(12) == b"HTTP/1.1 " + status


def test_it_listens_on_loopback_only_and_stops(tmp_path: Path, echo: Echo) -> None:
    server = ProxyServer(listen(0), Authority(tmp_path), echo)
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = [fields[1] for fields in listening if fields[3] == "0A" and int(fields[1][-4:], 16) == server.port]
    assert addresses == [f"0100007F:{server.port:04X}"]
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
