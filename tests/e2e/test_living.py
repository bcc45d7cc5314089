"""Living with an installation: status, doctor, check, upgrade, prune, uninstall, a reboot. Real engines, no route.

The tests of one host go on from each other, in their order: an installation grows old here as it does elsewhere.
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

from tests.support.hosts import LAN, LOCAL, PULL, STATE

pytestmark = pytest.mark.e2e

BOTH = ("--platform", "linux/amd64,linux/arm64")
DOCKERFILE = "FROM debian:12\nRUN uname -m > /machine\n"

# Give a manifest one more tag, byte for byte. (buildx copies every child, and fails where a sparse index lacks one.)
RETAG = """
import sys, urllib.request
index = "application/vnd.oci.image.index.v1+json"
url, old, new = sys.argv[1:]
data = urllib.request.urlopen(urllib.request.Request(f"{url}/{old}", headers={"Accept": index})).read()
request = urllib.request.Request(f"{url}/{new}", data=data, headers={"Content-Type": index}, method="PUT")
assert urllib.request.urlopen(request).status == 201
"""


@dataclasses.dataclass
class Air:
    """A host and what is done on it."""

    host: Any

    def bundle(self, *arguments: str, archive: str = "old", code: int = 0) -> Any:
        """The JSON document of a command, run from an archive; its exit code has to be `code`."""
        done = self.host.run("python3", f"/usb/{archive}.tar", *arguments, "--json", check=False, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str) -> str:
        return str(self.host.run(*argv).stdout)

    def state(self) -> list[str]:
        return self.out("sh", "-c", STATE).splitlines()

    def pulled(self, *names: str, registry: str = LOCAL) -> dict[str, str]:
        """Each name's platforms that can be fetched whole, or an HTTP status."""
        lines = self.out("python3", "-c", PULL, registry, *names).splitlines()
        return {line.split(" ")[0]: line.split(" ")[1] for line in lines}

    def build(self, dockerfile: str, *options: str) -> str:
        done = self.host.run("docker", "buildx", "build", *BOTH, "--progress=plain", *options, "-", input=dockerfile)
        return str(done.stderr)

    def problems(self, code: int = 4) -> dict[str, list[str]]:
        """What the doctor finds: check to messages."""
        found: dict[str, list[str]] = {}
        for finding in self.bundle("doctor", code=code)["findings"]:
            assert finding["hint"]
            found.setdefault(finding["check"], []).append(finding["message"])
        return found

    def forget_emulation(self) -> None:
        """Take arm64 out of the kernel's table, under whatever name."""
        self.out(
            "sh",
            "-c",
            "cd /proc/sys/fs/binfmt_misc; for f in $(grep -l '^magic 7f454c46.*b7' *); do echo -1 > $f; done",
        )

    def patiently_healthy(self) -> None:
        """Containers come back one after the other when Docker starts."""
        for _ in range(60):
            if self.host.run("python3", "/usb/old.tar", "status", check=False).returncode == 0:
                return
            time.sleep(0.5)
        self.bundle("status")


def changes_of(document: Any) -> list[dict[str, Any]]:
    return [change for step in document["steps"] for change in step["changes"]]


def same(plan: Any, deed: Any) -> bool:
    """Whether a plan and a deed name the same changes.

    Another test's host may register emulation between the two: the kernel, and so its table, is one for all of them.
    """
    steps = [{step["step"]: step["changes"] for step in document["steps"]} for document in (plan, deed)]
    emulation = [one.pop("emulation", []) for one in steps]
    return steps[0] == steps[1] and (emulation[0] == emulation[1] or [] in emulation)


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old.tar and new.tar: the new one has another registry, another BuildKit, a tag that moved, a sparse index, and no
    busybox:1.35 any more."""
    from tests.e2e.variants import make_variant, make_wide
    from tests.testbed import ORIGIN, start_origin

    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    make_variant(ORIGIN, "library/registry", "3", "3-next", "next")
    make_variant(ORIGIN, "moby/buildkit", "buildx-stable-1", "buildx-next", "next")
    make_wide(ORIGIN, "library/debian", "12", "12-wide")

    def create(name: str, *lines: str) -> None:
        (directory / f"{name}.toml").write_text("\n".join([f'name = "{name}"', *lines]) + "\n")
        command = ["create", "-f", str(directory / f"{name}.toml"), "--mirror", f"docker.io={ORIGIN}", "-q"]
        main = "from bundles.cli.app import main; main()"
        subprocess.run([sys.executable, "-c", main, *command, "-o", str(directory / f"{name}.tar")], check=True)

    platforms = 'platforms = ["linux/amd64", "linux/arm64"]'
    make_variant(ORIGIN, "library/busybox", "1.35", "moving", "one")
    create("old", platforms, 'images = ["debian:12", "busybox:1.35", "busybox:moving"]')
    make_variant(ORIGIN, "library/busybox", "1.35", "moving", "two")
    create(
        "new",
        platforms,
        'images = ["debian:12", "debian:12-wide", "busybox:moving"]',
        "[toolchain]",
        'registry = "registry:3-next"',
        'buildkit = "moby/buildkit:buildx-next"',
    )
    return directory


@pytest.fixture(scope="module", autouse=True)
def without_emulation() -> Iterator[None]:
    """The kernel's table is the machine's: meanwhile nobody else clears it."""
    from tests.testbed import binfmt_without

    with binfmt_without("arm64"):
        yield


def host_with(usb: Path, name: str, **options: Any) -> Iterator[Air]:
    from tests.testbed import Host

    with Host(name=name, **options) as host:
        host.mount_in(usb, "/usb", readonly=True)
        yield Air(host)


@pytest.fixture(scope="module")
def home(usb: Path) -> Iterator[Air]:
    """A host on which the old bundle is installed, and what follows happens."""
    yield from host_with(usb, "living")


@pytest.fixture(scope="module")
def office(usb: Path) -> Iterator[Air]:
    """A host with settings and files of its own, which serves the LAN."""
    yield from host_with(usb, "leaving", daemon_config={"log-level": "warn"})


# What a change of one kind leaves among the lines of STATE, besides the line with its name.
AROUND = {
    "builder": ("/root/.docker", "volume buildx_buildkit_", "container buildx_buildkit_"),
    "container": ("volume ",),
    "file": ("/root/.docker", "/root/.local"),
    "test image": (),
}


def test_the_plan_of_an_installation_is_what_it_does(home: Air) -> None:
    nothing = home.bundle("status", code=4)
    assert "nothing is installed here" in nothing["error"]["message"]
    before = home.state()
    home.bundle("install", "--plan")
    assert home.state() == before
    plan = home.bundle("install", "--plan")
    deed = home.bundle("install")
    assert same(plan, deed)
    new = sorted(set(home.state()) - set(before))
    assert sorted(set(before) - set(home.state())) == []
    allowed = [part for change in changes_of(plan) for part in AROUND.get(change["kind"], ())]
    names = [change["name"] for change in changes_of(plan)]
    unplanned = [line for line in new if not any(part in line for part in (*names, *allowed))]
    assert unplanned == []
    # And of what is around, files are only buildx's own, and ours.
    files = [line.split(" ")[1] for line in new if line.startswith("file ")]
    own = ("/root/.docker/buildx/", "/root/.docker/.token_seed", plan["receipt"], "/root/.local/state/bundle/lock")
    assert [file for file in files if file not in names and not file.startswith(own)] == []


def test_status_says_what_is_installed(home: Air) -> None:
    document = home.bundle("status")
    assert document["healthy"] is True
    assert document["problems"] == []
    assert document["bundle"]["name"] == "old"
    assert document["registry"] == {
        "address": LOCAL,
        "container": "registry",
        "state": "running",
        "answers": True,
        "data": "bundle-registry",
        "site": None,
        "storage": None,
    }
    assert document["builder"]["state"] == "running"
    assert {"linux/amd64", "linux/arm64"} <= set(document["builder"]["platforms"])
    assert document["emulation"] == {"linux/arm64": True}
    assert all(image["served"] for image in document["images"])
    assert {"docker.io/library/debian:12", "docker.io/library/busybox:1.35"} <= {
        image["reference"] for image in document["images"]
    }


def test_after_a_reboot_everything_is_back(home: Air, usb: Path) -> None:
    # Where another test's host had registered emulation before, installing had nothing to register.
    home.forget_emulation()
    home.bundle("install")
    home.host.stop_docker()
    home.forget_emulation()
    home.host.start_docker()
    home.host.reboot()
    home.host.mount_in(usb, "/usb", readonly=True)
    home.patiently_healthy()
    run = ("docker", "run", "--rm", "--platform", "linux/arm64", f"{LOCAL}/busybox:1.35", "uname", "-m")
    assert home.out(*run).strip() == "aarch64"
    home.build(DOCKERFILE, "--no-cache", "--pull")
    assert changes_of(home.bundle("install")) == []


FORGET = "cd /proc/sys/fs/binfmt_misc; for f in $(grep -l '^magic 7f454c46.*b7' *); do echo -1 > $f; done"
BREAKAGES = {
    "stopped": (
        "docker stop -t 1 registry buildx_buildkit_cross-builder0; docker update --restart=no registry;" + FORGET,
        {"registry": "exited", "restart": "does not come back", "emulation": "linux/arm64", "builder": "does not run"},
    ),
    "changed": (
        "docker rm -f registry; docker buildx use default; echo '[x]' > ~/.docker/buildx/buildkitd.cross-builder.toml",
        {"registry": "gone", "configuration": "not as it was written", "builder": "is not the one that"},
    ),
    "gone": (
        f"docker rm -f bundle-binfmt buildx_buildkit_cross-builder0; {FORGET}",
        {"emulation": "linux/arm64", "builder": "does not run"},
    ),
    "removed": ("docker buildx rm cross-builder", {"builder": "gone"}),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_doctor_finds_it_and_fixes_it(home: Air, name: str) -> None:
    breakage, expected = BREAKAGES[name]
    home.out("sh", "-c", breakage)
    assert home.bundle("status", code=4)["healthy"] is False
    plan = home.bundle("doctor", "--plan", code=4)
    assert all(finding["hint"] for finding in plan["findings"])
    found = {finding["check"]: finding["message"] for finding in plan["findings"]}
    if "emulation" not in found and "qemu" in home.out("ls", "/proc/sys/fs/binfmt_misc"):
        # Another test's host has registered it in the meantime, in the kernel that they share.
        expected = {check: words for check, words in expected.items() if check != "emulation"}
    assert list(found) == list(expected)
    assert [words for check, words in expected.items() if words not in found[check]] == []
    deed = home.bundle("doctor", "--fix")
    assert same(plan, deed)
    assert deed["left"] == []


def test_after_the_doctor_nothing_is_left_for_an_installation(home: Air) -> None:
    assert home.bundle("status")["healthy"] is True
    assert changes_of(home.bundle("install", "--plan")) == []
    home.build(DOCKERFILE, "--no-cache", "--pull")


def test_what_needs_the_archive_is_said(home: Air) -> None:
    """An image that is gone from the registry cannot come from anywhere else."""
    delete = (
        "import urllib.request as u; r = u.Request('http://localhost:5000/v2/debian/manifests/12', method='DELETE');"
        "print(u.urlopen(r).status)"
    )
    assert home.out("python3", "-c", delete).strip() == "202"
    finding = home.bundle("doctor", "--fix", code=4)["findings"][0]
    assert finding["check"] == "images"
    assert "localhost:5000/debian:12 is gone" in finding["message"]
    assert finding["hint"] == "python3 /usb/old.tar upgrade"
    served = {image["reference"]: image["served"] for image in home.bundle("status", code=4)["images"]}
    assert served["docker.io/library/debian:12"] is False
    home.out("sh", "-c", finding["hint"])
    assert home.bundle("doctor")["findings"] == []


def test_a_clock_that_is_behind(home: Air) -> None:
    """The receipt is from later than now."""
    path = home.host.path("/root/.local/state/bundle/receipt.json")
    receipt = path.read_text()
    finished = json.loads(receipt)["finished"]
    path.write_text(receipt.replace(finished, "2063-04-05T11:00:00+00:00"))
    try:
        assert "2063-04-05" in home.problems()["clock"][0]
    finally:
        path.write_text(receipt)


def test_check_says_what_is_missing(home: Air) -> None:
    home.host.path("/root/Dockerfile").write_text(
        "# syntax=docker/dockerfile:1\nARG VERSION=12\nFROM --platform=$BUILDPLATFORM debian:${VERSION} AS build\n"
        "COPY --from=busybox:1.35 /bin/busybox /busybox\nFROM scratch\nCOPY --from=build /busybox /busybox\n"
    )
    document = home.bundle("check", "/root/Dockerfile")
    assert document["builds"] is True
    assert {(image["reference"], image["platform"]) for image in document["images"]} == {
        ("docker.io/docker/dockerfile:1", "linux/amd64"),
        ("docker.io/library/debian:12", "linux/amd64"),
        ("docker.io/library/busybox:1.35", "linux/amd64"),
        ("docker.io/library/busybox:1.35", "linux/arm64"),
    }
    assert home.bundle("check", "/root")["builds"] is True
    document = home.bundle("check", "--build-arg", "VERSION=13", "/root/Dockerfile", code=5)
    assert document["bundle.toml"] == [
        'platforms = ["linux/amd64", "linux/arm64"]',
        'images = [{ image = "debian:13", platforms = ["linux/amd64"] }]',
    ]
    document = home.bundle("check", "--platform", "linux/riscv64", "/root/Dockerfile", code=5)
    missing = {(image["reference"], image["platform"]) for image in document["images"] if image["missing"]}
    assert missing == {("docker.io/library/busybox:1.35", "linux/riscv64")}
    digest = home.out("docker", "buildx", "imagetools", "inspect", f"{LOCAL}/debian:12").split("Digest:")[1].split()[0]
    wrong = f"sha256:{'0' * 64}"
    for name, code in ((f"debian@{digest}", 0), (f"debian:12@{wrong}", 5), ("ghcr.io/a/b:1", 5)):
        home.host.path("/root/Dockerfile").write_text(f"FROM scratch\nRUN --mount=from={name},target=/x true\n")
        home.bundle("check", "/root/Dockerfile", code=code)
    home.host.path("/root/Dockerfile").write_text("FROM debian:${NOTHING?}\n")
    assert "/root/Dockerfile:1" in home.bundle("check", "/root/Dockerfile", code=2)["error"]["message"]
    home.host.path("/root/Dockerfile").unlink()


def test_an_upgrade_keeps_data_settings_and_build_cache(home: Air) -> None:
    home.build(DOCKERFILE + "RUN echo cached > /c\n", "-t", f"{LOCAL}/app:1", "--push")
    # A tag of somebody's own on an image that the new bundle does not have.
    home.out("python3", "-c", RETAG, f"http://{LOCAL}/v2/busybox/manifests", "1.35", "mine")
    plan = home.bundle("upgrade", "--plan", archive="new")
    deed = home.bundle("upgrade", archive="new")
    assert same(plan, deed)
    moves = {move["role"]: (move["from"], move["to"]) for move in deed["moves"] if move["role"] != "base"}
    assert set(moves) == {"registry", "buildkit"}
    assert moves["registry"][0].startswith("docker.io/library/registry:3@")
    assert moves["registry"][1].startswith("docker.io/library/registry:3-next@")
    bases = {(move["from"] or "").partition("@")[0]: move["to"] for move in deed["moves"] if move["role"] == "base"}
    assert bases["docker.io/library/busybox:1.35"] is None
    assert home.bundle("status")["bundle"]["name"] == "new"
    containers = json.loads(home.out("docker", "inspect", "registry", "buildx_buildkit_cross-builder0"))
    names = (f"{LOCAL}/library/registry:3-next", f"{LOCAL}/moby/buildkit:buildx-next")
    loaded = [image["Id"] for image in json.loads(home.out("docker", "image", "inspect", *names))]
    assert [container["Image"] for container in containers] == loaded
    assert home.pulled("app:1", "busybox:mine", "busybox:1.35", "busybox:moving", "debian:12") == {
        "app:1": "amd64,arm64",
        "busybox:mine": "amd64,arm64",
        "busybox:1.35": "amd64,arm64",
        "busybox:moving": "amd64,arm64",
        "debian:12": "amd64,arm64",
    }
    assert home.build(DOCKERFILE + "RUN echo cached > /c\n").count("CACHED") == 4


def test_an_interrupted_prune_is_taken_up_again(home: Air) -> None:
    """Killed while the registry is stopped, of all moments."""
    command = ("python3", "/usb/new.tar", "prune")
    process = home.host.popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        for line in process.stderr:
            if line.startswith("garbage "):
                process.kill()
                break
    assert process.returncode != 0
    home.out("docker", "stop", "registry")
    assert "registry" in home.problems()
    assert home.bundle("prune", code=4)["error"]["problems"][0]["hint"] == "python3 /usb/old.tar doctor"
    assert home.bundle("doctor", "--fix", archive="new")["left"] == []


def test_prune_takes_what_is_not_listed_and_nothing_else(home: Air) -> None:
    size = "du -sk /var/lib/docker/volumes/bundle-registry/_data | cut -f1"
    before = int(home.out("sh", "-c", size))
    plan = home.bundle("prune", "--plan", archive="new")
    deed = home.bundle("prune", archive="new")
    assert same(plan, deed)
    assert ("collect", "garbage") in {(change["action"], change["kind"]) for change in changes_of(deed)}
    freed = (before - int(home.out("sh", "-c", size))) * 1024
    assert deed["freed"] is not None
    assert freed > 0
    # du counts blocks and directories, Docker the lengths of the files.
    assert abs(freed - deed["freed"]) < 400 << 10
    # What the new bundle has, and what was pushed by others, is whole: each byte was fetched and hashed.
    assert home.pulled(
        *("debian:12", "library/debian:12", "debian:12-wide", "busybox:moving", "library/busybox:moving"),
        *("registry:3-next", "moby/buildkit:buildx-next", "docker/dockerfile:1", "app:1", "busybox:mine"),
        *("busybox:1.35", "library/busybox:1.35", "registry:3", "moby/buildkit:buildx-stable-1"),
    ) == {
        "debian:12": "amd64,arm64",
        "library/debian:12": "amd64,arm64",
        "debian:12-wide": "amd64,arm64",
        "busybox:moving": "amd64,arm64",
        "library/busybox:moving": "amd64,arm64",
        "registry:3-next": "amd64",
        "moby/buildkit:buildx-next": "amd64",
        "docker/dockerfile:1": "amd64",
        "app:1": "amd64,arm64",
        "busybox:mine": "amd64,arm64",
        "busybox:1.35": "404",
        "library/busybox:1.35": "404",
        "registry:3": "404",
        "moby/buildkit:buildx-stable-1": "404",
    }
    for base in ("debian:12", "debian:12-wide", "busybox:moving"):
        home.build(f"FROM {base}\nRUN uname -m\n", "--no-cache", "--pull")
    assert changes_of(home.bundle("prune", archive="new")) == []
    assert home.bundle("doctor", archive="new")["findings"] == []
    # The old version of the moved tag is gone too, and the old images of the toolchain from Docker.
    local = home.out("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert f"{LOCAL}/library/registry:3" not in local
    assert f"{LOCAL}/library/registry:3-next" in local


def test_uninstall_keeps_the_data_unless_told(home: Air) -> None:
    (problem,) = home.bundle("uninstall", archive="new", code=4)["error"]["problems"]
    assert problem["subject"] == "consent"
    plan = home.bundle("uninstall", "--plan", archive="new")
    deed = home.bundle("uninstall", "--yes", archive="new")
    assert same(plan, deed)
    assert "bundle-registry" in deed["notes"][0]
    assert home.out("docker", "ps", "-aq") == ""
    home.bundle("install", archive="new")
    assert home.pulled("app:1") == {"app:1": "amd64,arm64"}


# A host that serves the LAN, from before the installation to after it


def test_uninstall_leaves_the_host_as_it_was(office: Air) -> None:
    office.forget_emulation()
    office.out("sh", "-c", "mkdir /root/.docker && echo '{}' > /root/.docker/config.json && chmod 600 /root/.docker/*")
    before = office.state()
    made = office.bundle("install", "--registry", LAN, "--yes", "--data", "/srv/registry")
    office.build(DOCKERFILE, "-t", f"{LAN}/app:1", "--push")

    # Somebody takes the setting away: the doctor sees it, and fixes it with consent only.
    settings = office.host.path("/etc/docker/daemon.json")
    written = settings.read_text()
    settings.write_text(json.dumps({"log-level": "warn", "insecure-registries": []}))
    office.out("sh", "-c", "kill -HUP $(cat /var/run/docker.pid)")
    for _ in range(50):
        if LAN not in office.out("docker", "info", "--format", "{{json .RegistryConfig.IndexConfigs}}"):
            break
        time.sleep(0.1)
    assert list(office.problems()) == ["daemon"]
    assert office.bundle("doctor", "--fix", code=4)["error"]["problems"][0]["subject"] == "consent"
    office.bundle("doctor", "--fix", "--yes")
    assert json.loads(settings.read_text()) == json.loads(written)

    plan = office.bundle("uninstall", "--data", "--plan")
    deed = office.bundle("uninstall", "--data", "--yes")
    assert same(plan, deed)
    assert deed["notes"] == []
    registered = ["emulation" in {change["kind"] for change in changes_of(document)} for document in (made, deed)]
    assert registered[0] == registered[1]
    after = office.state()
    assert sorted(set(after) - set(before)) == []
    assert sorted(set(before) - set(after)) == []


def test_uninstall_leaves_what_was_changed_since(office: Air) -> None:
    office.bundle("install", "--registry", LAN, "--yes")
    office.out("sh", "-c", "echo '# mine' >> /root/.docker/buildx/buildkitd.cross-builder.toml")
    settings = office.host.path("/etc/docker/daemon.json")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "max-concurrent-uploads": 7}))
    notes = office.bundle("uninstall", "--data", "--yes")["notes"]
    assert notes == ["/root/.docker/buildx/buildkitd.cross-builder.toml stays: it was changed since it was installed"]
    assert json.loads(settings.read_text()) == {"log-level": "warn", "max-concurrent-uploads": 7}
    assert office.out("sh", "-c", "docker volume ls -q; docker ps -aq") == ""


def test_a_registry_that_no_longer_fits_on_its_disk(office: Air) -> None:
    office.out("sh", "-c", "mkdir -p /small && mount -t tmpfs -o size=700m tmpfs /small")
    office.bundle("install", "--data", "/small/registry")
    assert "are free for /small/registry" in office.problems()["disk"][0]
