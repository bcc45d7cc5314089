"""A second host of a site: its own engine and kernel tables, a cable to the registry's host, and no other way out.

The tests of one site go on from each other, in their order.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import LAN, STATE

pytestmark = pytest.mark.e2e

BOTH = ("--platform", "linux/amd64,linux/arm64")
DOCKERFILE = "FROM debian:12\nRUN uname -m > /machine\n"


@dataclasses.dataclass
class Machine:
    """One of the two hosts."""

    host: Any

    def bundle(self, *arguments: str, code: int = 0, stdin: str = "") -> Any:
        """The JSON document of a command, run from the archive; its exit code has to be `code`."""
        command = ("python3", "/usb/offline.tar", *arguments, "--json")
        done = self.host.run(*command, check=False, timeout=300, input=stdin)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str) -> str:
        return str(self.host.run(*argv).stdout)

    def state(self) -> list[str]:
        return self.out("sh", "-c", STATE).splitlines()

    def build(self, name: str) -> None:
        """Build for both platforms, and push to the registry."""
        command = ("docker", "buildx", "build", *BOTH, "--progress=plain", "-t", f"{LAN}/{name}", "--push", "-")
        self.host.run(*command, input=DOCKERFILE)

    def stored(self) -> list[str]:
        """Every file of the registry's data."""
        return self.out("find", "/var/lib/docker/volumes/bundle-registry/_data", "-type", "f").splitlines()


@dataclasses.dataclass
class Site:
    """The host with the registry, and another one."""

    first: Machine
    second: Machine
    before: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with offline.tar, made by `bundle create` from the origin."""
    from tests.testbed import ORIGIN, start_origin

    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    command = ["create", "debian:12", "busybox:1.35", "--mirror", f"docker.io={ORIGIN}"]
    command += ["-o", str(directory / "offline.tar")]
    subprocess.run([sys.executable, "-c", "from bundles.cli.app import main; main()", *command], check=True)
    return directory


@pytest.fixture(scope="module", autouse=True)
def without_emulation() -> Iterator[None]:
    """The machine's kernel does not run arm64, until an installer registers it."""
    from tests.testbed import binfmt_clear, binfmt_restore, binfmt_state

    before = binfmt_state()
    binfmt_clear("arm64")
    yield
    binfmt_restore(before)


def site_of(usb: Path) -> Iterator[Site]:
    from tests.testbed import Host

    with Host(engine=False) as first, Host(name="second", address="192.168.10.20", engine=False) as second:
        first.connect(second)
        for host in (first, second):
            host.mount_in(usb, "/usb", readonly=True)
            host.start_docker()
        yield Site(Machine(first), Machine(second))


@pytest.fixture(scope="module")
def plain(usb: Path) -> Iterator[Site]:
    """A registry over plain HTTP, without a login."""
    for site in site_of(usb):
        site.first.bundle("install", "--registry", LAN, "--yes")
        site.before = site.second.state()
        yield site


def changes_of(document: Any) -> list[dict[str, Any]]:
    return [change for step in document["steps"] for change in step["changes"]]


# Plain HTTP


def test_plain_http_needs_consent(plain: Site) -> None:
    (problem,) = plain.second.bundle("join", LAN, code=4)["error"]["problems"]
    assert problem["subject"] == "consent"
    assert "insecure-registries" in problem["message"]
    assert plain.second.state() == plain.before


def test_joining_makes_a_builder_and_pushes_nothing(plain: Site) -> None:
    stored = plain.first.stored()
    receipt = plain.second.bundle("join", LAN, "--yes")
    assert receipt["registry"]["address"] == LAN
    assert receipt["registry"]["site"]["joined"] is True
    assert not [change for change in changes_of(receipt) if change["action"] in ("push", "upload")]
    assert plain.first.stored() == stored
    names = plain.second.out("docker", "ps", "-a", "--format", "{{.Names}}").split()
    assert "registry" not in names and "buildx_buildkit_cross-builder0" in names


def test_the_second_host_builds_for_both_platforms_what_the_first_one_pulls(plain: Site) -> None:
    plain.second.build("from-second:1")
    assert plain.first.out("docker", "run", "--rm", f"{LAN}/from-second:1", "cat", "/machine") == "x86_64\n"
    assert plain.second.out("docker", "run", "--rm", f"{LAN}/debian:12", "cat", "/etc/debian_version").startswith("12")


def test_joining_again_changes_nothing(plain: Site) -> None:
    before = plain.second.state()
    receipt = plain.second.bundle("join", LAN)
    assert receipt["changed"] is False and changes_of(receipt) == []
    assert plain.second.state() == before


def test_an_upgrade_of_the_second_host_pushes_nothing_either(plain: Site) -> None:
    before, stored = plain.second.state(), plain.first.stored()
    receipt = plain.second.bundle("upgrade")
    assert changes_of(receipt) == []
    assert (plain.second.state(), plain.first.stored()) == (before, stored)


def test_the_second_host_knows_how_it_is(plain: Site) -> None:
    status = plain.second.bundle("status")
    assert status["healthy"] is True
    assert all(image["served"] for image in status["images"])
    plain.second.out("docker", "stop", "buildx_buildkit_cross-builder0")
    (finding,) = plain.second.bundle("doctor", code=4)["findings"]
    assert finding["check"] == "builder"
    plain.second.bundle("doctor", "--fix")
    assert plain.second.bundle("status")["healthy"] is True


def test_it_is_said_when_the_registry_is_gone(plain: Site) -> None:
    plain.first.out("docker", "stop", "registry")
    try:
        status = plain.second.bundle("status", code=4)
        assert status["registry"]["answers"] is False
        document = plain.second.bundle("join", LAN, code=5)
        assert f"cannot connect to `{LAN}`" in document["error"]["message"]
    finally:
        plain.first.out("docker", "start", "registry")
    assert plain.second.bundle("status")["healthy"] is True


def test_uninstalling_leaves_the_second_host_as_it_was_and_the_registry_alone(plain: Site) -> None:
    stored = plain.first.stored()
    plain.second.out("sh", "-c", f"docker rmi -f $(docker images -q {LAN}/debian {LAN}/from-second)")
    plan = plain.second.bundle("uninstall", "--plan")
    deed = plain.second.bundle("uninstall", "--yes")
    assert changes_of(plan) == changes_of(deed)
    after = plain.second.state()
    assert sorted(set(after) - set(plain.before)) == []
    assert sorted(set(plain.before) - set(after)) == []
    assert plain.first.stored() == stored
    assert plain.first.bundle("status")["healthy"] is True
