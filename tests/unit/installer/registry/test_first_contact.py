"""How a registry that others set up is spoken to is settled before anything is sent to it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.crypto.x509 import fingerprint
from bundles.errors import HostError, NetworkError, UsageError
from bundles.registry.server_certificates import certificates_of
from installer.model.registry.address import Address
from installer.registry.first_contact import Contact, first_contact
from tests.support.fake_registry import Certificate, FakeRegistry

Fake = Callable[..., FakeRegistry]
OTHER = ":".join(["AB"] * 32)


class Person:
    """Answers questions, and keeps them."""

    def __init__(self, answer: bool) -> None:
        self.asked: list[str] = []
        self._answer = answer

    def __call__(self, question: str) -> bool:
        self.asked.append(question)
        return self._answer


@pytest.fixture
def authority(tmp_path: Path) -> Certificate:
    """A CA that nobody knows."""
    (tmp_path / "ca").mkdir()
    return Certificate.make(tmp_path / "ca")


@pytest.fixture
def site(fake: Fake, authority: Certificate, tmp_path: Path, names: None) -> FakeRegistry:
    """A registry as the project's own is: it presents its certificate and its CA's, and wants a login."""
    return fake(tls=authority.issue(tmp_path, "registry.example"), auth="basic", users={"bundle": "secret"})


@pytest.fixture(autouse=True)
def _no_certs_d(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def at(registry: FakeRegistry, name: str = "registry.example") -> Address:
    return Address(name, registry.port)


def print_of(certificate: Certificate) -> str:
    return fingerprint(certificates_of(certificate.file.read_text())[0])


def test_the_ca_that_is_presented_is_asked_for(site: FakeRegistry, authority: Certificate) -> None:
    person = Person(True)
    assert first_contact(at(site), ask=person) == Contact(True, authority.file.read_text(), print_of(authority))
    (question,) = person.asked
    assert print_of(authority) in question
    assert site.requests == []


def test_who_does_not_know_it_goes_no_further(site: FakeRegistry) -> None:
    with pytest.raises(HostError, match="was not trusted, and nothing was sent"):
        first_contact(at(site), ask=Person(False))
    assert site.requests == []


def test_where_nobody_is_there_the_fingerprint_is_said(site: FakeRegistry, authority: Certificate) -> None:
    with pytest.raises(HostError, match="is not known here") as caught:
        first_contact(at(site))
    assert print_of(authority) in caught.value.message
    assert caught.value.hint is not None and caught.value.hint.endswith(f"--fingerprint {print_of(authority)}")
    assert site.requests == []


def test_the_ca_of_the_expected_fingerprint_needs_no_word(site: FakeRegistry, authority: Certificate) -> None:
    person = Person(False)
    contact = first_contact(at(site), expected=print_of(authority), ask=person)
    assert contact == Contact(True, authority.file.read_text(), print_of(authority))
    assert person.asked == [] and site.requests == []


def test_somebody_in_between_with_another_certificate_gets_nothing(
    fake: Fake, authority: Certificate, tmp_path: Path, names: None
) -> None:
    (tmp_path / "other").mkdir()
    other = Certificate.make(tmp_path / "other")
    impostor = fake(tls=other.issue(tmp_path / "other", "registry.example"))
    person = Person(True)
    with pytest.raises(NetworkError, match="is not who was expected") as caught:
        first_contact(at(impostor), expected=print_of(authority), ask=person)
    assert print_of(other) in caught.value.message
    with pytest.raises(NetworkError, match="the CA in the file does not prove"):
        first_contact(at(impostor), ca_file=authority.file, ask=person)
    assert person.asked == [] and impostor.requests == []


def test_the_right_ca_beside_a_certificate_that_it_did_not_sign_proves_nothing(
    fake: Fake, authority: Certificate, tmp_path: Path, names: None
) -> None:
    (tmp_path / "other").mkdir()
    issued = Certificate.make(tmp_path / "other").issue(tmp_path / "other", "registry.example", with_authority=False)
    issued.file.write_text(issued.file.read_text() + authority.file.read_text())
    impostor, person = fake(tls=issued), Person(True)
    with pytest.raises(NetworkError, match="the certificate of that fingerprint does not prove"):
        first_contact(at(impostor), expected=print_of(authority), ask=person)
    with pytest.raises(NetworkError, match="nor does the last certificate that it presents prove"):
        first_contact(at(impostor), ask=person)
    assert person.asked == [] and impostor.requests == []


def test_a_certificate_for_another_name_proves_nothing(site: FakeRegistry, authority: Certificate) -> None:
    for known in ({"expected": print_of(authority)}, {"ca_file": authority.file}, {"ask": Person(True)}):
        with pytest.raises(NetworkError, match=r"not valid for 'other\.example'"):
            first_contact(at(site, "other.example"), **known)
    assert site.requests == []


def test_plain_http_where_a_certificate_is_expected_is_refused(registry: FakeRegistry, authority: Certificate) -> None:
    address = Address("127.0.0.1", registry.port)
    for known in ({"expected": OTHER}, {"ca_file": authority.file}):
        with pytest.raises(NetworkError, match="speaks plain HTTP, where a certificate is expected"):
            first_contact(address, **known)
    assert first_contact(address) == Contact(tls=False)
    assert registry.requests == []


def test_plain_http_where_tls_was_spoken_before_is_refused(registry: FakeRegistry) -> None:
    with pytest.raises(NetworkError, match="spoke TLS when this host began to use it: nothing was sent") as caught:
        first_contact(Address("127.0.0.1", registry.port), secured=True, ask=Person(True))
    assert caught.value.hint is not None and "uninstall" in caught.value.hint
    assert registry.requests == []


def test_what_certs_d_trusts_needs_no_word(site: FakeRegistry, authority: Certificate, tmp_path: Path) -> None:
    directory = tmp_path / "home/.docker/certs.d" / f"registry.example:{site.port}"
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text(authority.file.read_text())
    person = Person(False)
    assert first_contact(at(site), ask=person) == Contact(True, authority.file.read_text())
    # Joining writes both: they are one.
    assert first_contact(at(site), kept=authority.file, ask=person) == Contact(True, authority.file.read_text())
    assert person.asked == []


def test_what_was_trusted_before_needs_no_word(site: FakeRegistry, authority: Certificate, tmp_path: Path) -> None:
    assert first_contact(at(site), kept=authority.file).authority == authority.file.read_text()
    (tmp_path / "other").mkdir()
    other = Certificate.make(tmp_path / "other")
    with pytest.raises(HostError, match="is not known here, and this host has trusted another one so far"):
        first_contact(at(site), kept=other.file)
    person = Person(True)
    first_contact(at(site), kept=other.file, ask=person)
    assert "this host has trusted another one so far" in person.asked[0]
    first_contact(at(site), ask=person)
    assert "so far" not in person.asked[1]


def test_the_ca_file_may_hold_more_than_certificates(
    site: FakeRegistry, authority: Certificate, tmp_path: Path
) -> None:
    file = tmp_path / "with-text.pem"
    file.write_text(f"# the site's\n{authority.file.read_text()}")
    assert first_contact(at(site), ca_file=file) == Contact(True, authority.file.read_text())


def test_a_ca_file_that_cannot_be_used(site: FakeRegistry, authority: Certificate, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.pem` cannot be read: no such file"):
        first_contact(at(site), ca_file=tmp_path / "gone.pem")
    with pytest.raises(UsageError, match=r"key\.pem`: it holds no PEM certificate"):
        first_contact(at(site), ca_file=authority.key)
    broken = tmp_path / "broken.pem"
    broken.write_text(ssl.DER_cert_to_PEM_cert(b"no certificate"))
    with pytest.raises(UsageError, match=r"broken\.pem`: what is between its lines of PEM is no certificate"):
        first_contact(at(site), ca_file=broken)
    assert site.requests == []


def test_what_is_presented_may_be_no_certificate(site: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("installer.registry.first_contact.presented", lambda host, port: (b"one", b"another"))
    with pytest.raises(NetworkError, match="it is no certificate"):
        first_contact(at(site), ask=Person(True))


def test_who_presents_no_ca_needs_a_file(fake: Fake, authority: Certificate, tmp_path: Path, names: None) -> None:
    lone = fake(tls=authority.issue(tmp_path, "registry.example", with_authority=False))
    with pytest.raises(NetworkError, match="nor does the last certificate") as caught:
        first_contact(at(lone), ask=Person(True))
    assert caught.value.hint is not None and "--ca FILE" in caught.value.hint
    assert first_contact(at(lone), ca_file=authority.file).authority == authority.file.read_text()
    assert lone.requests == []
