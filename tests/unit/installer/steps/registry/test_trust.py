"""The CA in Docker's certs.d: written with consent, given as commands, taken away again."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from bundles.oci.platform import Platform
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.installed import own_access
from installer.steps.registry import trust
from installer.steps.registry.trust import Trust
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import Certificate
from tests.support.states import desired

LAN = "192.168.10.10:5000"
AMD64 = Platform("linux", "amd64")
CA = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


class Place:
    """A host whose /etc/docker is below a directory, and whose CA is made."""

    def __init__(self, root: Path, engine: FakeEngine) -> None:
        self.etc = root / "etc/docker"
        self.etc.mkdir(parents=True)
        self.places = Places(
            root / "docker", root / "buildx", root / "state", proc=root / "proc", certs_d=self.etc / "certs.d"
        )
        self.host = Host(engine.engine, None, self.places)  # type: ignore[arg-type]
        self.file = self.etc / "certs.d" / LAN / "ca.crt"
        self.make(CA)

    def make(self, content: bytes) -> None:
        self.places.registry.mkdir(parents=True, exist_ok=True)
        self.places.authority.write_bytes(content)

    def step(self, access: Access | None = None, address: str = LAN, *, drops: bool = False) -> Trust:
        access = own_access(self.places) if access is None else access
        state = desired(Address.parse(address), access=access)
        return Trust(state, self.host, drops=drops)

    def joined(self, given: bytes | None) -> Trust:
        """The same for a registry that another host has."""
        site = Destination(LAN, joined=True)
        access = Access(tls=True, authority=str(self.places.site_authority))
        state = desired(Address.parse(LAN), data="", site=site, access=access)
        return Trust(state, self.host, given=given)


@pytest.fixture
def place(tmp_path: Path, engine: FakeEngine) -> Place:
    return Place(tmp_path, engine)


def test_it_is_written_with_consent_and_others_may_read_it(place: Place) -> None:
    step = place.step()
    assert step.problems() == []
    assert step.question() == (f"have Docker trust the CA of the registry {LAN}, and no other host: write {place.file}")
    step.apply(step.look())
    assert place.file.read_bytes().endswith(CA)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (place.file, *place.file.parents[:2])] == [
        0o644,
        0o755,
        0o755,
    ]
    assert (step.look(), step.question()) == ([], None)
    place.make(CA * 2)
    assert step.question() is None
    (change,) = step.look()
    assert change.action == "rewrite"
    assert step.explain(change) == f"`{place.file}` is not the registry's CA: Docker does not trust the registry"


@pytest.mark.parametrize("address", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_on_a_loopback_address_docker_checks_nothing(place: Place, address: str) -> None:
    step = place.step(address=address)
    assert (step.problems(), step.question(), step.look()) == ([], None, [])


def test_where_the_system_trusts_the_ca_nothing_is_needed(place: Place) -> None:
    step = place.step(Access(tls=True))
    assert (step.problems(), step.question(), step.look()) == ([], None, [])


def test_another_ca_is_not_written_over(place: Place) -> None:
    place.file.parent.mkdir(parents=True)
    place.file.write_text("another")
    (problem,) = place.step().problems()
    assert problem.hint == f"sudo mv {place.file} {place.file}.old, then run this again"


def test_root_gets_the_commands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "is_writable", lambda _: False)
    (problem,) = place.step().problems()
    command = str(problem.hint)
    subprocess.run(["sh", "-c", command.replace("sudo ", "")], check=True, capture_output=True)
    assert place.step().look() == []
    # Before the CA is made there can only be a place for it, which this user may then write to.
    place.file.unlink()
    place.places.authority.unlink()
    (problem,) = place.step().problems()
    made, _, _ = str(problem.hint).partition(", then")
    assert shlex.split(made) == ["sudo", "install", "-d", "-o", "$USER", str(place.file.parent)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_roots_is_a_problem(place: Place) -> None:
    place.etc.chmod(0o555)
    (problem,) = place.step().problems()
    assert "cannot be written to" in problem.message


def test_with_plain_http_again_it_goes_where_an_earlier_run_wrote_it(place: Place) -> None:
    step = place.step()
    step.apply(step.look())
    assert place.step(PLAIN).look() == []
    step = place.step(PLAIN, drops=True)
    assert "no longer trust" in str(step.question())
    step.apply(step.look())
    assert not place.file.exists()
    assert step.look() == []
    place.file.write_text("somebody else's")
    assert step.look() == []


def test_an_engine_in_a_container_looks_elsewhere(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = place.places.proc / str(os.getpid())
    process.mkdir(parents=True)
    (process / "comm").write_text("dockerd\n")
    (process / "root").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (problem,) = place.step().problems()
    assert f"process {os.getpid()}, has another directory there" in problem.message


def test_a_ca_that_was_given_is_known_before_its_file_is_written(place: Place) -> None:
    step = place.joined(CA)
    step.apply(step.look())
    assert place.file.read_bytes().endswith(CA)
    assert place.joined(CA).look() == []
    assert [change.action for change in place.joined(CA.replace(b"AAAA", b"BBBB")).look()] == ["rewrite"]


def test_root_gets_no_command_that_needs_a_ca_that_is_not_kept_yet(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that would have Docker trust the CA of before."""
    monkeypatch.setattr(trust, "is_writable", lambda _: False)
    for kept in (None, CA.replace(b"AAAA", b"BBBB")):
        if kept:
            place.places.site_authority.write_bytes(kept)
        (problem,) = place.joined(CA).problems()
        assert str(problem.hint).startswith('sudo install -d -o "$USER" ')
    place.places.site_authority.write_bytes(CA)
    (problem,) = place.joined(CA).problems()
    subprocess.run(["sh", "-c", str(problem.hint).replace("sudo ", "")], check=True, capture_output=True)
    assert place.joined(CA).look() == []


def test_a_ca_that_somebody_else_has_docker_trust_is_left_to_them(place: Place, certificate: Certificate) -> None:
    ca = certificate.file.read_bytes()
    place.file.parent.mkdir(parents=True)
    place.file.with_name("corp.crt").write_bytes(b"# the site's\n" + ca)
    step = place.joined(ca)
    assert (step.look(), step.problems(), step.question()) == ([], [], None)
    place.file.with_name("corp.crt").write_bytes(CA)
    assert [change.action for change in place.joined(ca).look()] == ["write"]
