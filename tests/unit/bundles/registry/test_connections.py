"""A server that sends next to nothing is as good as gone, and never holds a download for ever."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
import time
import warnings
from types import SimpleNamespace
from typing import Callable

import pytest
from urllib3.connection import HTTPConnection

from bundler.sources.registry import RegistrySource
from bundler.sources.source import BlobRequest
from bundles.errors import BundleError, InterruptedByUser, TooSlowError, UnavailableError
from bundles.oci.reference import Reference
from bundles.registry.connections import Connections
from bundles.registry.proxies import Proxies
from bundles.registry.transport import Transport
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.images import noise

DATA = noise(1, 4_000_000)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for bytes seem ten times as long as they are. How long a silent server may be silent stays as it is."""
    monkeypatch.setattr("bundles.registry.connections.time", SimpleNamespace(monotonic=lambda: time.monotonic() * 10))


@pytest.fixture
def impatient(connect: Callable[..., Transport], hurried: None) -> Transport:
    """Half a second instead of a minute; what drips has half of the speed that is asked for."""
    return connect(timeout=(5.0, 5.0), attempts=3)


def test_a_dripping_registry_is_given_up(registry: FakeRegistry, impatient: Transport) -> None:
    blob = registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", times=-1, drip=0.2)
    source = RegistrySource(impatient, {})
    reference = Reference.parse(f"{registry.host}/app:1")
    with (
        pytest.raises(UnavailableError, match="bytes came in"),
        source.open_blob(BlobRequest(reference, blob)) as stream,
    ):
        while stream.readinto(bytearray(1 << 20)):
            pass
    assert len(registry.paths("GET", "/blobs/")) == 3


def test_the_next_mirror_goes_on_where_the_slow_one_stopped(
    fake: Callable[..., FakeRegistry], impatient: Transport
) -> None:
    slow, quick = fake(), fake()
    for registry in (slow, quick):
        blob = registry.blob("library/debian", DATA)
    slow.fault("GET", "/blobs/", times=-1, drip=0.2)
    source = RegistrySource(impatient, {"docker.io": [slow.host, quick.host]})
    data = b""
    with source.open_blob(BlobRequest(Reference.parse("debian:12"), blob)) as stream:
        buffer = bytearray(1 << 20)
        while count := stream.readinto(buffer):
            data += buffer[:count]
    assert data == DATA
    (request,) = [request for request in quick.requests if "/blobs/" in request.path]
    assert request.headers["range"].startswith("bytes=") and request.headers["range"] != "bytes=0-3999999"


def test_a_small_answer_that_drips_is_given_up(registry: FakeRegistry, impatient: Transport) -> None:
    registry.tag("app", "1", registry.image(layers=30))
    registry.fault("GET", "/manifests/", times=-1, drip=0.2)
    with pytest.raises(TooSlowError, match="bytes came in"):
        impatient.fetch("GET", registry.host, "/v2/app/manifests/1", scope="", limit=1 << 22, headers=ACCEPT)


@pytest.mark.parametrize("tls", [False, True])
def test_a_head_that_drips_is_given_up(
    fake: Callable[..., FakeRegistry],
    connect: Callable[..., Transport],
    certificate: Certificate,
    hurried: None,
    tls: bool,
) -> None:
    registry = fake(tls=certificate) if tls else fake()
    registry.tag("app", "1", registry.image())
    registry.fault("GET", "/manifests/", times=-1, drip_head=0.02)
    impatient = connect(timeout=(5.0, 5.0), attempts=2, insecure=frozenset({registry.host}))
    with pytest.raises(TooSlowError, match=r"bytes came in \d+ s \(GET http"):
        impatient.fetch("GET", registry.host, "/v2/app/manifests/1", scope="", limit=1 << 22, headers=ACCEPT)
    assert len(registry.paths("GET", "/manifests/")) == 2


def test_a_head_may_take_its_time_to_begin(registry: FakeRegistry, connect: Callable[..., Transport]) -> None:
    """A registry that hashes a blob before it answers is silent, and not slow."""
    registry.tag("app", "1", registry.image())
    registry.fault("GET", "/manifests/", before=lambda: time.sleep(0.8))
    answer = connect(timeout=(5.0, 1.0)).fetch(
        "GET", registry.host, "/v2/app/manifests/1", scope="", limit=1 << 22, headers=ACCEPT
    )
    assert answer.status == 200


@pytest.mark.usefixtures("hurried")
def test_framing_that_drips_is_given_up(connect: Callable[..., Transport]) -> None:
    """The size of a chunk, with an extension that never ends: it is no byte of the body."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # The first two find out whether it speaks TLS.
            for _ in range(3):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
                    while not ended.wait(0.02):
                        connection.sendall(b"x")

        server = threading.Thread(target=serve)
        server.start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            with pytest.raises(TooSlowError, match="bytes came in"):
                connect(timeout=(5.0, 5.0), attempts=1).fetch("GET", host, "/v2/", scope="", limit=1 << 20)
        finally:
            ended.set()
            server.join()


ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}


def test_closing_a_transport_ends_a_tls_handshake(connect: Callable[..., Transport]) -> None:
    transport = connect(timeout=(30.0, 600.0), attempts=1)
    ends: list[bytes] = []
    errors: list[BaseException] = []

    def ask(host: str) -> None:
        try:
            transport.request("GET", host, "/v2/", scope="")
        except BundleError as error:
            errors.append(error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        asking = threading.Thread(target=ask, args=(f"127.0.0.1:{server.getsockname()[1]}",))
        asking.start()
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(1)[:1] == b"\x16"  # a ClientHello, which nobody answers
            transport.close()
            while data := connection.recv(4096):
                ends.append(data)
            ends.append(data)
        asking.join(60)
    assert ends[-1] == b""
    assert [type(error) for error in errors] == [InterruptedByUser]


def test_a_connection_that_is_reset_before_tls_begins_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    def reset(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        gone.set()

    connects = HTTPConnection._new_conn

    def connect_slowly(self: HTTPConnection) -> socket.socket:
        sock = connects(self)
        assert gone.wait(10)
        return sock

    monkeypatch.setattr(HTTPConnection, "_new_conn", connect_slowly)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=reset, args=(listener,), daemon=True).start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        connections = Connections(frozenset(), None, (), (5.0, 5.0), Proxies())
        with pytest.raises(UnavailableError), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            connections.send("GET", f"https://{host}/v2/", {})
        connections.close()
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            gc.collect()
    assert [str(each.message) for each in (*said, *left) if "unclosed" in str(each.message)] == []
