"""A certificate authority in pure Python: ECDSA on P-256 (FIPS 186-4) and X.509 (RFC 5280) in DER.

The standard library can use certificates and not make them, a host may have no openssl, and what runs there travels in
the archive and is pure Python. The arithmetic takes no constant time: nobody but this machine's builder talks to what
uses it, and nobody else trusts it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import secrets
import shlex
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, reason
from bundles.runtime.filesystem import replace_file

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = Optional[tuple[int, int]]

_CA_NAME = "offline-bundle"
# Clocks of hosts without a network are often wrong, and set right one day: what is valid does not depend on them.
_BEGIN = 1577836800  # 2020-01-01
_END = 4102444799  # 2099-12-31
# What a host is spoken to with takes some 20 kB.
_MOST_KEPT = 256
# RFC 1035.
_LONGEST_NAME = 253


def _add(first: _Point, second: _Point) -> _Point:
    if first is None or second is None:
        return first or second
    (x1, y1), (x2, y2) = first, second
    if x1 == x2:
        if (y1 + y2) % _P == 0:
            return None
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, _P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, _P)
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _multiply(factor: int) -> tuple[int, int]:
    """Multiply the curve's base point; `factor` is from 1 to N - 1."""
    result: _Point = None
    point: _Point = _G
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    if result is None:
        raise ValueError("a factor of N has no point")
    return result


def _new_key() -> int:
    return secrets.randbelow(_N - 1) + 1


def _sign(key: int, message: bytes) -> bytes:
    value = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        nonce = _new_key()
        r = _multiply(nonce)[0] % _N
        s = pow(nonce, -1, _N) * (value + r * key) % _N
        if r and s:
            return _sequence(_integer(r), _integer(s))


def _tagged(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + body


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _octets(body: bytes) -> bytes:
    return _tagged(0x04, body)


def _bits(body: bytes, unused: int = 0) -> bytes:
    return _tagged(0x03, bytes([unused]) + body)


def _object_id(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    encoded = [first * 40 + second]
    for number in rest:
        group = [number & 127]
        while number := number >> 7:
            group.insert(0, number & 127 | 128)
        encoded += group
    return _tagged(0x06, bytes(encoded))


def _moment(seconds: float) -> bytes:
    text = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))
    # RFC 5280: UTCTime to the end of 2049, GeneralizedTime from then on.
    return _tagged(0x17, text[2:].encode()) if text < "2050" else _tagged(0x18, text.encode())


def _name(text: str) -> bytes:
    return _sequence(_tagged(0x31, _sequence(_object_id("2.5.4.3"), _tagged(0x0C, text.encode()))))


def _extension(which: str, value: bytes, critical: bool = False) -> bytes:
    return _sequence(_object_id(which), *([_tagged(0x01, b"\xff")] if critical else []), _octets(value))


_ECDSA_SHA256 = _sequence(_object_id("1.2.840.10045.4.3.2"))
_CURVE = _object_id("1.2.840.10045.3.1.7")


@functools.lru_cache(maxsize=4)  # the CA's and the hosts', for every certificate again
def _public(key: int) -> bytes:
    x, y = _multiply(key)
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def _key_pem(key: int) -> str:
    parts = _integer(1), _octets(key.to_bytes(32, "big")), _tagged(0xA0, _CURVE), _tagged(0xA1, _bits(_public(key)))
    return _pem("EC PRIVATE KEY", _sequence(*parts))


def _authority_extensions() -> list[bytes]:
    basic = _sequence(_tagged(0x01, b"\xff"), _integer(0))  # CA, of leaves only
    return [_extension("2.5.29.19", basic, True), _extension("2.5.29.15", _bits(b"\x06", 1), True)]


def _leaf_extensions(host: str) -> list[bytes]:
    try:
        name = _tagged(0x87, ipaddress.ip_address(host).packed)
    except ValueError:
        name = _tagged(0x82, host.encode("idna" if not host.isascii() else "ascii"))
    return [
        _extension("2.5.29.17", _sequence(name), True),
        _extension("2.5.29.37", _sequence(_object_id("1.3.6.1.5.5.7.3.1"))),  # a server
        _extension("2.5.29.15", _bits(b"\x80", 7), True),
    ]


def _certificate(subject: str, key: int, issuer_key: int, extensions: list[bytes]) -> str:
    public, issuer = _public(key), _public(issuer_key)
    ids = [
        _extension("2.5.29.14", _octets(hashlib.sha1(public, usedforsecurity=False).digest())),
        _extension("2.5.29.35", _sequence(_tagged(0x80, hashlib.sha1(issuer, usedforsecurity=False).digest()))),
    ]
    body = _sequence(
        _tagged(0xA0, _integer(2)),
        _integer(secrets.randbits(120) | 1 << 119),
        _ECDSA_SHA256,
        _name(_CA_NAME),
        _sequence(_moment(_BEGIN), _moment(_END)),
        _name(subject),
        _sequence(_sequence(_object_id("1.2.840.10045.2.1"), _CURVE), _bits(public)),
        _tagged(0xA3, _sequence(*ids, *extensions)),
    )
    return _pem("CERTIFICATE", _sequence(body, _ECDSA_SHA256, _bits(_sign(issuer_key, body))))


def new_key() -> bytes:
    """Make the key of a CA, as its file has it."""
    return f"{_new_key():064x}\n".encode()


def certificate_of(key: bytes) -> bytes:
    """Make the certificate of the CA with that key, as a client is given it.

    Raises:
        ValueError: it is no key.
    """
    number = int(key, 16)
    if not 0 < number < _N:
        raise ValueError("a key is from 1 to N - 1")
    return _certificate(_CA_NAME, number, number, _authority_extensions()).encode()


class Authority:
    """A CA in a directory, which makes certificates for hosts as they are asked for. Thread-safe.

    `ca.pem` is what a client trusts. `ca.key` never leaves the directory; only its owner can read it.

    Args:
        directory: is made when it is not there, and so is a CA in it.
        kept: of so many hosts what was made is kept, those that were asked for last.

    Raises:
        HostError: it cannot be read or written.
    """

    def __init__(self, directory: Path, kept: int = _MOST_KEPT) -> None:
        self.certificate = directory / "ca.pem"
        self._key = self._load(directory / "ca.key")
        # One key for all hosts: it lives in this process only.
        self._leaf_key = _new_key()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._kept = kept
        self._lock = threading.Lock()

    def _load(self, file: Path) -> int:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not file.exists():
                self.certificate.unlink(missing_ok=True)
                replace_file(file, [new_key()], 0o600)
            key = file.read_bytes()
            if not self.certificate.exists():
                replace_file(self.certificate, [certificate_of(key)], 0o644)
            return int(key, 16)
        except ValueError:
            hint = f"remove it, and a new one is made: rm {shlex.quote(str(file))}"
            raise HostError(f"`{file}` holds no key", hint=hint) from None
        except OSError as error:
            raise HostError(f"`{error.filename or file}` cannot be used: {reason(error)}") from None

    def context(self, host: str) -> ssl.SSLContext:
        """Return what a server needs to speak TLS as `host`, a name or an address.

        Raises:
            UnicodeError: it is no name.
        """
        with self._lock:
            context = self._contexts.pop(host, None)
            if context:
                self._contexts[host] = context
                return context
        if len(host) > _LONGEST_NAME:
            raise UnicodeError(f"a name of {len(host)} letters")
        # It takes a while, and who asks for a host that is known does not wait for it. Two may do it at once.
        made = self._context(host)
        with self._lock:
            self._contexts[host] = made
            while len(self._contexts) > self._kept:
                self._contexts.pop(next(iter(self._contexts)))
        return made

    def _context(self, host: str) -> ssl.SSLContext:
        # X.520 limits the common name to 64 letters; clients read the alternative name.
        leaf = _certificate(host[:60], self._leaf_key, self._key, _leaf_extensions(host))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        # ssl takes files only. This one is readable by its owner alone, and gone at once.
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(_key_pem(self._leaf_key) + leaf)
            file.flush()
            context.load_cert_chain(file.name)
        return context
