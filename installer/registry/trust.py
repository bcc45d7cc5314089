"""Whose certificates are enough to trust who answers at an address: everybody's, this host's, or others."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import certifi

from bundles.registry.urls import Origin

_SECONDS = 5.0
# Where programs written in Go, as buildx is, look for the system's CAs: crypto/x509/root_linux.go. The first file that
# is there, and every file in the directories.
_FILES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
)
_DIRECTORIES = ("etc/ssl/certs", "etc/pki/tls/certs")


def public_authorities() -> bytes:
    """Return the CAs that everybody trusts, the builder among them."""
    return certifi.contents().encode()


def system_authorities(root: Path, *, everything: bool = False) -> bytes:
    """Return the CAs of the system below `root`: its one file; or `everything`, which takes longer."""
    files = [file for file in (root / name for name in _FILES) if file.is_file()][:1]
    if everything:
        with contextlib.suppress(OSError):
            files += [file for name in _DIRECTORIES for file in sorted((root / name).glob("*")) if file.is_file()]
    return b"\n".join(_contents(files))


def _contents(files: list[Path]) -> Iterator[bytes]:
    for file in dict.fromkeys(file.resolve() for file in files):
        with contextlib.suppress(OSError):
            yield file.read_bytes()


def is_trusted(origin: Origin, authorities: bytes) -> Optional[bool]:
    """Tell whether these CAs, PEM, are enough to trust who answers; None when nobody does, or not directly."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in _certificates(authorities):
        # One that cannot be read is passed over, as Go does.
        with contextlib.suppress(ssl.SSLError, ValueError):
            context.load_verify_locations(cadata=certificate)
    try:
        with (
            socket.create_connection((origin.host, origin.port), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=origin.host),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False
    except OSError:
        return None


def _certificates(pem: bytes) -> Iterator[str]:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for part in pem.decode(errors="replace").split(begin)[1:]:
        body, found, _ = part.partition(end)
        if found:
            yield f"{begin}{body}{end}\n"
