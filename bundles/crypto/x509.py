"""Certificates (X.509, RFC 5280) with keys on P-256: made, and read as far as their names and their end."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence

from bundles.crypto import der
from bundles.crypto.p256 import is_key, public_key, sign

_CURVE = der.object_id("1.2.840.10045.3.1.7")
_EC_KEY = der.object_id("1.2.840.10045.2.1")
_ECDSA_SHA256 = der.sequence(der.object_id("1.2.840.10045.4.3.2"))
_NAMES = der.object_id("2.5.29.17")
_CONTEXT_0, _CONTEXT_1, _CONTEXT_3 = 0xA0, 0xA1, 0xA3
_KEY_ID, _DNS_NAME, _IP_ADDRESS = 0x80, 0x82, 0x87
_CERTIFICATE, _KEY = "CERTIFICATE", "EC PRIVATE KEY"


@dataclasses.dataclass(frozen=True)
class Signer:
    """A CA: the name that its certificate has, and its private key."""

    name: str
    key: int


@dataclasses.dataclass(frozen=True)
class Validity:
    """From when to when a certificate is good, in seconds since the epoch."""

    begin: float
    end: float


def make_authority(signer: Signer, validity: Validity) -> str:
    """Make the certificate of a CA for servers, signed with its own key, as PEM."""
    basic = der.sequence(der.tagged(der.BOOLEAN, b"\xff"), der.integer(0))  # CA, of leaves only
    extensions = [_extension("2.5.29.19", basic, True), _extension("2.5.29.15", der.bits(b"\x06", 1), True)]
    return _certificate(signer, signer, validity, extensions)


def make_server(names: Sequence[str], key: int, issuer: Signer, validity: Validity) -> str:
    """Make the certificate of a server, as PEM.

    Args:
        names: what it is asked for as: names of hosts and IP addresses; the first is what people see.
        key: the server's private key.
        issuer: the CA that signs.
        validity: from when to when it is good.

    Raises:
        UnicodeError: one is no name.
    """
    extensions = [
        _extension("2.5.29.17", der.sequence(*map(_general_name, names)), True),
        _extension("2.5.29.37", der.sequence(der.object_id("1.3.6.1.5.5.7.3.1"))),  # a server
        _extension("2.5.29.15", der.bits(b"\x80", 7), True),
    ]
    # X.520 limits the common name to 64 letters; clients read the alternative name.
    return _certificate(Signer(names[0][:60], key), issuer, validity, extensions)


def _general_name(host: str) -> bytes:
    try:
        return der.tagged(_IP_ADDRESS, ipaddress.ip_address(host).packed)
    except ValueError:
        return der.tagged(_DNS_NAME, host.encode("idna" if not host.isascii() else "ascii"))


def _name(text: str) -> bytes:
    return der.sequence(
        der.tagged(der.SET, der.sequence(der.object_id("2.5.4.3"), der.tagged(der.TEXT, text.encode())))
    )


def _extension(which: str, value: bytes, critical: bool = False) -> bytes:
    return der.sequence(
        der.object_id(which), *([der.tagged(der.BOOLEAN, b"\xff")] if critical else []), der.octets(value)
    )


def _certificate(subject: Signer, issuer: Signer, validity: Validity, extensions: Sequence[bytes]) -> str:
    public, issuer_public = public_key(subject.key), public_key(issuer.key)
    ids = [
        _extension("2.5.29.14", der.octets(_key_id(public))),
        _extension("2.5.29.35", der.sequence(der.tagged(_KEY_ID, _key_id(issuer_public)))),
    ]
    body = der.sequence(
        der.tagged(_CONTEXT_0, der.integer(2)),
        der.integer(secrets.randbits(120) | 1 << 119),
        _ECDSA_SHA256,
        _name(issuer.name),
        der.sequence(der.moment(validity.begin), der.moment(validity.end)),
        _name(subject.name),
        der.sequence(der.sequence(_EC_KEY, _CURVE), der.bits(public)),
        der.tagged(_CONTEXT_3, der.sequence(*ids, *extensions)),
    )
    signature = der.sequence(*map(der.integer, sign(issuer.key, body)))
    return der.pem(_CERTIFICATE, der.sequence(body, _ECDSA_SHA256, der.bits(signature)))


def _key_id(public: bytes) -> bytes:
    return hashlib.sha1(public, usedforsecurity=False).digest()


def key_pem(key: int) -> str:
    """Return a private key as servers read it (SEC 1)."""
    public = der.tagged(_CONTEXT_1, der.bits(public_key(key)))
    parts = der.integer(1), der.octets(key.to_bytes(32, "big")), der.tagged(_CONTEXT_0, _CURVE), public
    return der.pem(_KEY, der.sequence(*parts))


def read_key(text: bytes) -> int:
    """Read a private key on P-256 that `key_pem` has written.

    Raises:
        ValueError: it is none.
    """
    for data in der.from_pem(_KEY, text):
        ((_, body),) = der.values(data)
        parts = list(der.values(body))
        if len(parts) > 2 and parts[1][0] == der.OCTETS and der.tagged(*parts[2]) == der.tagged(_CONTEXT_0, _CURVE):
            key = int.from_bytes(parts[1][1], "big")
            if is_key(key):
                return key
    raise ValueError("it holds no key on P-256")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Args:
        end: when it ends, in seconds since the epoch.
        names: the hosts it is for, IP addresses as Python writes them.
        issuer: the name of the CA that signed it, in DER.
        public: the bits of its public key.
        fingerprint: SHA-256 of the whole, as openssl and browsers show it: `AB:CD:...`.
    """

    end: float
    names: tuple[str, ...]
    issuer: bytes
    public: bytes
    fingerprint: str

    def has_key(self, key: int) -> bool:
        """Tell whether this private key is the one that it belongs to."""
        return self.public == public_key(key)


def read_certificates(text: bytes) -> list[Certificate]:
    """Read the certificates in PEM, in their order.

    Raises:
        ValueError: something in it is no certificate.
    """
    return [_read(data) for data in der.from_pem(_CERTIFICATE, text)]


def _read(data: bytes) -> Certificate:
    digest = hashlib.sha256(data).hexdigest().upper()
    try:
        ((_, whole),) = der.values(data)
        (_, body), *_ = der.values(whole)
        fields = [field for field in der.values(body) if field[0] != _CONTEXT_0]
        # serial, algorithm, issuer, validity, subject, key; then extensions
        _, end = der.values(fields[3][1])
        _, (_, public) = der.values(fields[5][1])
        return Certificate(
            end=der.read_moment(*end),
            names=tuple(_read_names(fields[6:])),
            issuer=fields[2][1],
            public=public[1:],
            fingerprint=":".join(digest[at : at + 2] for at in range(0, len(digest), 2)),
        )
    except (IndexError, UnicodeError) as error:
        raise ValueError(f"it is no certificate: {error}") from None


def _read_names(fields: Sequence[tuple[int, bytes]]) -> list[str]:
    """Return the alternative names in what follows the key."""
    names = []
    for body in (body for tag, body in fields if tag == _CONTEXT_3):
        ((_, extensions),) = der.values(body)
        for _, extension in der.values(extensions):
            which, *_, (_, value) = der.values(extension)
            if der.tagged(*which) != _NAMES:
                continue
            ((_, listed),) = der.values(value)
            for tag, name in der.values(listed):
                if tag == _IP_ADDRESS:
                    names.append(str(ipaddress.ip_address(name)))
                elif tag == _DNS_NAME:
                    names.append(name.decode("ascii"))
    return names
