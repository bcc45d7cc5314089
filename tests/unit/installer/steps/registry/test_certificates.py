"""The files of our own registry: made once, renewed, given, and gone."""

from __future__ import annotations

import base64
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from bundles.crypto import p256
from bundles.crypto.x509 import Signer, Validity, key_pem, make_authority, make_server, read_certificates, read_key
from bundles.oci.platform import Platform
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import Options
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.installed import own_access
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.registry.certificates import Certificates, Files, RemoveCertificates
from tests.support.fake_registry import Certificate
from tests.support.states import desired

AMD64 = Platform("linux", "amd64")
DAY = 24 * 3600


class Place:
    """A user's places, and the step for an address."""

    def __init__(self, root: Path, address: str = "192.168.10.10:5000") -> None:
        self.places = Places(root / "docker", root / "buildx", root / "state")
        self.host = Host(None, None, self.places)  # type: ignore[arg-type]
        self.files = Files.of(self.places)
        self.address = address

    def step(self, access: Access | None = None, **options: Any) -> Certificates:
        access = access or own_access(self.places, login=True)
        state = desired(Address.parse(self.address), access=access)
        step = Certificates(state, self.host)
        if options:
            given = Options(**options)
            step._given = Certificates.given(given)
        return step

    def make(self, access: Access | None = None, **options: Any) -> list[str]:
        """Do what is missing; the names of what changed."""
        step = self.step(access, **options)
        assert step.problems() == []
        changes = step.look()
        step.apply(changes)
        assert step.look() == []
        return [f"{change.action} {Path(change.name).name}" for change in changes]

    def put(self, name: str, days: float, key: int | None = None) -> None:
        """Write a certificate of the CA that ends so soon."""
        signer = Signer("offline-bundle registry", read_key(self.files.authority_key.read_bytes()))
        validity = Validity(0, time.time() + days * DAY)
        own = read_key(self.files.key.read_bytes()) if key is None else key
        text = {
            "ca.pem": lambda: make_authority(signer, validity),
            "server.pem": lambda: (
                make_server(["192.168.10.10", "localhost", "127.0.0.1", "::1"], own, signer, validity)
                + self.files.authority.read_text()
            ),
        }[name]()
        (self.places.registry / name).write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


ALL = ["ca.key", "ca.pem", "server.key", "server.pem", "password", "htpasswd"]


def test_everything_is_made_once_and_secrets_are_their_owners(place: Place) -> None:
    assert place.make() == [f"write {name}" for name in ALL]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.files}
    assert modes == {name: 0o644 if name.endswith(".pem") else 0o600 for name in ALL}
    assert stat.S_IMODE(place.places.registry.stat().st_mode) == 0o700
    before = {path: path.read_bytes() for path in place.files}
    assert place.make() == []
    assert {path: path.read_bytes() for path in place.files} == before
    password = place.files.password.read_text().strip()
    assert len(base64.urlsafe_b64decode(password + "==")) == 16
    assert password not in place.files.hashes.read_text()
    assert place.files.hashes.read_text().startswith("bundle:$2b$04$")
    shown = read_certificates(place.files.chain.read_bytes())
    assert shown[1:] == read_certificates(place.files.authority.read_bytes())


def test_an_ipv6_address_may_be_written_in_any_way(tmp_path: Path) -> None:
    place = Place(tmp_path, "[fd00:0:0::1]:5000")
    place.make()
    assert read_certificates(place.files.chain.read_bytes())[0].names[0] == "fd00::1"


def test_two_hosts_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = Place(tmp_path / "one"), Place(tmp_path / "other")
    one.make(), other.make()
    assert not {path.read_bytes() for path in one.files} & {path.read_bytes() for path in other.files}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("ca.key", ["write ca.key", "rewrite ca.pem", "rewrite server.pem"]),
        ("ca.pem", ["write ca.pem", "rewrite server.pem"]),
        ("server.key", ["write server.key", "rewrite server.pem"]),
        ("server.pem", ["write server.pem"]),
        ("password", ["write password", "rewrite htpasswd"]),
        ("htpasswd", ["write htpasswd"]),
    ],
)
def test_what_is_lost_is_made_again_and_what_hangs_on_it(place: Place, name: str, made: list[str]) -> None:
    place.make()
    (place.places.registry / name).unlink()
    assert place.make() == made


@pytest.mark.parametrize("name", ALL)
def test_what_was_damaged_is_made_again(place: Place, name: str) -> None:
    place.make()
    (place.places.registry / name).write_text("two words\n")
    assert f"rewrite {name}" in place.make()


def test_a_certificate_that_ends_soon_is_renewed_and_its_ca_stays(place: Place) -> None:
    place.make()
    authority, key = place.files.authority.read_bytes(), place.files.key.read_bytes()
    place.put("server.pem", 29)
    (change,) = place.step().look()
    assert place.step().explain(change).startswith(f"`{place.files.chain}` ends on 2")
    place.put("server.pem", 31)
    assert place.step().look() == []
    place.put("server.pem", -1)
    assert place.make() == ["rewrite server.pem"]
    assert (place.files.authority.read_bytes(), place.files.key.read_bytes()) == (authority, key)
    assert read_certificates(place.files.chain.read_bytes())[0].end > time.time() + 700 * DAY


def test_a_ca_that_ends_soon_is_renewed_and_it_is_said_whom_that_concerns(place: Place) -> None:
    place.make()
    place.put("ca.pem", 10)
    changes = place.step().look()
    assert "other hosts have to join again" in place.step().explain(changes[0])
    assert place.make() == ["rewrite ca.pem", "rewrite server.pem"]


def test_another_address_gets_another_certificate_of_the_same_ca(place: Place) -> None:
    place.make()
    place.address = "registry.corp:5000"
    (change,) = place.step().look()
    assert change.detail == "is not for registry.corp"
    assert place.make() == ["rewrite server.pem"]


def test_a_certificate_of_another_key_is_made_anew(place: Place) -> None:
    place.make()
    place.put("server.pem", 300, key=p256.new_key())
    assert place.make() == ["rewrite server.pem"]


def test_users_that_were_added_by_hand_stay(place: Place) -> None:
    place.make()
    with place.files.hashes.open("a") as file:
        file.write("ann:$2b$05$abcdefghijklmnopqrstuuKFVXWW6Gf.T5BIoxnRfvbeeZafk7j/y\n")
    assert place.make() == []
    place.files.password.unlink()
    place.make()
    assert [line.partition(":")[0] for line in place.files.hashes.read_text().splitlines()] == ["bundle", "ann"]


def test_without_a_login_there_is_no_password_and_with_plain_http_nothing(place: Place) -> None:
    place.make()
    assert place.make(own_access(place.places)) == ["remove password", "remove htpasswd"]
    assert place.make(PLAIN) == [f"remove {name}" for name in ALL[:4]]
    assert place.step(PLAIN).if_of_use() == []


def test_what_is_given_is_copied_and_stays(place: Place, tmp_path: Path) -> None:
    place.address = "127.0.0.1:5000"
    made = Certificate.make(tmp_path)
    access = own_access(place.places)
    given = {"certificate": made.file, "key": made.key, "ca_file": made.file}
    assert sorted(place.make(access, **given)) == ["write ca.pem", "write server.key", "write server.pem"]
    assert place.files.key.read_bytes() == made.key.read_bytes()
    assert stat.S_IMODE(place.files.key.stat().st_mode) == 0o600
    # Without the options it is what it was, and its end is a person's concern.
    assert place.make(access) == []
    assert "ends on" in str(place.step(access).ends_soon())
    place.files.key.unlink()
    (problem,) = place.step(access).problems()
    assert "server.key`, a copy of what was given" in problem.message
    assert problem.hint == "python3 ARCHIVE install --cert FILE --key FILE --ca FILE"
    (problem,) = place.step(own_access(place.places, authority=False)).problems()
    assert problem.hint == "python3 ARCHIVE install --cert FILE --key FILE"


def test_what_is_given_and_wrong_is_a_problem_before_anything_is_done(place: Place, tmp_path: Path) -> None:
    made = Certificate.make(tmp_path)
    access = own_access(place.places)
    (problem,) = place.step(access, certificate=made.file, key=made.key, ca_file=made.file).problems()
    assert problem.subject == f"--cert {made.file}"
    assert "ip address mismatch" in problem.message
    (problem,) = place.step(access, certificate=made.file, key=tmp_path / "none", ca_file=made.file).problems()
    assert problem.message == f"`{tmp_path / 'none'}` does not exist"


def test_the_ca_is_shown_behind_what_was_given(place: Place, tmp_path: Path) -> None:
    signer, key = Signer("the site's CA", p256.new_key()), p256.new_key()
    validity = Validity(0, time.time() + 400 * DAY)
    texts = {
        "ca": make_authority(signer, validity),
        "cert": make_server(["192.168.10.10"], key, signer, validity),
        "key": key_pem(key),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    given = {"certificate": tmp_path / "cert", "key": tmp_path / "key", "ca_file": tmp_path / "ca"}
    place.make(own_access(place.places), **given)
    assert place.files.chain.read_text() == texts["cert"] + texts["ca"]


def test_a_lost_receipt_leaves_no_keys_behind(place: Place) -> None:
    place.make()
    state = place.step()._job
    step = RemoveCertificates(Receipt(BundleName("x", "sha256:1", "/x.tar"), state), place.host)
    changes = step.look()
    assert [Path(change.name).name for change in changes] == ALL
    step.apply(changes)
    assert list(place.places.registry.iterdir()) == []
