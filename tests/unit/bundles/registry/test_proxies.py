"""Proxies: who is asked through one, who never is, and what a proxy that refuses says."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from bundles.errors import UnreachableError, UsageError
from bundles.registry.auth import pull_scope
from bundles.registry.transport import Settings, Transport
from installer.model.registry.address import Address
from installer.registry.connection import local_transport
from tests.support.fake_registry import Certificate, FakeRegistry

SECRET = "hunter2-secret"
Make = Callable[..., FakeRegistry]


Connect = Callable[..., Transport]


def get(transport: Transport, registry: FakeRegistry, digest: object, host: str = "", **options: Any) -> bytes:
    path = f"/v2/app/blobs/{digest}"
    return transport.fetch("GET", host or registry.host, path, scope=pull_scope("app"), limit=1 << 20, **options).data


def shown(error: BaseException) -> str:
    """All that a user or a log could see of an error."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)) + str(vars(error))


class Proxy:
    """A proxy for CONNECT and for plain HTTP, which sends everything to one address whatever host is asked for."""

    def __init__(self, port: int, refuse: bool = False) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._target, self._refuse = port, refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._relay(client)

    def _relay(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.seen.append((first, headers))
        if self._refuse:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            client.shutdown(socket.SHUT_RDWR)
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        self._sockets.append(server)
        if first.startswith("CONNECT "):
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            method, url, version = first.split(" ")
            path = "/" + url.split("/", 3)[3]
            server.sendall(head.replace(first.encode(), f"{method} {path} {version}".encode(), 1))
        back = threading.Thread(target=self._pump, args=(server, client))
        self._threads.append(back)
        back.start()
        self._pump(client, server)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def proxy_to() -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(registry: FakeRegistry, **options: Any) -> Proxy:
        made.append(Proxy(registry.port, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_https_goes_through_the_proxy(
    fake: Make,
    connect: Connect,
    certificate: Certificate,
    proxy_to: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = fake(tls=certificate)
    proxy = proxy_to(registry)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss-{SECRET}@{proxy.host}")
    blob = registry.blob("app", b"abc")
    # The name does not resolve here: only the proxy knows it.
    assert get(connect(ca_file=certificate.file), registry, blob.digest, host="registry.example:4443") == b"abc"
    first, headers = proxy.seen[0]
    assert first.startswith("CONNECT registry.example:4443 HTTP/1.")
    basic = base64.b64encode(f"me:p@ss-{SECRET}".encode()).decode()
    assert headers["proxy-authorization"] == f"Basic {basic}"
    assert all("proxy-authorization" not in request.headers for request in registry.requests)


def test_plain_http_goes_through_the_proxy(
    registry: FakeRegistry, connect: Connect, proxy_to: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxy_to(registry)
    monkeypatch.setenv("http_proxy", proxy.host)
    monkeypatch.setenv("https_proxy", proxy.host)
    blob = registry.blob("app", b"abc")
    host = "registry.example:8000"
    assert get(connect(insecure=frozenset({host})), registry, blob.digest, host=host) == b"abc"
    assert f"GET http://{host}/v2/ HTTP/1.1" in [first for first, _ in proxy.seen]
    assert registry.seen()[-1].headers["host"] == host


def test_a_proxy_that_refuses(
    registry: FakeRegistry, connect: Connect, proxy_to: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxy_to(registry, refuse=True)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@{proxy.host}")
    with pytest.raises(UnreachableError, match="407 proxy authentication required") as caught:
        get(connect(), registry, "x", host="registry.example")
    assert f"the proxy `{proxy.host}`" in caught.value.message
    assert "NO_PROXY" in str(caught.value.hint)
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    "no_proxy", ["registry.example", "x, .example", "*", "registry.example:{port}", "EXAMPLE", "127.0.0.0/8"]
)
def test_no_proxy(
    fake: Make,
    connect: Connect,
    certificate: Certificate,
    names: None,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
) -> None:
    registry = fake(tls=certificate)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy.format(port=registry.port))
    blob = registry.blob("app", b"abc")
    host = f"127.0.0.1:{registry.port}" if "/" in no_proxy else f"registry.example:{registry.port}"
    assert get(connect(ca_file=certificate.file), registry, blob.digest, host=host) == b"abc"


def test_the_local_registry_is_asked_directly_and_nobody_else(
    registry: FakeRegistry,
    names: None,
    proxy_to: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = proxy_to(registry, refuse=True)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    environment = dict(os.environ)
    host = f"registry.example:{registry.port}"
    blob = registry.blob("app", b"abc")
    with local_transport(Address.parse(host), attempts=1) as transport:
        assert get(transport, registry, blob.digest, host=host) == b"abc"
        assert proxy.seen == []
        with pytest.raises(UnreachableError, match="407"):
            get(transport, registry, blob.digest, host="registry.example:1")
    assert proxy.seen[0][0].startswith("CONNECT registry.example:1 ")
    assert os.environ == environment


def test_networks_in_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from bundles.registry.proxies import Proxies
    from bundles.registry.urls import Origin

    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, fd00::/8,[fe80::1]")
    proxied = {
        address: Proxies().find(Origin("https", address, 443)) is not None
        for address in ("10.1.2.3", "11.1.2.3", "fd00::5", "fe80::1", "fe80::2", "registry.example")
    }
    assert proxied == {
        "10.1.2.3": False,
        "11.1.2.3": True,
        "fd00::5": False,
        "fe80::1": False,
        "fe80::2": True,
        "registry.example": True,
    }


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}"])
def test_this_machine_is_never_proxied(
    registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    blob = registry.blob("app", b"abc")
    assert get(connect(), registry, blob.digest, host=host.format(port=registry.port)) == b"abc"


@pytest.mark.parametrize("value", [f"socks5://me:{SECRET}@proxy:1080", f"http://me:{SECRET}@proxy:port", "http://"])
def test_a_proxy_variable_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(UsageError, match="HTTPS_PROXY") as caught:
        Transport(Settings())
    assert SECRET not in shown(caught.value)
