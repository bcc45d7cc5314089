"""Certificates that are made and read, against openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bundles.crypto.p256 import new_key
from bundles.crypto.x509 import (
    Signer,
    Validity,
    key_pem,
    make_authority,
    make_server,
    read_certificates,
    read_key,
)
from tests.support.fake_registry import Certificate

NAMES = ("192.168.10.10", "registry.corp", "::1")
BEGIN, END = 1577836800, 2000000000


def openssl(*arguments: str, text: str) -> str:
    done = subprocess.run(["openssl", *arguments], input=text, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def made() -> tuple[str, str, int]:
    """The certificates of a CA and a server, and the server's key."""
    signer, key = Signer("a CA", new_key()), new_key()
    validity = Validity(BEGIN, END)
    return make_authority(signer, validity), make_server(NAMES, key, signer, validity), key


def test_openssl_reads_the_same(made: tuple[str, str, int]) -> None:
    _, server, key = made
    (found,) = read_certificates(server.encode())
    fields = openssl("x509", "-noout", "-fingerprint", "-sha256", "-enddate", "-ext", "subjectAltName", text=server)
    assert f"Fingerprint={found.fingerprint}\n" in fields
    assert "notAfter=May 18 03:33:20 2033 GMT" in fields
    assert "IP Address:192.168.10.10, DNS:registry.corp, IP Address:0:0:0:0:0:0:0:1" in fields
    assert (found.names, found.end) == (NAMES, END)
    assert found.has_key(key)
    assert not found.has_key(new_key())
    assert openssl("ec", "-pubout", text=key_pem(key)) == openssl("x509", "-noout", "-pubkey", text=server)


def test_openssl_takes_the_chain(made: tuple[str, str, int], tmp_path: Path) -> None:
    authority, server, _ = made
    (tmp_path / "ca.pem").write_text(authority)
    assert "OK" in openssl("verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.pem"), text=server)


def test_a_chain_is_read_in_its_order(made: tuple[str, str, int]) -> None:
    authority, server, _ = made
    found = read_certificates(f"some text\n{server}{authority}".encode())
    assert [each.names for each in found] == [NAMES, ()]


def test_certificates_of_openssl_are_read(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path, "registry.corp")
    (found,) = read_certificates(certificate.file.read_bytes())
    assert found.names == ("127.0.0.1", "localhost", "registry.corp")
    text = certificate.file.read_text()
    assert found.fingerprint in openssl("x509", "-noout", "-fingerprint", "-sha256", text=text)


def test_a_key_is_read_as_it_was_written() -> None:
    key = new_key()
    assert read_key(key_pem(key).encode()) == key


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|cut off|unpack|padding"):
        read_key(text.encode())


def test_what_is_no_certificate_is_said_to_be_none(made: tuple[str, str, int]) -> None:
    assert read_certificates(b"nonsense") == []
    lines = made[1].splitlines()
    with pytest.raises(ValueError):
        read_certificates("\n".join([*lines[:3], lines[-1]]).encode())
