"""Installing into a registry that the site has: TLS with a CA of its own, logins, a project. Real engines, no route.

The tests of one host go on from each other, in their order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.variants import make_variant, make_wide
from tests.support.fake_registry import Certificate
from tests.support.hosts import STATE
from tests.support.real_registry import PASSWORD, USER, Lan, RealRegistry
from tests.support.token_server import TokenServer
from tests.testbed import ORIGIN, CommandError, Host, binfmt_without, start_origin

pytestmark = pytest.mark.e2e

NAME, IP, PORT, TOKENS_PORT = "registry.example", "192.168.10.10", 5443, 5444
SITE = f"{NAME}:{PORT}"
INTO = f"{SITE}/team"
BOTH = ("--platform", "linux/amd64,linux/arm64")
DOCKERFILE = "FROM debian:12\nRUN uname -m > /machine\n"


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Iterator[None]:
    """The kernel's table of emulators is the machine's: meanwhile nobody else clears it."""
    with binfmt_without("arm64"):
        yield


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old.tar, and new.tar, with a tag that moved, a sparse index, and no busybox:1.35 any more."""
    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    make_wide(ORIGIN, "library/debian", "12", "12-wide")
    for name, images in (
        ("old", ("debian:12", "busybox:1.35", "busybox:moving")),
        ("new", ("debian:12", "debian:12-wide", "busybox:moving")),
    ):
        make_variant(ORIGIN, "library/busybox", "1.35", "moving", name)
        lines = ('name = "tools"', 'platforms = ["linux/amd64", "linux/arm64"]', f"images = {json.dumps(images)}")
        (directory / f"{name}.toml").write_text("\n".join(lines) + "\n")
        command = ["create", "-f", str(directory / f"{name}.toml"), "--mirror", f"docker.io={ORIGIN}", "-q"]
        main = "from bundles.cli.app import main; main()"
        subprocess.run([sys.executable, "-c", main, *command, "-o", str(directory / f"{name}.tar")], check=True)
    return directory


@dataclasses.dataclass
class Air:
    """A host, and what is done on it."""

    host: Host

    def bundle(self, *arguments: str, archive: str = "old", code: int = 0) -> Any:
        """The JSON document of a command, run from an archive; its exit code has to be `code`."""
        done = self.host.run("python3", f"/usb/{archive}.tar", *arguments, "--json", check=False, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str) -> str:
        return self.host.run(*argv).stdout

    def state(self) -> list[str]:
        return self.out("sh", "-c", STATE).splitlines()

    def build(self, *options: str, dockerfile: str = DOCKERFILE) -> str:
        return self.host.run(
            "docker", "buildx", "build", *BOTH, "--progress=plain", *options, "-", input=dockerfile
        ).stderr

    def log_in(self) -> None:
        self.host.run("docker", "login", SITE, "-u", USER, "--password-stdin", input=PASSWORD)


@contextlib.contextmanager
def host_at(usb: Path, directory: Path, name: str, *, tokens: bool = False, **options: Any) -> Iterator[Air]:
    """A host whose LAN has a registry; Docker there trusts its CA, as administrators have it."""
    certificate = Certificate.make(directory, NAME)
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(Host(name=name))
        lan = Lan(host.init_pid, IP, PORT)
        if tokens:
            accounts = {USER: (PASSWORD, {"pull", "push", "delete", "*"})}
            server = TokenServer(directory, certificate, accounts, listener=lan.listen(TOKENS_PORT))
            options["tokens"] = stack.enter_context(server)
        stack.enter_context(RealRegistry("distribution3", directory, tls=certificate, lan=lan, **options))
        host.mount_in(usb, "/usb", readonly=True)
        with host.path("/etc/hosts").open("a") as file:
            file.write(f"{IP} {NAME}\n")
        host.copy_in(certificate.file, f"/etc/docker/certs.d/{SITE}/ca.crt")
        host.copy_in(certificate.file, "/srv/ca.pem")
        yield Air(host)


@pytest.fixture(scope="module")
def plant(usb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Air]:
    with host_at(usb, tmp_path_factory.mktemp("plant"), "plant", login=True) as air:
        yield air


def changes_of(document: Any) -> list[dict[str, Any]]:
    return [change for step in document["steps"] for change in step["changes"]]


def test_without_a_login_nothing_is_done(plant: Air) -> None:
    before = plant.state()
    (problem,) = plant.bundle("install", "--into", INTO, "--ca", "/srv/ca.pem", code=4)["error"]["problems"]
    assert problem["hint"].startswith(f"docker login {SITE}")
    assert plant.state() == before


def test_installed_into_a_project(plant: Air) -> None:
    """The name is in the host's /etc/hosts alone; Docker trusts the CA, and the builder is given it."""
    plant.log_in()
    before = plant.state()
    receipt = plant.bundle("install", "--into", INTO)
    assert (receipt["registry"]["site"]["host"], receipt["registry"]["container"]) == (SITE, None)
    assert receipt["mirrors"] == {"docker.io": INTO}
    new = set(plant.state()) - set(before)
    assert [line for line in new if line.startswith(("container registry", "volume bundle-registry"))] == []
    plant.build("--no-cache", "--pull", "-t", f"{INTO}/app:1", "--push")
    assert changes_of(plant.bundle("install", "--into", INTO, "--ca", "/srv/ca.pem")) == []
    assert changes_of(plant.bundle("install")) == []
    # Docker itself pulls from there, with its own CA and login.
    plant.out("docker", "pull", "-q", f"{INTO}/library/busybox:1.35")
    plant.out("docker", "rmi", f"{INTO}/library/busybox:1.35")


def test_living_with_it(plant: Air) -> None:
    status = plant.bundle("status")
    assert status["healthy"] is True
    wanted = {"host": SITE, "prefix": "team", "flat": False, "aliases": False, "joined": False}
    assert status["registry"]["site"] == wanted
    assert (status["registry"]["container"], status["registry"]["answers"]) == (None, True)
    assert all(image["served"] for image in status["images"])
    plant.host.path("/root/Dockerfile").write_text(DOCKERFILE)
    assert plant.bundle("check", "/root/Dockerfile")["builds"] is True
    plant.host.path("/root/Dockerfile").write_text("FROM debian:13\n")
    (line,) = [line for line in plant.bundle("check", "/root/Dockerfile", code=5)["bundle.toml"] if "images" in line]
    assert "debian:13" in line
    plant.host.path("/root/Dockerfile").unlink()
    assert plant.bundle("want", "-o", "/tmp/want.json")["images"] == len(status["images"]) + 1
    elsewhere = plant.bundle("want", "-o", "/tmp/want.json", "--registry", f"{SITE}/nowhere")
    assert elsewhere["images"] == 0
    plant.out("docker", "rm", "-f", "buildx_buildkit_cross-builder0")
    plant.out("sh", "-c", "echo '[x]' > ~/.docker/buildx/buildkitd.cross-builder.toml")
    findings = {finding["check"] for finding in plant.bundle("doctor", code=4)["findings"]}
    assert findings == {"builder", "configuration"}
    assert plant.bundle("doctor", "--fix")["left"] == []
    plant.build("--no-cache", "--pull")


def test_upgraded_and_pruned(plant: Air) -> None:
    moves = {
        (move["from"] or "").partition("@")[0]: move["to"] for move in plant.bundle("upgrade", archive="new")["moves"]
    }
    assert moves["docker.io/library/busybox:1.35"] is None
    plan = plant.bundle("prune", "--plan", archive="new")
    deed = plant.bundle("prune", archive="new")
    names = [change["name"] for change in changes_of(deed) if change["kind"] == "tag"]
    assert names == ["team/library/busybox:1.35"]
    assert [change["kind"] for change in changes_of(deed) if change["kind"] == "garbage"] == []
    assert [note for note in deed["notes"] if f"{SITE} collects its garbage" in note]
    assert changes_of(plan) == changes_of(deed)
    assert changes_of(plant.bundle("prune", archive="new")) == []
    assert plant.bundle("doctor", archive="new")["findings"] == []
    for base in ("debian:12", "debian:12-wide", "busybox:moving"):
        plant.build("--no-cache", "--pull", dockerfile=f"FROM {base}\nRUN uname -m\n")


def test_uninstalled_the_images_stay(plant: Air, request: pytest.FixtureRequest) -> None:
    plant.bundle("uninstall", "--yes", archive="new")
    assert plant.out("docker", "ps", "-aq") == ""
    assert plant.out("docker", "images", "-q") == ""
    before = plant.state()
    receipt = plant.bundle("install", "--into", INTO, archive="new")
    # Everything was still there.
    (push,) = [step for step in receipt["steps"] if step["step"] == "push"]
    assert push["changes"] == []
    notes = plant.bundle("uninstall", "--yes", "--data", archive="new")["notes"]
    assert notes == []
    assert plant.state() == before


def test_with_data_goes_what_was_brought(usb: Path, plant: Air) -> None:
    before = plant.state()
    plant.bundle("install", "--into", f"{SITE}/other")
    want = plant.bundle("want", "-o", "/tmp/want.json")
    assert want["images"] > 3
    plan = plant.bundle("uninstall", "--data", "--plan")
    deed = plant.bundle("uninstall", "--data", "--yes")
    assert changes_of(plan) == changes_of(deed)
    tags = {change["name"] for change in changes_of(deed) if change["kind"] == "tag"}
    assert "other/library/debian:12" in tags
    left = plant.bundle("want", "-o", "/tmp/want.json", "--registry", f"{SITE}/other")
    assert left["images"] == 0
    # What is elsewhere in the same registry is not touched.
    assert plant.bundle("want", "-o", "/tmp/want.json", "--registry", INTO)["images"] > 3
    plant.out("rm", "/tmp/want.json")
    assert plant.state() == before


def test_from_a_registry_of_ours_to_the_sites_and_back(plant: Air) -> None:
    """What was there stays, with its data; and no tag of one is taken for the other's."""
    before = plant.state()
    plant.bundle("install", "--registry", "localhost:5000")
    receipt = plant.bundle("install", "--into", f"{SITE}/third")
    (note,) = [note for note in receipt["notes"] if "container registry" in note]
    assert "with its images in bundle-registry" in note
    assert [each["registry"] for each in receipt["elsewhere"]] == [""]
    assert plant.out("docker", "inspect", "-f", "{{.State.Status}}", "registry").strip() == "running"
    assert plant.bundle("prune")["steps"][0]["changes"] == []
    plant.build("--no-cache", "--pull")
    receipt = plant.bundle("install", "--registry", "localhost:5000")
    assert [each["registry"] for each in receipt["elsewhere"]] == [SITE]
    (push,) = [step for step in receipt["steps"] if step["step"] == "push"]
    assert push["changes"] == []
    assert plant.bundle("status")["registry"]["site"] is None
    plant.bundle("install", "--into", f"{SITE}/third")
    notes = plant.bundle("uninstall", "--data", "--yes")["notes"]
    assert [note for note in notes if "docker volume rm bundle-registry" in note]
    assert plant.bundle("want", "-o", "/tmp/want.json", "--registry", f"{SITE}/third")["images"] == 0
    plant.out("sh", "-c", "rm /tmp/want.json; docker volume rm bundle-registry")
    assert plant.state() == before


@pytest.fixture(scope="module")
def works(usb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Air]:
    """A registry that wants tokens, of a server with a private CA, and deletes nothing."""
    directory = tmp_path_factory.mktemp("works")
    with host_at(usb, directory, "works", tokens=True, deletes=False) as air:
        yield air


def test_a_token_server_that_the_system_does_not_trust(works: Air) -> None:
    works.log_in()
    # Docker's CA is for the registry alone.
    (problem,) = works.bundle("install", "--into", INTO, code=4)["error"]["problems"]
    assert f"TLS with `{NAME}:{TOKENS_PORT}` failed" in problem["message"]
    (problem,) = works.bundle("install", "--into", INTO, "--ca", "/srv/ca.pem", code=4)["error"]["problems"]
    assert problem["subject"] == f"`{NAME}:{TOKENS_PORT}`, which gives the tokens for `{SITE}`"
    assert "sudo update-ca-certificates" in problem["hint"]
    directory = "/usr/local/share/ca-certificates"
    works.out("sh", "-c", f"mkdir -p {directory} && cp /srv/ca.pem {directory}/{NAME}.crt && update-ca-certificates")
    works.bundle("install", "--into", INTO)
    works.build("--no-cache", "--pull", "-t", f"{INTO}/app:1", "--push")
    assert changes_of(works.bundle("install")) == []
    assert works.bundle("status")["healthy"] is True
    assert works.bundle("want", "-o", "/tmp/want.json")["images"] > 3


def test_a_registry_that_deletes_nothing(works: Air) -> None:
    works.bundle("upgrade", archive="new")
    error = works.bundle("prune", archive="new", code=5)["error"]
    assert f"`{SITE}` does not let images be deleted" in error["message"]
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in error["hint"]
    before = works.state()
    works.bundle("uninstall", "--data", "--yes", archive="new", code=5)
    assert works.state() == before
    works.bundle("uninstall", "--yes", archive="new")
    assert works.out("docker", "ps", "-aq") == ""


def test_what_buildx_does_without_the_systems_trust(works: Air) -> None:
    """Why the certificate of a token server has to be trusted by the system: without that no build gets a token."""
    works.bundle("install", "--into", INTO, archive="new")
    works.out("sh", "-c", f"rm /usr/local/share/ca-certificates/{NAME}.crt && update-ca-certificates --fresh")
    (finding,) = works.bundle("doctor", archive="new", code=4)["findings"]
    assert (finding["check"], "update-ca-certificates" in finding["hint"]) == ("token server", True)
    with pytest.raises(CommandError, match="certificate signed by unknown authority"):
        works.build("--no-cache", "--pull")
    done = works.host.run(
        "docker", "buildx", "build", *BOTH, "--no-cache", "--pull", "-", input=DOCKERFILE,
        env={"SSL_CERT_FILE": "/srv/ca.pem"},
    )  # fmt: skip
    assert done.returncode == 0
