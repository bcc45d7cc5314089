"""Who a server says it is, read off the first message that it sends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles.crypto.x509 import fingerprint
from bundles.errors import NetworkError, UnavailableError, UnreachableError, UsageError
from bundles.registry.server_certificates import (
    certificates_of,
    parse_fingerprint,
    presented,
    refusal,
)
from tests.support.fake_registry import Certificate, FakeRegistry

Speak = Callable[[bytes], int]
PRINT = ":".join(["AB", "0F"] * 16)


@pytest.fixture
def speak() -> Iterator[Speak]:
    """Listen, and give whoever comes these bytes; the port."""
    ends: list[tuple[socket.socket, threading.Thread]] = []

    def listen(answer: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            # Whoever has seen enough goes.
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                connection.recv(1 << 14)
                # In two pieces, as a network may well deliver it.
                connection.sendall(answer[:7])
                connection.sendall(answer[7:])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 14):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        ends.append((server, thread))
        return int(server.getsockname()[1])

    yield listen
    for server, thread in ends:
        thread.join()
        server.close()


def ders(file: Path) -> tuple[bytes, ...]:
    return certificates_of(file.read_text())


def record(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(payload).to_bytes(2, "big") + payload


def listed(*certificates: bytes) -> bytes:
    body = b"".join(len(each).to_bytes(3, "big") + each for each in certificates)
    body = len(body).to_bytes(3, "big") + body
    return b"\x0b" + len(body).to_bytes(3, "big") + body


def test_the_chain_is_what_the_server_presents(
    fake: Callable[..., FakeRegistry], certificate: Certificate, tmp_path: Path
) -> None:
    issued = certificate.issue(tmp_path, "registry.example")
    registry = fake(tls=issued)
    found = presented("localhost", registry.port)
    assert found == ders(issued.file)
    assert found is not None and found[1:] == ders(certificate.file)
    assert registry.requests == []


def test_the_fingerprint_is_what_openssl_prints(certificate: Certificate) -> None:
    command = ["openssl", "x509", "-in", str(certificate.file), "-noout", "-fingerprint", "-sha256"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert printed.partition("=")[2] == fingerprint(ders(certificate.file)[0])
    assert parse_fingerprint(printed) == fingerprint(ders(certificate.file)[0])


@pytest.mark.parametrize(
    "text",
    [PRINT, PRINT.lower(), PRINT.replace(":", ""), PRINT.replace(":", " "), f"SHA256:{PRINT}",
     f"sha256:{PRINT.lower()}", f"SHA256 Fingerprint={PRINT}", f" {PRINT}\n", PRINT.replace(":", "-")],
)  # fmt: skip
def test_a_fingerprint_is_read_however_it_is_spelled(text: str) -> None:
    assert parse_fingerprint(text) == PRINT


@pytest.mark.parametrize("text", ["", "AB", PRINT[:-3], f"{PRINT}:00", PRINT.replace("A", "G"), f"SHA1:{PRINT}"])
def test_anything_else_is_no_fingerprint(text: str) -> None:
    with pytest.raises(UsageError, match="expected 64 hex digits"):
        parse_fingerprint(text)


def test_plain_http_has_no_certificates(registry: FakeRegistry) -> None:
    assert presented("127.0.0.1", registry.port) is None
    assert registry.requests == []


def test_a_server_of_tls_1_3_alone_gives_none(certificate: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    refused: list[str] = []

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            try:
                context.wrap_socket(connection, server_side=True)
            except ssl.SSLError as error:
                refused.append(str(error.reason))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        assert presented("127.0.0.1", server.getsockname()[1]) == ()
        thread.join()
    assert refused == ["UNSUPPORTED_PROTOCOL"]


def test_a_message_in_several_records_is_put_together(speak: Speak) -> None:
    message = b"\x02\0\0\x03abc" + listed(b"first" * 99, b"second" * 99)
    pieces = [message[start : start + 200] for start in range(0, len(message), 200)]
    port = speak(b"".join(record(22, piece) for piece in pieces))
    assert presented("127.0.0.1", port) == (b"first" * 99, b"second" * 99)


@pytest.mark.parametrize("answer", [b"220 mail.example ESMTP\r\n", b"\x16\x02\x00\x00\x01\x00", b"SSH-2.0-x\r\n"])
def test_what_is_neither_is_said(speak: Speak, answer: bytes) -> None:
    port = speak(answer)
    with pytest.raises(NetworkError, match=f"`127.0.0.1:{port}` speaks neither TLS nor HTTP"):
        presented("127.0.0.1", port)


def test_an_end_before_the_certificates_is_said(speak: Speak) -> None:
    port = speak(record(22, listed(b"first"))[:-1])
    with pytest.raises(UnavailableError, match="closed the connection before it had said who it is"):
        presented("127.0.0.1", port)


def test_what_never_ends_is_given_up(speak: Speak) -> None:
    port = speak(record(22, b"\x02\xff\xff\xff" + bytes(16_000)) + record(22, bytes(16_000)) * 20)
    with pytest.raises(NetworkError, match="speaks neither"):
        presented("127.0.0.1", port)


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"cannot connect to `127.0.0.1:{port}`: connection refused"):
            presented("127.0.0.1", port)


def test_who_is_trusted_for_that_name_is_not_refused(
    fake: Callable[..., FakeRegistry], certificate: Certificate, names: None
) -> None:
    registry = fake(tls=certificate)
    trusting = ssl.create_default_context(cafile=str(certificate.file))
    assert refusal("registry.example", registry.port, trusting) is None
    assert refusal("another.example", registry.port, trusting) == (
        "hostname mismatch, certificate is not valid for 'another.example'"
    )
    assert refusal("registry.example", registry.port, ssl.create_default_context()) == "self-signed certificate"
    assert registry.requests == []


def test_a_file_without_a_certificate(certificate: Certificate) -> None:
    with pytest.raises(UsageError, match="it holds no PEM certificate"):
        certificates_of(certificate.key.read_text())
