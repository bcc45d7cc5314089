"""Certificates against what checks them in earnest: Python's own TLS, and openssl."""

from __future__ import annotations

import ssl
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundles.errors import HostError
from bundles.proxy.certificates import Authority
from tests.support.handshake import connected


def client_of(trusted: Path) -> ssl.SSLContext:
    """What a client is that trusts this CA."""
    client = ssl.create_default_context(cafile=str(trusted))
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client


def handshake(server: ssl.SSLContext, trusted: Path, name: str) -> str:
    """Connect; the protocol that was agreed on."""
    with connected(server, client_of(trusted), name) as connection:
        return str(connection.selected_alpn_protocol())


def certificate_of(server: ssl.SSLContext, trusted: Path, name: str) -> str:
    with connected(server, client_of(trusted), name) as connection:
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")


@pytest.mark.parametrize("host", ["packages.example", "127.0.0.1", "::1", "x" * 60 + ".a-long-name.example"])
def test_a_client_that_trusts_the_ca_takes_the_host_for_itself(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path)
    assert handshake(authority.context(host), authority.certificate, host) == "http/1.1"


def test_another_name_and_another_ca_are_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        handshake(authority.context("a.example"), authority.certificate, "b.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.context("a.example"), other.certificate, "a.example")


def test_the_ca_stays_and_its_key_is_its_owners_alone(tmp_path: Path) -> None:
    first = Authority(tmp_path / "ca")
    key = tmp_path / "ca" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.certificate.stat().st_mode) == 0o644
    text = first.certificate.read_text()
    assert "PRIVATE" not in text
    again = Authority(tmp_path / "ca")
    assert again.certificate.read_text() == text
    assert handshake(again.context("a.example"), first.certificate, "a.example")


def test_an_interrupted_start_is_gone_on_with(tmp_path: Path) -> None:
    Authority(tmp_path)
    key = (tmp_path / "ca.key").read_text()
    (tmp_path / "ca.pem").unlink()
    authority = Authority(tmp_path)
    assert (tmp_path / "ca.key").read_text() == key
    assert handshake(authority.context("a.example"), authority.certificate, "a.example")
    (tmp_path / "ca.key").unlink()  # a certificate without its key is worth nothing
    authority = Authority(tmp_path)
    assert handshake(authority.context("a.example"), authority.certificate, "a.example")


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(HostError, match="holds no key") as caught:
        Authority(tmp_path)
    assert caught.value.hint == f"remove it, and a new one is made: rm {tmp_path / 'ca.key'}"


def test_openssl_finds_nothing_to_object_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(certificate_of(authority.context("a.example"), authority.certificate, "a.example"))
    # Now, a clock that is years slow, as on a host without a network, and one that is years fast.
    for when in ([], ["-attime", "1577836801"], ["-attime", "1893456000"]):
        command = ["openssl", "verify", "-x509_strict", *when, "-CAfile", authority.certificate, leaf]
        subprocess.run(command, check=True)


def test_an_address_is_not_a_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address"):
        handshake(authority.context("localhost"), authority.certificate, "127.0.0.1")


def test_what_was_made_for_a_host_is_kept_as_long_as_it_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path, kept=3)
    first = authority.context("0.example")
    for number in range(1, 8):
        authority.context(f"{number}.example")
        assert authority.context("0.example") is first
    kept = [authority.context(f"{number}.example") for number in (6, 7)]
    assert [authority.context(f"{number}.example") for number in (6, 7)] == kept
    gone = authority.context("1.example")
    authority.context("2.example"), authority.context("3.example"), authority.context("4.example")
    assert authority.context("1.example") is not gone
    # Clients see no difference.
    assert handshake(authority.context("1.example"), authority.certificate, "1.example")


def test_many_threads_get_certificates_for_many_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path, kept=2)
    with ThreadPoolExecutor(8) as pool:
        names = [f"{number % 5}.example" for number in range(40)]
        for name, context in zip(names, pool.map(authority.context, names)):
            assert handshake(context, authority.certificate, name)


@pytest.mark.parametrize("host", ["x" * 254, "a" * 60_000])
def test_what_is_longer_than_a_name_can_be_is_none(tmp_path: Path, host: str) -> None:
    with pytest.raises(UnicodeError):
        Authority(tmp_path).context(host)
