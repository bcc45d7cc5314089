"""The first contact with a registry that others set up: does it speak TLS, and with whose certificates?

Nothing is sent before that is settled: no login, and no request.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.crypto.x509 import fingerprint
from bundles.errors import HostError, NetworkError, UsageError, reason
from bundles.registry.certificates import find, standard_directories
from bundles.registry.server_certificates import certificates_of, presented, refusal
from bundles.registry.tls import trusting
from bundles.registry.urls import Origin
from bundles.runtime.program import own_command, quote
from installer.host.host import Ask
from installer.model.registry.address import Address


@dataclasses.dataclass(frozen=True)
class Contact:
    """How a registry is spoken to.

    Args:
        tls: whether it speaks TLS; else plain HTTP.
        authority: the certificate, or certificates, in PEM, that are trusted besides the system's; empty for none.
        compared: the fingerprint that a person has compared, or named; empty when that was not needed.
    """

    tls: bool
    authority: str = ""
    compared: str = ""


def first_contact(
    address: Address,
    *,
    ca_file: Optional[Path] = None,
    expected: Optional[str] = None,
    kept: Optional[Path] = None,
    secured: bool = False,
    ask: Optional[Ask] = None,
) -> Contact:
    """Find out how a registry is spoken to.

    A certificate that this machine trusts, by the system's CAs, by certs.d, or since an earlier time, needs no word. Of
    another the last one that the server presents is its CA: a person compares its fingerprint, or has named it before.

    Args:
        address: where the registry is.
        ca_file: the CA, as somebody brought it here.
        expected: the fingerprint of a certificate, the server's or its CA's, as `fingerprint` gives it.
        kept: the CA that was trusted here before; None for none.
        secured: whether it was spoken to by TLS from here before.
        ask: puts a yes-or-no question to the person who is there; None when nobody is.

    Raises:
        UnreachableError: no connection.
        NetworkError: what answers is no registry, or somebody else than who was expected.
        UsageError: the CA file cannot be used.
        HostError: nobody could say that the certificate is the right one.
    """
    given = _read(ca_file) if ca_file else ""
    chain = presented(address.host, address.port)
    if chain is None:
        if given or expected:
            raise NetworkError(
                f"`{address}` speaks plain HTTP, where a certificate is expected: nothing was sent",
                hint="is it the right address? somebody else may be answering there",
            )
        if secured:
            # What Docker has a login for would from now on get it in the clear, whoever that is.
            raise NetworkError(
                f"`{address}` speaks plain HTTP, and spoke TLS when this host began to use it: nothing was sent",
                hint="somebody else may be answering there; when it was installed with --no-tls since: "
                f"{own_command('uninstall')}, then run this again",
            )
        return Contact(tls=False)
    if given:
        return _verified(address, given, "the CA in the file does not prove")
    if expected:
        found = next((certificate for certificate in chain if fingerprint(certificate) == expected), None)
        if found is None:
            raise NetworkError(
                f"`{address}` is not who was expected: it presents {_listed(chain)}, and not {expected}; nothing was "
                "sent",
                hint="compare it with what `status` says on the registry's host: somebody may be in between",
            )
        known = ssl.DER_cert_to_PEM_cert(found)
        contact = _verified(address, known, "the certificate of that fingerprint does not prove")
        return dataclasses.replace(contact, compared=expected)
    refused = refusal(address.host, address.port, trusting())
    if refused is None:
        return Contact(tls=True)
    # BuildKit knows neither: it is given the file.
    files = find(standard_directories(), Origin.of(f"https://{address}")).authorities
    for known in (_read(kept) if kept else "", "".join(map(_read, files))):
        if known and _objection(address, known) is None:
            return Contact(True, known)
    if not chain:
        raise NetworkError(f"the certificate of `{address}` is not trusted: {refused}", hint=_BY_FILE)
    authority = ssl.DER_cert_to_PEM_cert(chain[-1])
    contact = _verified(address, authority, "nor does the last certificate that it presents prove")
    _confirm(address, fingerprint(chain[-1]), ask, ", and this host has trusted another one so far" if kept else "")
    return dataclasses.replace(contact, compared=fingerprint(chain[-1]))


_BY_FILE = "bring its CA here, and name it: --ca FILE"


def _confirm(address: Address, print_: str, ask: Optional[Ask], more: str) -> None:
    """Have a person say that the CA is the right one; `more` is what there is to know of it.

    Raises:
        HostError: nobody is there, or it is not.
    """
    if ask is None:
        raise HostError(
            f"the CA of `{address}` is not known here{more}: its SHA-256 fingerprint is {print_}",
            hint=f"compare it with what `status` says on the registry's host; when it is the same: --fingerprint "
            f"{print_}",
        )
    question = (
        f"the CA of {address} is not known here{more}. Its SHA-256 fingerprint is\n  {print_}\n"
        "Is it the one that `status` says on the registry's host"
    )
    if not ask(question):
        raise HostError(f"the CA of `{address}` was not trusted, and nothing was sent", hint=_BY_FILE)


def _verified(address: Address, authority: str, otherwise: str) -> Contact:
    """Make sure that the server is proven by these certificates alone, for this very address."""
    refused = _objection(address, authority)
    if refused is not None:
        raise NetworkError(
            f"{otherwise} that `{address}` is who it says: {refused}; nothing was sent",
            hint=f"{_BY_FILE}; or see what it presents: openssl s_client -showcerts -connect {quote(str(address))}",
        )
    return Contact(True, authority)


def _objection(address: Address, authority: str) -> Optional[str]:
    """Say why these certificates alone do not prove the server; None when they do."""
    try:
        context = trusting(pem=authority)
    except ssl.SSLError:
        # What a server presents may be anything.
        return "it is no certificate"
    return refusal(address.host, address.port, context)


def _read(file: Path) -> str:
    """Read a PEM file."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(f"the CA file `{file}` cannot be read: {reason(error)}") from None
    try:
        found = "".join(map(ssl.DER_cert_to_PEM_cert, certificates_of(text)))
        trusting(pem=found)
    except UsageError as error:
        raise UsageError(f"the CA file `{file}`: {error.message}") from None
    except ssl.SSLError:
        raise UsageError(f"the CA file `{file}`: what is between its lines of PEM is no certificate") from None
    return found


def _listed(chain: Sequence[bytes]) -> str:
    return ", ".join(map(fingerprint, chain)) or "none that could be looked at"
