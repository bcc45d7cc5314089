"""Whoever reaches the registry may push there: what of that is ever started on the host, and what becomes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.variants import make_variant
from tests.support.hosts import LAN, LOCAL, PULL
from tests.testbed import ORIGIN, Host, binfmt_clear, start_origin
from tests.testbed.cache import lock

pytestmark = pytest.mark.e2e

CONTAINERD = {"features": {"containerd-snapshotter": True}}
CLASSIC = {"features": {"containerd-snapshotter": False}}
BUILDER, EMULATION = "buildx_buildkit_cross-builder0", "bundle-binfmt"
DOCKERFILE = "FROM busybox:1.35\nRUN uname -m\n"
# Give a manifest one more tag, byte for byte; prints its digest.
RETAG = """
import sys, urllib.request
accept = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
          "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"]
url, old, new = sys.argv[1:]
answer = urllib.request.urlopen(urllib.request.Request(f"{url}/{old}", headers={"Accept": ", ".join(accept)}))
kind, data = answer.headers["Content-Type"], answer.read()
request = urllib.request.Request(f"{url}/{new}", data=data, headers={"Content-Type": kind}, method="PUT")
print(urllib.request.urlopen(request).headers["Docker-Content-Digest"])
"""
SQUAT = """
import socket
server = socket.create_server(("::1", 5000), family=socket.AF_INET6)
print("up", flush=True)
server.accept()
"""


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Iterator[None]:
    """The kernel's table of emulators is the machine's: meanwhile nobody else clears it."""
    with lock("binfmt"):
        yield


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.tar and two.tar, versions of the bundle `tools`, and other.tar, the bundle `other`."""
    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    make_variant(ORIGIN, "library/busybox", "1.35", "trust-one", "one")
    make_variant(ORIGIN, "library/busybox", "1.35", "trust-two", "two")
    images = {
        "one": ("tools", "busybox:1.35", "busybox:trust-one"),
        "two": ("tools", "busybox:1.35"),
        "other": ("other", "busybox:1.35", "busybox:trust-two"),
    }
    for archive, (name, *listed) in images.items():
        lines = (f'name = "{name}"', 'platforms = ["linux/amd64", "linux/arm64"]', f"images = {json.dumps(listed)}")
        (directory / f"{archive}.toml").write_text("\n".join(lines) + "\n")
        command = ["create", "-f", str(directory / f"{archive}.toml"), "--mirror", f"docker.io={ORIGIN}", "-q"]
        main = "from bundles.cli.app import main; main()"
        subprocess.run([sys.executable, "-c", main, *command, "-o", str(directory / f"{archive}.tar")], check=True)
    return directory


@dataclasses.dataclass
class Site:
    """A host, the address of its registry, and what is done there."""

    host: Host
    address: str

    def bundle(self, *arguments: str, archive: str = "one", code: int = 0) -> Any:
        done = self.host.run("python3", f"/usb/{archive}.tar", *arguments, "--json", check=False, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str, **options: Any) -> str:
        return self.host.run(*argv, **options).stdout.strip()

    def push_over(self, repository: str, tag: str) -> str:
        """Push another image over a tag, from elsewhere as it were: Docker's own tags here stay. Gives its digest."""
        name = f"{self.address}/{repository}:theirs"
        self.out("docker", "tag", "theirs", name)
        self.out("docker", "push", "-q", name)
        self.out("docker", "rmi", name)
        return self.out("python3", "-c", RETAG, f"http://{self.address}/v2/{repository}/manifests", "theirs", tag)

    def image_of(self, container: str) -> str:
        return self.out("docker", "inspect", "-f", "{{.Image}}", container)

    def pulled(self, *names: str) -> list[str]:
        """The platforms of each name that can be fetched whole, or an HTTP status."""
        return [line.split()[1] for line in self.out("python3", "-c", PULL, self.address, *names).splitlines()]

    def started(self) -> str:
        """Every container that was started since Docker was, with its labels, those of its image among them."""
        now = self.out("date", "+%s")
        events = ("--since", "0", "--until", now, "--filter", "type=container", "--filter", "event=start")
        return self.out("docker", "events", *events)

    @contextlib.contextmanager
    def squatter(self) -> Iterator[None]:
        """Have the user eve listen on ::1."""
        with self.host.popen("python3", "-c", SQUAT, user="eve", stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield
            process.terminate()

    def build(self) -> None:
        platforms = ("--platform", "linux/amd64,linux/arm64")
        self.out("docker", "buildx", "build", *platforms, "--no-cache", "--pull", "-", input=DOCKERFILE)


def site_with(usb: Path, suite: str, name: str, config: Any, address: str) -> Iterator[Site]:
    binfmt_clear("arm64")
    with Host(suite=suite, name=name, daemon_config=config) as host:
        host.mount_in(usb, "/usb", readonly=True)
        # Whatever it is started with, it says whose it is; its label is in the event of its start.
        host.run("sh", "-c", "tar -c -C / bin/true etc/hostname | docker import -c 'LABEL theirs=1' "
                 "-c 'ENTRYPOINT [\"/bin/true\"]' - theirs")  # fmt: skip
        yield Site(host, address)


@pytest.mark.parametrize(
    ("suite", "config", "address"),
    [
        ("bookworm", None, LOCAL),
        ("bookworm", None, LAN),
        ("trixie", None, LAN),
        ("sid", None, LOCAL),
        ("sid", CONTAINERD, LOCAL),
        ("sid", CONTAINERD, LAN),
        ("docker29", None, LOCAL),
        ("docker29", CLASSIC, LAN),
    ],
    ids=[
        *("20.10", "20.10-lan", "26.1-lan", "28.5", "28.5-containerd", "28.5-containerd-lan"),
        *("29-containerd", "29-classic-lan"),
    ],
)
def test_what_others_push_over_the_tools_is_never_started(usb: Path, suite: str, config: Any, address: str) -> None:
    for site in site_with(usb, suite, f"trust-{suite}", config, address):
        site.bundle("install", *(() if address == LOCAL else ("--registry", LAN, "--yes")))
        installed = {name: site.image_of(name) for name in (BUILDER, EMULATION, "registry")}
        listed = json.loads(site.host.path("/root/.local/state/bundle/receipt.json").read_text())["images"]
        digests = {image["reference"]: image["digest"] for image in listed}
        pushed = {
            "moby/buildkit:buildx-stable-1": site.push_over("moby/buildkit", "buildx-stable-1"),
            "tonistiigi/binfmt:latest": site.push_over("tonistiigi/binfmt", "latest"),
        }

        # The doctor names both digests of each, and does nothing, even where something else is to be fixed.
        site.out("docker", "rm", "-f", BUILDER, EMULATION)
        binfmt_clear("arm64")
        for command in (("doctor",), ("doctor", "--fix")):
            document = site.bundle(*command, code=4)
            found = [finding["message"] for finding in document["findings"] if finding["check"] == "tools"]
            assert found == [
                f"{address}/{name} is another image on the registry: it is {digest}, and was "
                f"{digests['docker.io/' + name]}"
                for name, digest in sorted(pushed.items(), key=lambda item: list(digests).index("docker.io/" + item[0]))
            ]
            assert document["steps"] == []
        assert len(document["left"]) > 2
        assert site.out("docker", "ps", "-a", "--format", "{{.Names}}") == "registry"

        # A build makes the builder's container anew, of what was installed; without the registry, too.
        site.build()
        assert site.image_of(BUILDER) == installed[BUILDER]
        site.out("docker", "rm", "-f", BUILDER)
        site.out("docker", "stop", "registry")
        site.out("docker", "buildx", "inspect", "--bootstrap")
        assert site.image_of(BUILDER) == installed[BUILDER]
        site.out("docker", "start", "registry")

        # To move the tags back is a change of what others pushed, and needs consent; then all is well again.
        refused = site.bundle("upgrade", code=4)["error"]["problems"]
        assert [problem["subject"] for problem in refused] == ["consent"]
        for name, digest in pushed.items():
            assert f"{name} ({digest} -> {digests['docker.io/' + name]})" in refused[0]["message"]
        assert site.bundle("doctor", code=4)["healthy"] is False
        replaced = site.bundle("upgrade", "--yes")["replaced"]
        assert {f"{entry['repository']}:{entry['tag']}": entry["digest"] for entry in replaced} == pushed
        assert site.bundle("doctor")["findings"] == []

        # The image for emulation comes from the registry by its digest, whatever has its tag.
        site.out("docker", "rm", "-f", EMULATION)
        binfmt_clear("arm64")
        site.out("docker", "rmi", "-f", installed[EMULATION])
        url = f"http://{address}/v2/tonistiigi/binfmt/manifests/latest"
        delete = f"import urllib.request as u; u.urlopen(u.Request('{url}', method='DELETE'))"
        site.out("python3", "-c", delete)
        fixed = site.bundle("doctor", "--fix", code=4)
        assert [finding["check"] for finding in fixed["left"]] == ["images"]
        assert site.image_of(EMULATION) == installed[EMULATION]
        # One that took its name in Docker is not started either.
        site.out("docker", "rm", "-f", EMULATION)
        binfmt_clear("arm64")
        site.out("docker", "tag", "theirs", f"{address}/tonistiigi/binfmt:latest")
        (finding, *_) = [each for each in site.bundle("doctor", "--fix", code=4)["left"] if each["check"] == "tools"]
        assert "is another image in Docker" in finding["message"]
        site.bundle("upgrade", "--yes")
        assert site.image_of(EMULATION) == installed[EMULATION]
        assert {name: site.image_of(name) for name in installed} == installed
        assert site.bundle("doctor")["findings"] == []
        started = site.started()
        assert f"name={BUILDER}" in started
        assert "theirs" not in started

        # Nothing of all this stays but what was there before.
        site.bundle("uninstall", "--data", "--yes")
        images = {line for line in site.out("docker", "images", "-a", "--format", "{{.Repository}}").splitlines()}
        assert images <= {"theirs", "<none>"}
        assert site.out("docker", "images", "-a", "--format", "{{.Repository}}:{{.Tag}}").count(address) == 0


def test_what_others_pushed_outlives_upgrade_and_prune(usb: Path) -> None:
    for site in site_with(usb, "sid", "trust-tags", None, LOCAL):
        site.bundle("install")
        theirs = site.push_over("busybox", "1.35")
        # The plan names what it was and what it becomes, and so does the receipt.
        (change,) = [
            change
            for step in site.bundle("upgrade", "--plan", archive="two")["steps"]
            for change in step["changes"]
            if change["replaces"]
        ]
        assert (change["name"], change["replaces"]) == ("busybox:1.35", theirs)
        assert f"{theirs} -> sha256:" in change["detail"]
        assert "consent" in site.bundle("upgrade", archive="two", code=4)["error"]["problems"][0]["subject"]
        assert site.pulled("busybox:1.35") == ["any"]
        (entry,) = site.bundle("upgrade", "--yes", archive="two")["replaced"]
        assert (entry["repository"], entry["tag"], entry["digest"]) == ("busybox", "1.35", theirs)
        assert site.pulled("busybox:1.35") == ["amd64,arm64"]
        # A tag that we pushed ourselves is moved without a word.
        site.bundle("upgrade", archive="one")
        # Another bundle beside it; then the first has a new version, and only what that one lacks goes.
        site.bundle("install", archive="other")
        site.bundle("install", archive="two")
        plan = site.bundle("prune", "--plan", archive="two")
        deed = site.bundle("prune", archive="two")
        assert [step["changes"] for step in plan["steps"]] == [step["changes"] for step in deed["steps"]]
        assert any("the bundle `other` brought stays" in note for note in deed["notes"])
        assert deed["freed"]
        found = site.pulled("busybox:trust-one", "busybox:trust-two", "busybox:1.35", f"busybox@{theirs}")
        assert found == ["404", "amd64,arm64", "amd64,arm64", "any"]
        assert site.bundle("prune", "--all", archive="two")["freed"]
        found = site.pulled("busybox:trust-two", "busybox:1.35", f"busybox@{theirs}")
        assert found == ["404", "amd64,arm64", "any"]
        # After an uninstallation the registry's data is somebody's: the tags in it are not moved without consent.
        site.push_over("library/busybox", "1.35")
        site.bundle("uninstall", "--yes", archive="two")
        refused = site.bundle("install", archive="two", code=4)["error"]
        assert "not agreed to: move tags" in refused["message"] + str(refused.get("problems"))
        assert site.pulled("library/busybox:1.35") == ["any"]
        site.bundle("install", "--yes", archive="two")
        assert site.pulled("library/busybox:1.35", f"busybox@{theirs}") == ["amd64,arm64", "any"]


def test_nobody_else_listens_at_localhost(usb: Path) -> None:
    for site in site_with(usb, "sid", "trust-loopback", None, LOCAL):
        site.host.add_user("eve")
        with site.squatter():
            (problem,) = site.bundle("install", code=4)["error"]["problems"]
        assert problem["subject"] == f"address {LOCAL}"
        assert "port 5000 of ::1" in problem["message"]
        assert "of the user `eve`" in problem["message"]
        site.bundle("install")
        fetch = "import urllib.request as u; print(u.urlopen('http://[::1]:5000/v2/').status)"
        assert site.out("python3", "-c", fetch) == "200"
        assert site.bundle("install")["changed"] is False
        refused = site.host.run("python3", "-c", SQUAT, user="eve", check=False)
        assert "Address already in use" in refused.stderr


def test_where_docker_cannot_publish_on_both_it_is_said(usb: Path) -> None:
    for site in site_with(usb, "sid", "trust-noproxy", {"userland-proxy": False}, LOCAL):
        site.host.add_user("eve")
        (note,) = [note for note in site.bundle("install")["notes"] if "::1" in note]
        assert "--registry 127.0.0.1:5000" in note
        assert site.bundle("doctor")["findings"] == []
        with site.squatter():
            finding = site.bundle("doctor", code=4)["findings"][0]
        assert (finding["check"], "of the user `eve`" in finding["message"]) == ("registry", True)


def test_a_builder_where_docker_cannot_pull(usb: Path) -> None:
    """Docker asks a proxy that does not know the LAN: the builder is made of the image that was loaded, by its id."""
    proxies = {"http-proxy": "http://127.0.0.1:9", "https-proxy": "http://127.0.0.1:9"}
    for site in site_with(usb, "sid", "trust-proxy", {"proxies": {**proxies, "no-proxy": "192.168.10.10"}}, LAN):
        site.bundle("install", "--registry", LAN, "--yes")
        settings = json.loads(site.host.path("/etc/docker/daemon.json").read_text())
        site.host.path("/etc/docker/daemon.json").write_text(json.dumps({**settings, "proxies": proxies}))
        site.host.stop_docker()
        site.host.start_docker()
        pinned = re.findall(r'image="([^"]*@sha256:[^"]*)"', site.out("docker", "buildx", "inspect", "cross-builder"))
        site.out("docker", "buildx", "rm", "cross-builder")
        site.out("docker", "image", "rm", *pinned)
        # Only a person can have Docker ask the registry itself; the builder is there again all the same.
        left = site.bundle("doctor", "--fix", "--yes", code=4)["left"]
        assert [finding["check"] for finding in left] == ["network"]
        installed = site.image_of(BUILDER)
        assert f'image="{installed}"' in site.out("docker", "buildx", "inspect", "cross-builder")
        site.out("docker", "rm", "-f", BUILDER)
        site.build()
        assert site.image_of(BUILDER) == installed
