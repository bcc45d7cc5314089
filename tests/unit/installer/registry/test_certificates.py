"""Certificates of our own registry, judged by Python's TLS."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from bundles.crypto.p256 import new_key
from bundles.crypto.x509 import Signer, Validity, key_pem, make_server, read_certificates
from installer.model.registry.address import Address
from installer.registry.certificates import (
    ending,
    is_of_ours,
    new_authority,
    new_chain,
    readable,
    refusal,
    server_names,
)
from tests.support.fake_registry import Certificate

LAN = Address.parse("192.168.10.10:5000")
DAY = 24 * 3600


class Made:
    """A CA and a certificate in a directory."""

    def __init__(self, directory: Path, address: Address = LAN) -> None:
        directory.mkdir(exist_ok=True)
        self.authority_key, self.key = new_key(), new_key()
        authority = new_authority(self.authority_key)
        chain = new_chain(address, self.key, authority, self.authority_key)
        self.authority, self.chain, self.key_file = (directory / name for name in ("ca.pem", "s.pem", "s.key"))
        self.authority.write_bytes(authority)
        self.chain.write_bytes(chain)
        self.key_file.write_text(key_pem(self.key))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "made")


@pytest.mark.parametrize("text", ["192.168.10.10:5000", "localhost:5000", "registry.corp:443", "[fd00::1]:5000"])
def test_a_client_takes_what_is_made_for_every_name_of_the_registry(tmp_path: Path, text: str) -> None:
    made, address = Made(tmp_path, Address.parse(text)), Address.parse(text)
    for host in (address.host, "localhost", "127.0.0.1", "[::1]"):
        assert refusal(made.chain, made.key_file, made.authority, Address(host, 5000)) is None
    assert "mismatch" in str(refusal(made.chain, made.key_file, made.authority, Address("192.168.10.11", 5000)))


def test_it_is_good_for_two_years_and_its_ca_for_ten(made: Made) -> None:
    server, behind = read_certificates(made.chain.read_bytes())
    (authority,) = read_certificates(made.authority.read_bytes())
    assert behind == authority
    assert [round((each.end - time.time()) / DAY) for each in (server, authority)] == [731, 3653]
    assert is_of_ours(server)
    assert server.names == tuple(server_names(LAN))
    assert ending(server) is None


def test_it_never_outlives_its_ca(made: Made) -> None:
    end = time.time() + 100 * DAY
    from bundles.crypto.x509 import make_authority

    authority = make_authority(Signer("offline-bundle registry", made.authority_key), Validity(0, end)).encode()
    server, _ = read_certificates(new_chain(LAN, made.key, authority, made.authority_key))
    assert server.end == int(end)


def test_what_ends_soon_and_what_has_ended(made: Made) -> None:
    def made_for(days: int) -> bytes:
        validity = Validity(0, time.time() + days * DAY)
        return make_server(["192.168.10.10"], made.key, Signer("a CA", made.authority_key), validity).encode()

    says = [ending(readable(made_for(days))[0]) for days in (31, 29, -1)]
    assert says[0] is None
    assert str(says[1]).startswith("ends on 2")
    assert str(says[2]).startswith("ended on 2")


def test_what_is_given_is_refused_with_what_is_wrong(made: Made, tmp_path: Path) -> None:
    other = Made(tmp_path / "other")
    assert (
        refusal(made.chain, other.key_file, made.authority, LAN)
        == f"`{other.key_file}` is not the key of `{made.chain}`"
    )
    assert "refuse it: " in str(refusal(made.chain, made.key_file, other.authority, LAN))
    assert "in certificate chain" in str(refusal(made.chain, made.key_file, None, LAN))
    assert "no PEM certificate and its key" in str(refusal(made.key_file, made.key_file, None, LAN))
    text = tmp_path / "text"
    text.write_text("nonsense")
    assert refusal(made.chain, made.key_file, text, LAN) == f"`{text}` holds no PEM certificate"


def test_what_has_ended_is_refused(made: Made) -> None:
    validity = Validity(0, time.time() - DAY)
    signer = Signer("offline-bundle registry", made.authority_key)
    made.chain.write_text(make_server(["192.168.10.10"], made.key, signer, validity))
    assert refusal(made.chain, made.key_file, made.authority, LAN) == (
        "a client would refuse it: certificate has expired"
    )


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    made = Certificate.make(tmp_path)
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", made.key, "-aes256", "-passout", "pass:hunter2", "-out", locked]
    subprocess.run(command, check=True)
    assert "has a passphrase" in str(refusal(made.file, locked, made.file, Address("127.0.0.1", 5000)))
    assert refusal(made.file, made.key, made.file, Address("127.0.0.1", 5000)) is None
