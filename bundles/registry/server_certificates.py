"""Who a server says it is: the certificates that it presents, before anything is sent that matters.

Python before 3.13 does not give them out unless they are trusted. Up to TLS 1.2 a server sends them in the clear
(RFC 5246, 7.4.2), so that they can be read off the connection, which ends there: the handshake is never finished.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Optional

from bundles.errors import NetworkError, UnavailableError, UnreachableError, UsageError, reason

_TIMEOUT = 15.0
# A chain has some kilobytes.
_MAX_ANSWER = 1 << 18
_ALERT, _HANDSHAKE = 21, 22
_CERTIFICATE = 11
# The kinds of records that there are.
_RECORDS = range(20, 25)
_PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_FINGERPRINT = re.compile("(?:sha-?256(?: fingerprint)?[:=/]?)?((?:[0-9a-f]{2}[: -]?){31}[0-9a-f]{2})", re.IGNORECASE)


def parse_fingerprint(text: str) -> str:
    """Read a SHA-256 fingerprint as people copy it: hex digits with or without colons, with or without `sha256:`.

    Raises:
        UsageError: anything else.
    """
    match = _FINGERPRINT.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"`{text[:100]}` is no SHA-256 fingerprint: expected 64 hex digits, with or without colons",
            hint="openssl x509 -in ca.pem -noout -fingerprint -sha256 prints it",
        )
    digits = re.sub("[^0-9a-f]", "", match[1].lower())
    return bytes.fromhex(digits).hex(":").upper()


def presented(host: str, port: int) -> Optional[tuple[bytes, ...]]:
    """Ask a server for its certificates, its own first, each in DER; None when it speaks plain HTTP.

    Only the first message of TLS is sent. Of a server that speaks TLS 1.3 alone there are none.

    Args:
        host: a name, an IPv4 address, or `[IPv6]`.
        port: where it listens.

    Raises:
        UnreachableError: no connection.
        NetworkError: what answers is neither TLS nor HTTP.
    """
    context = _unverified()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname=host.strip("[]")).do_handshake()
    with _connected(host, port) as connection:
        connection.sendall(hello.read())
        return _read(connection, f"{host}:{port}")


def _read(connection: socket.socket, name: str) -> Optional[tuple[bytes, ...]]:
    received = bytearray()
    while len(received) < _MAX_ANSWER:
        data = connection.recv(1 << 14)
        received += data
        if received.startswith(b"HTTP/"):
            return None
        if received and (received[0] not in _RECORDS or received[1:2].strip(b"\x03")):
            break
        found = _chain(bytes(received))
        if found is not None:
            return found
        if not data:
            raise UnavailableError(f"`{name}` closed the connection before it had said who it is")
    raise NetworkError(f"`{name}` speaks neither TLS nor HTTP", hint="is it the address of a registry?")


def _chain(received: bytes) -> Optional[tuple[bytes, ...]]:
    """Find the certificates in what a server has sent so far; none of them when it refused, None when there is more."""
    stream = bytearray()
    for kind, payload in _records(received):
        if kind == _ALERT:
            # It speaks TLS, and none that is as old as this.
            return ()
        if kind == _HANDSHAKE:
            stream += payload
    while len(stream) >= 4:
        kind, size = stream[0], int.from_bytes(stream[1:4], "big")
        if len(stream) < 4 + size:
            return None
        if kind == _CERTIFICATE:
            return tuple(_certificates(bytes(stream[7 : 4 + size])))
        del stream[: 4 + size]
    return None


def _records(received: bytes) -> Iterator[tuple[int, bytes]]:
    while len(received) >= 5:
        end = 5 + int.from_bytes(received[3:5], "big")
        if len(received) < end:
            return
        yield received[0], received[5:end]
        received = received[end:]


def _certificates(listed: bytes) -> Iterator[bytes]:
    while len(listed) > 3:
        end = 3 + int.from_bytes(listed[:3], "big")
        yield listed[3:end]
        listed = listed[end:]


def refusal(host: str, port: int, context: ssl.SSLContext) -> Optional[str]:
    """Make the handshake of TLS and nothing more; say why the server is not trusted, None when it is.

    Args:
        host: a name, an IPv4 address, or `[IPv6]`: what its certificate has to be for.
        port: where it listens.
        context: what is trusted.

    Raises:
        UnreachableError: no connection.
        NetworkError: it breaks the handshake off.
    """
    name = host.strip("[]")
    with _connected(host, port) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=name):
                return None
        except ssl.SSLCertVerificationError as error:
            return error.verify_message.lower().rstrip(".")
        except ssl.SSLError as error:
            why = str(error.reason or "it was cut").lower().replace("_", " ")
            raise NetworkError(f"TLS with `{host}:{port}` failed: {why}") from None


def certificates_of(text: str) -> tuple[bytes, ...]:
    """Return the certificates in a PEM file, each in DER.

    Raises:
        UsageError: there are none.
    """
    try:
        found = tuple(ssl.PEM_cert_to_DER_cert(part) for part in _PEM.findall(text))
    except ValueError:
        found = ()
    if not found:
        raise UsageError("it holds no PEM certificate")
    return found


@contextlib.contextmanager
def _connected(host: str, port: int) -> Iterator[socket.socket]:
    name = f"{host}:{port}"
    try:
        connection = socket.create_connection((host.strip("[]"), port), _TIMEOUT)
    except OSError as error:
        raise UnreachableError(
            f"cannot connect to `{name}`: {reason(error)}", hint="check the address, the network and the registry there"
        ) from None
    with connection:
        try:
            yield connection
        except ssl.SSLError:
            raise
        except OSError as error:
            raise UnavailableError(f"the connection to `{name}` failed: {reason(error)}") from None


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
