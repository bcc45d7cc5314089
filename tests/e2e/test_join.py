"""A second host of a site: its own engine and kernel tables, a cable to the registry's host, and no other way out.

The tests of one site go on from each other, in their order.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_registry import Certificate
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
    plain.second.out("docker", "rmi", f"{LAN}/debian:12")
    plan = plain.second.bundle("uninstall", "--plan")
    deed = plain.second.bundle("uninstall", "--yes")
    assert changes_of(plan) == changes_of(deed)
    after = plain.second.state()
    assert sorted(set(after) - set(plain.before)) == []
    assert sorted(set(plain.before) - set(after)) == []
    assert plain.first.stored() == stored
    assert plain.first.bundle("status")["healthy"] is True


# TLS and a login


PASSWORD_FILE = "/root/.local/state/bundle/registry/password"
# At the registry's address, in its network: takes whatever is sent once TLS has begun. Argument: a certificate and key.
IMPOSTOR = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = socket.create_server(("192.168.10.10", 5000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.settimeout(5)
    try:
        with context.wrap_socket(connection, server_side=True) as secured:
            # With TLS 1.3 the client's refusal comes after the handshake, as the first thing that is read.
            print("received", secured.recv(9999), flush=True)
    except OSError as error:
        print("refused", getattr(error, "reason", error), flush=True)
"""
# Answers the questions of a command as they come. Arguments: what to type, then the command.
TYPE = """
import os, pty, sys
answers, command = sys.argv[1].split(","), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown = b""
while True:
    try:
        data = os.read(terminal, 9999)
    except OSError:
        data = b""
    if not data:
        break
    shown += data
    # The blank comes once a password is not echoed any more.
    if answers and shown.endswith((b"[y/N]: ", b"[bundle]: ", b"Password of bundle: ")):
        os.write(terminal, answers.pop(0).encode() + b"\\n")
        shown += b"\\n"
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@dataclasses.dataclass
class Secured(Site):
    """The same with TLS and a login."""

    fingerprint: str = ""
    password: str = ""


@pytest.fixture(scope="module")
def secured(usb: Path) -> Iterator[Secured]:
    """A registry with a CA of its own and a password."""
    for site in site_of(usb):
        site.first.bundle("install", "--registry", LAN, "--tls", "--login", "--yes")
        ca = site.first.out("cat", "/root/.local/state/bundle/registry/ca.pem")
        found = Secured(site.first, site.second, site.second.state())
        found.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca)).hexdigest()
        found.password = site.first.out("cat", PASSWORD_FILE).strip()
        yield found


@contextlib.contextmanager
def impostor(site: Secured, directory: Path) -> Iterator[Path]:
    """Somebody else at the registry's address; the file says what came."""
    certificate = Certificate.make(directory, "registry.example").issue(directory, "IP:192.168.10.10")
    site.first.out("docker", "stop", "registry")
    log = directory / "received"
    enter = ["nsenter", "--target", str(site.first.host.init_pid), "--net", sys.executable, "-c", IMPOSTOR]
    with (
        log.open("wb") as output,
        subprocess.Popen([*enter, str(certificate.file), str(certificate.key)], stdout=output) as process,
    ):
        try:
            while not log.read_bytes():
                assert process.poll() is None
            yield log
        finally:
            process.kill()
            site.first.out("docker", "start", "registry")


def received(log: Path) -> list[str]:
    """What clients said once TLS had begun. Somebody has to have come."""
    lines = log.read_text().splitlines()
    assert len(lines) > 1, "nobody came"
    return [line for line in lines[1:] if not line.startswith("refused ") and line != "received b''"]


def test_the_ca_has_to_be_known(secured: Secured) -> None:
    document = secured.second.bundle("join", LAN, "--yes", code=4)
    assert secured.fingerprint in document["error"]["message"].replace(":", "").lower()
    assert secured.second.state() == secured.before


def test_somebody_in_between_gets_no_login(secured: Secured, tmp_path: Path) -> None:
    login = ("--username", "bundle", "--password-stdin")
    with impostor(secured, tmp_path) as log:
        known = ("--yes", "--fingerprint", secured.fingerprint)
        document = secured.second.bundle("join", LAN, *known, *login, code=5, stdin=secured.password)
        assert "is not who was expected" in document["error"]["message"]
    assert received(log) == []
    assert secured.second.state() == secured.before


def test_joining_asks_for_the_fingerprint_and_the_password(secured: Secured) -> None:
    answers = f"y,bundle,{secured.password},y"
    command = ("python3", "/usb/offline.tar", "join", LAN)
    done = secured.second.host.run("python3", "-c", TYPE, answers, *command, check=False)
    assert done.returncode == 0, done.stdout
    shown = done.stdout.replace(":", "").lower()
    assert secured.fingerprint in shown and secured.password not in done.stdout
    assert "ready " in done.stdout


def test_the_password_is_where_docker_keeps_it_and_nowhere_else(secured: Secured) -> None:
    config = secured.second.host.path("/root/.docker/config.json")
    assert config.stat().st_mode & 0o777 == 0o600
    encoded = json.loads(config.read_text())["auths"][LAN]["auth"]
    assert base64.b64decode(encoded).decode() == f"bundle:{secured.password}"
    for secret in (secured.password, encoded):
        found = secured.second.host.run("grep", "-rlF", secret, "/root", "/etc", "/tmp", "/var/log", check=False).stdout
        assert found.split() == (["/root/.docker/config.json"] if secret == encoded else [])


def test_both_hosts_build_and_pull_over_tls(secured: Secured) -> None:
    secured.second.build("from-second:1")
    assert secured.first.out("docker", "run", "--rm", f"{LAN}/from-second:1", "cat", "/machine") == "x86_64\n"
    secured.second.out("docker", "pull", "-q", f"{LAN}/debian:12")


def test_joining_again_asks_nothing_and_changes_nothing(secured: Secured) -> None:
    before = secured.second.state()
    receipt = secured.second.bundle("join", LAN)
    assert receipt["changed"] is False and changes_of(receipt) == []
    assert secured.second.bundle("status")["healthy"] is True
    assert secured.second.state() == before


def test_somebody_in_between_gets_nothing_later_either(secured: Secured, tmp_path: Path) -> None:
    with impostor(secured, tmp_path) as log:
        secured.second.bundle("status", code=4)
        document = secured.second.bundle("join", LAN, code=4)
        assert "is not known here" in document["error"]["message"]
        for command in (
            ("docker", "pull", f"{LAN}/busybox:1.35"),
            ("docker", "buildx", "build", "--no-cache", "--pull", *BOTH, "-"),
            ("docker", "login", LAN, "--username", "bundle", "--password", secured.password),
        ):
            done = secured.second.host.run(*command, check=False, input="FROM busybox:1.35\n")
            assert done.returncode != 0
            assert "certificate" in done.stderr, done.stderr
    assert received(log) == []


def test_the_doctor_mends_trust_and_login(secured: Secured) -> None:
    secured.second.out("rm", f"/etc/docker/certs.d/{LAN}/ca.crt")
    findings = secured.second.bundle("doctor", code=4)["findings"]
    assert [finding["check"] for finding in findings] == ["trust"]
    secured.second.bundle("doctor", "--fix", "--yes")
    secured.second.out("docker", "logout", LAN)
    findings = secured.second.bundle("doctor", code=4)["findings"]
    assert findings and all("login" in finding["hint"] or "login" in finding["message"] for finding in findings)
    secured.second.host.run("docker", "login", LAN, "--username", "bundle", "--password-stdin", input=secured.password)
    assert secured.second.bundle("doctor")["findings"] == []


def test_uninstalling_takes_trust_and_login_along(secured: Secured) -> None:
    secured.second.out("docker", "rmi", f"{LAN}/debian:12")
    secured.second.bundle("uninstall", "--yes")
    after = secured.second.state()
    assert sorted(set(after) - set(secured.before)) == []
    assert sorted(set(secured.before) - set(after)) == []
