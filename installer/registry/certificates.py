"""Certificates for our own registry: made, and judged as the clients will judge them."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.crypto.x509 import Certificate, Signer, Validity, make_authority, make_server, read_certificates
from bundles.registry.tls import trusting
from installer.model.registry.address import Address

SOON_DAYS = 30
_DAY = 24 * 3600
_AUTHORITY_DAYS, _SERVER_DAYS = 3653, 731
# Clocks of hosts without a network are often wrong: a certificate is good at once, also where the clock is behind.
_BEGIN = 1577836800  # 2020-01-01
_CA_NAME = "offline-bundle registry"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def server_names(address: Address) -> list[str]:
    """Return what the registry is asked for as, what stands in image names first; IP addresses in their one form."""
    host = address.host.strip("[]")
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return list(dict.fromkeys((host, *_LOCAL_NAMES)))


def new_authority(key: int) -> bytes:
    """Make the certificate of the registry's CA, for ten years."""
    return make_authority(Signer(_CA_NAME, key), _from_now(_AUTHORITY_DAYS)).encode()


def new_chain(address: Address, key: int, authority: bytes, authority_key: int) -> bytes:
    """Make the registry's certificate, for two years and never longer than its CA's, and put the CA's behind it.

    Who joins another host gets the CA from there, and compares its fingerprint.
    """
    wanted, limit = _from_now(_SERVER_DAYS), read_certificates(authority)[0].end
    validity = Validity(wanted.begin, min(wanted.end, limit))
    return make_server(server_names(address), key, Signer(_CA_NAME, authority_key), validity).encode() + authority


def _from_now(days: int) -> Validity:
    now = time.time()
    return Validity(min(_BEGIN, now - _DAY), now + days * _DAY)


def is_of_ours(certificate: Certificate) -> bool:
    """Tell whether a CA that this program made has signed it."""
    return _CA_NAME.encode() in certificate.issuer


def readable(text: Optional[bytes]) -> Sequence[Certificate]:
    """Return the certificates in PEM; none where it is not there, or none."""
    with contextlib.suppress(ValueError):
        return read_certificates(text or b"")
    return ()


def ending(certificate: Certificate) -> Optional[str]:
    """Say that a certificate has ended, or does so soon; None while it is good for longer."""
    left = certificate.end - time.time()
    if left > SOON_DAYS * _DAY:
        return None
    day = datetime.datetime.fromtimestamp(certificate.end, datetime.timezone.utc).strftime("%Y-%m-%d")
    return f"{'ends' if left > 0 else 'ended'} on {day}"


class _PassphraseWanted(Exception):
    pass


def refusal(certificate: Path, key: Path, authority: Optional[Path], address: Address) -> Optional[str]:
    """Say why a client would not talk to a registry that shows these; None when it would.

    Args:
        certificate: a PEM file, the registry's first, then those between it and its CA.
        key: its key, a PEM file.
        authority: the CA, a PEM file; None for those that the system trusts.
        address: what the client asks for.
    """

    def no_passphrase() -> str:
        raise _PassphraseWanted

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, no_passphrase)
    except _PassphraseWanted:
        return f"the key `{key}` has a passphrase: expected one without, since the registry starts by itself"
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"`{key}` is not the key of `{certificate}`"
        return f"`{certificate}` and `{key}` are no PEM certificate and its key"
    try:
        client = trusting(authority)
    except ssl.SSLError:
        return f"`{authority}` holds no PEM certificate"
    return _shaking_hands(client, server, address.host.strip("[]"))


def _shaking_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> Optional[str]:
    """Have both talk in memory; what the client objects to."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    # TLS 1.3 takes one turn each way, TLS 1.2 two.
    for side in (one, other) * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return f"a client would refuse it: {error.verify_message.lower().rstrip('.')}"
        except ssl.SSLError as error:
            return f"a client would refuse it: {str(error.reason or error).lower().replace('_', ' ')}"
    return None
