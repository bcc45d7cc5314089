"""A builder with other machines: three hosts on cables, two of them with Docker and an ssh server.

All are amd64. The tests go on from each other, in their order.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import LAN, STATE

pytestmark = pytest.mark.e2e

NODE, OTHER = "ssh://root@192.168.10.20", "ssh://root@192.168.10.21"
NAME = "cross-builder-root-airgap-1"
CONTAINER = f"buildx_buildkit_{NAME}"
CA = "/root/.local/state/bundle/registry/ca.pem"
BOTH = "linux/amd64,linux/arm64"
DOCKERFILE = "FROM busybox:1.35\nARG N\nRUN uname -m && echo $N\n"


@dataclasses.dataclass
class Site:
    """The host with the registry and the builder, and the machine that becomes its node."""

    host: Any
    machine: Any
    other: Any
    sshd: Any
    before: list[str]

    def bundle(self, *arguments: str, code: int = 0) -> Any:
        """The JSON document of a command, run from the archive; its exit code has to be `code`."""
        done = self.host.run("python3", "/usb/offline.tar", *arguments, "--json", check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def problems(self, *arguments: str) -> dict[str, str]:
        """What keeps a command from beginning: subject and message, with the next step behind it."""
        found = self.bundle(*arguments, code=4)["error"]["problems"]
        return {problem["subject"]: f"{problem['message']} -> {problem['hint']}" for problem in found}

    def node_of(self, platform: str) -> str:
        """Build for one platform, and return the name of the node that did it."""
        done = self.build(platform)
        assert done.returncode == 0, done.stderr
        reference = json.loads(self.host.path("/tmp/metadata").read_text())["buildx.build.ref"]
        return str(reference.split("/")[1])

    def build(self, platforms: str, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = ("docker", "buildx", "build", "--platform", platforms, "--metadata-file", "/tmp/metadata")
        number = f"N={time.monotonic_ns()}"
        done: subprocess.CompletedProcess[str] = self.host.run(
            *command, "--build-arg", number, *more, "-", check=False, input=DOCKERFILE, timeout=120, **options
        )
        return done

    def state(self) -> list[str]:
        """What is on the machines that become nodes."""
        return [line for each in (self.machine, self.other) for line in each.run("sh", "-c", STATE).stdout.splitlines()]

    def connect(self) -> None:
        """Start the ssh server again."""
        from tests.testbed.ssh import start_sshd

        self.sshd = start_sshd(self.machine)
        while self.host.run("ssh", "root@192.168.10.20", "true", check=False).returncode:
            time.sleep(0.1)

    def disconnect(self) -> None:
        self.sshd.terminate()
        self.sshd.wait(10)


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with offline.tar, made by `bundle create` from the origin."""
    from tests.testbed import ORIGIN, start_origin

    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    command = ["create", "busybox:1.35", "--mirror", f"docker.io={ORIGIN}", "-o", str(directory / "offline.tar")]
    subprocess.run([sys.executable, "-c", "from bundles.cli.app import main; main()", *command], check=True)
    return directory


@pytest.fixture(scope="module")
def site(usb: Path) -> Iterator[Site]:
    """Hosts whose root may go from the first to the others, as soon as the first knows the others' keys."""
    from tests.testbed import Host, binfmt_clear, binfmt_restore, binfmt_state
    from tests.testbed.ssh import install_ssh, let_in

    emulators = binfmt_state()
    binfmt_clear("arm64")
    try:
        with (
            Host(engine=False) as host,
            Host(name="machine", address="192.168.10.20", engine=False) as machine,
            Host(name="other", address="192.168.10.21", engine=False) as other,
        ):
            host.connect(machine, other)
            for each in (host, machine, other):
                each.mount_in(usb, "/usb", readonly=True)
                each.start_docker()
                install_ssh(each)
            others = let_in(host, other)
            found = Site(host, machine, other, let_in(host, machine), [])
            found.before = found.state()
            yield found
            found.disconnect()
            others.terminate()
            others.wait(10)
    finally:
        binfmt_restore(emulators)


def test_every_problem_of_every_node_is_in_one_report(site: Site) -> None:
    from tests.testbed.ssh import trust

    host, before = site.host, site.state()
    loopback = site.problems("install", "--node", NODE)
    assert loopback["--node"].startswith("no other machine reaches the registry at localhost:5000")
    lan = ("install", "--registry", LAN, "--yes", "--node", NODE, "--node", "ssh://root@192.168.10.77")
    unknown = site.problems(*lan)
    key = site.machine.run("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[1]
    assert "its host key is not known here" in unknown[f"node {NODE}"] and key in unknown[f"node {NODE}"]
    assert "ssh root@192.168.10.20" in unknown[f"node {NODE}"]
    assert "ssh does not get there" in unknown["node ssh://root@192.168.10.77"]
    # Nobody has agreed to anything meanwhile.
    assert not host.path("/root/.ssh/known_hosts").exists()
    trust(host, site.machine, site.other)
    other = site.problems(*lan[:-1], "ssh://nobody@192.168.10.20")
    assert list(other) == ["node ssh://nobody@192.168.10.20"]
    assert "it does not let in" in other["node ssh://nobody@192.168.10.20"]
    twice = site.problems(*lan[:-1], "ssh://root@192.168.10.20:22")
    assert "it is the same machine as ssh://root@192.168.10.20" in twice["node ssh://root@192.168.10.20:22"]
    assert host.run("docker", "ps", "-aq").stdout == ""
    assert site.state() == before


def test_the_node_builds_for_what_it_runs_and_this_host_emulates_the_rest(site: Site) -> None:
    receipt = site.bundle("install", "--registry", LAN, "--tls", "--login", "--yes", "--node", NODE)
    (node,) = receipt["builder"]["nodes"]
    assert (node["address"], node["name"], node["platform"]) == (NODE, NAME, "linux/amd64")
    assert f"built for linux/amd64: {NODE}" in receipt["notes"]
    assert "built for linux/arm64: this host" in receipt["notes"]
    assert site.machine.run("docker", "ps", "--format", "{{.Names}}").stdout.split() == [CONTAINER]
    assert [site.node_of(each) for each in BOTH.split(",")] == [NAME, "cross-builder0"]
    # buildx itself knows of no CA but the system's.
    assert any(f"SSL_CERT_FILE={CA} docker buildx build" in note for note in receipt["notes"])
    trusting = {"SSL_CERT_FILE": CA}
    done = site.build(BOTH, "-t", f"{LAN}/both:1", "--push", env=trusting)
    assert done.returncode == 0, done.stderr
    index = site.host.run("docker", "buildx", "imagetools", "inspect", f"{LAN}/both:1", env=trusting).stdout
    assert "linux/amd64" in index and "linux/arm64" in index


def test_again_and_upgrading_change_nothing(site: Site) -> None:
    for arguments in (("install", "--node", NODE), ("upgrade",)):
        receipt = site.bundle(*arguments)
        assert [change for step in receipt["steps"] for change in step["changes"]] == [], arguments
    status = site.bundle("status")
    assert status["healthy"] is True
    (node,) = status["builder"]["nodes"]
    assert (node["answers"], node["state"], node["platforms"]) == (True, "running", ["linux/amd64"])


def test_a_build_says_that_its_node_is_down(site: Site) -> None:
    site.disconnect()
    done = site.build("linux/amd64")
    assert done.returncode != 0 and "192.168.10.20" in done.stderr
    assert site.node_of("linux/arm64") == "cross-builder0"
    (finding,) = site.bundle("doctor", code=4)["findings"]
    assert finding["check"] == "nodes" and finding["fixable"] is False
    assert finding["message"].startswith(f"{NODE} does not answer: ssh does not get there")
    assert f"node remove {NODE}" in finding["hint"]
    assert site.bundle("node", "list", code=4)["nodes"][0]["answers"] is False
    assert f"node {NODE}" in site.problems("install")
    site.connect()


def test_the_doctor_brings_a_node_back(site: Site) -> None:
    machine = site.machine
    for damage in (
        ("docker", "stop", CONTAINER),
        ("sh", "-c", f"docker rm -f {CONTAINER} && docker rmi $(docker images -q)"),
    ):
        machine.run(*damage)
        findings = site.bundle("doctor", code=4)["findings"]
        assert {finding["check"] for finding in findings} == {"nodes"}
        assert site.bundle("doctor", "--fix")["healthy"] is True
        assert site.node_of("linux/amd64") == NAME


def test_a_node_is_given_up_and_added_again(site: Site) -> None:
    site.disconnect()
    document = site.bundle("node", "remove", NODE)
    (note,) = [note for note in document["notes"] if NODE in note]
    assert f"docker rm -f {CONTAINER}" in note
    assert [site.node_of(each) for each in BOTH.split(",")] == ["cross-builder0", "cross-builder0"]
    assert site.bundle("node", "list")["nodes"] == []
    site.connect()
    receipt = site.bundle("node", "add", NODE)
    assert f"built for linux/amd64: {NODE}" in receipt["notes"]
    assert site.node_of("linux/amd64") == NAME
    assert site.bundle("status")["healthy"] is True


def test_a_second_node_of_a_platform_is_tried_and_takes_its_builds(site: Site) -> None:
    receipt = site.bundle("node", "add", OTHER)
    built = {f"built for linux/amd64: {OTHER}", f"built for linux/amd64, to try it: {NODE}"}
    assert built < set(receipt["notes"])
    assert site.node_of("linux/amd64") == NAME.replace("-1", "-2")
    assert [node["platforms"] for node in site.bundle("node", "list")["nodes"]] == [[], ["linux/amd64"]]
    # A node that nobody builds on has to be ready all the same.
    site.machine.run("docker", "rm", "-f", CONTAINER)
    assert [finding["check"] for finding in site.bundle("doctor", code=4)["findings"]] == ["nodes"]
    assert site.bundle("doctor", "--fix")["healthy"] is True
    assert site.machine.run("docker", "ps", "--format", "{{.Names}}").stdout.split() == [CONTAINER]
    site.bundle("node", "remove", OTHER)
    assert site.node_of("linux/amd64") == NAME


def test_uninstalling_leaves_the_machine_as_it_was(site: Site) -> None:
    plan = site.bundle("uninstall", "--plan")
    assert [step["changes"] for step in plan["steps"] if step["step"] == "nodes"] != [[]]
    site.bundle("uninstall", "--data", "--yes")
    assert site.state() == site.before
    assert site.host.run("docker", "ps", "-aq").stdout == ""
