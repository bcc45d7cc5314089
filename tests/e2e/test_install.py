"""`python3 offline.tar install` on air-gapped hosts: real engines, real registry, real builds, no route anywhere."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.hosts import LAN, LOCAL

pytestmark = pytest.mark.e2e

ARCHIVE = "/usb/offline.tar"
# What a registry serves: repository, tag or digest, and a HEAD request's digest. Run inside the host.
ASK = """
import sys, urllib.request
accept = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
          "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"]
for name in sys.argv[2:]:
    repository, _, selector = name.partition("@") if "@" in name else name.rpartition(":")
    url = f"http://{sys.argv[1]}/v2/{repository}/manifests/{selector}"
    try:
        request = urllib.request.Request(url, headers={"Accept": ", ".join(accept)}, method="HEAD")
        answer = urllib.request.urlopen(request)
        print(answer.headers["Docker-Content-Digest"])
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@dataclasses.dataclass
class Air:
    """A host and the commands that these tests give it."""

    host: Any

    def install(self, *options: str, user: Optional[str] = None, archive: str = ARCHIVE) -> tuple[int, Any, str]:
        """Exit code, the JSON document, and stderr."""
        done = self.host.run(
            "python3", ARCHIVE, "install", archive, "--json", *options, check=False, timeout=300, user=user
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    def installed(self, *options: str, archive: str = ARCHIVE) -> Any:
        code, document, stderr = self.install(*options, archive=archive)
        assert code == 0, stderr
        return document

    def out(self, *argv: str) -> str:
        return str(self.host.run(*argv).stdout)

    def served(self, registry: str, *names: str) -> list[str]:
        """The digests under these names, or HTTP statuses."""
        return self.out("python3", "-c", ASK, registry, *names).split()

    def state(self) -> str:
        """What a second run must not change: containers, images, files, the registry's data, Docker's settings."""
        return self.out(
            "sh",
            "-c",
            "docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}'; docker images --no-trunc -q | sort;"
            "docker volume ls -q; cat /etc/docker/daemon.json 2>/dev/null;"
            "find /root /etc/docker /var/lib/docker/volumes/bundle-registry /srv -not -path '*/buildx/activity/*' "
            "-not -name '.lock' -not -path '*/buildx/refs/*' -not -path '*/.token_seed*' "
            "-type f -printf '%p %T@ %s\\n' 2>/dev/null | sort",
        )

    def build(self, registry: str, name: str, dockerfile: str) -> None:
        """Build for both platforms and push."""
        platforms = ("--platform", "linux/amd64,linux/arm64")
        self.host.run(
            *("docker", "buildx", "build", *platforms, "-t", f"{registry}/{name}", "--push", "-"), input=dockerfile
        )


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with offline.tar, made by `bundle create` from the origin."""
    from tests.testbed import ORIGIN, start_origin

    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    command = [
        "create",
        "debian:12",
        "busybox:1.35",
        "--mirror",
        f"docker.io={ORIGIN}",
        "-o",
        str(directory / "offline.tar"),
    ]
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


def host_with(usb: Path, **options: Any) -> Iterator[Air]:
    from tests.testbed import Host

    with Host(**options) as host:
        host.mount_in(usb, "/usb", readonly=True)
        yield Air(host)


@pytest.fixture(scope="module")
def local(usb: Path) -> Iterator[Air]:
    """A host on which the archive is installed for localhost."""
    for air in host_with(usb):
        air.first = air.installed()  # type: ignore[attr-defined]
        yield air


@pytest.fixture(scope="module")
def lan(usb: Path) -> Iterator[Air]:
    """A host with settings of its own, on which the archive is installed for the LAN."""
    for air in host_with(usb, daemon_config={"log-level": "warn", "debug": False}):
        air.first = air.installed("--registry", LAN, "--yes", "--data", "/srv/registry")  # type: ignore[attr-defined]
        yield air


@pytest.fixture(scope="module")
def bare(usb: Path) -> Iterator[Air]:
    """A host on which nothing is ever installed."""
    yield from host_with(usb)


@pytest.fixture
def fresh(usb: Path) -> Iterator[Air]:
    """A host for one test."""
    yield from host_with(usb)


# Installed for localhost


def test_every_step_is_done_once(local: Air) -> None:
    document = local.first  # type: ignore[attr-defined]
    assert document["changed"] is True
    assert {step["step"]: step["changed"] for step in document["steps"]} == {
        "images": True,
        "registry": True,
        "push": True,
        "buildx": True,
        "emulation": True,
        "replay": False,
        "configuration": True,
        "daemon": False,
        "builder": True,
        "test build": True,
    }
    assert document["notes"] == []
    assert document["registry"]["address"] == LOCAL
    assert document["finished"]
    kept = json.loads(local.out("cat", "/root/.local/state/bundle/receipt.json"))
    assert kept == document
    assert local.out("stat", "-c", "%a", "/root/.local/state/bundle/receipt.json").strip() == "600"


def test_the_builder_runs_with_both_platforms_and_is_selected(local: Air) -> None:
    table = local.out("docker", "buildx", "ls").splitlines()
    assert any(line.startswith("cross-builder*") and "docker-container" in line for line in table)
    (node,) = [line for line in table if "cross-builder0" in line]
    assert "running" in node
    assert "linux/amd64*" in node
    assert "linux/arm64*" in node
    inspected = local.out("docker", "buildx", "inspect", "cross-builder")
    # By its digest: a tag is anybody's who reaches the registry.
    assert f'image="{LOCAL}/moby/buildkit@sha256:' in inspected
    assert 'network="host"' in inspected


def test_the_registry_listens_on_the_loopback_addresses_only(local: Air) -> None:
    inspected = json.loads(local.out("docker", "inspect", "registry"))[0]
    assert inspected["HostConfig"]["PortBindings"] == {
        "5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "5000"}, {"HostIp": "::1", "HostPort": "5000"}]
    }
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "always"
    (mount,) = inspected["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"]) == ("volume", "bundle-registry", "/var/lib/registry")


def test_tags_have_the_digests_of_the_origin(local: Air) -> None:
    from tests.testbed import origin_digests

    expected = origin_digests()
    names = {
        "library/debian:12": "library/debian:12",
        "debian:12": "library/debian:12",
        "busybox:1.35": "library/busybox:1.35",
        "registry:3": "library/registry:3",
        "moby/buildkit:buildx-stable-1": "moby/buildkit:buildx-stable-1",
        "docker/dockerfile:1": "docker/dockerfile:1",
        "docker/buildx-bin:latest": "docker/buildx-bin:latest",
        "tonistiigi/binfmt:latest": "tonistiigi/binfmt:latest",
    }
    assert local.served(LOCAL, *names) == [expected[origin] for origin in names.values()]


def test_the_kernel_has_the_emulator_now(local: Air) -> None:
    from tests.testbed import binfmt_state

    entry = next(entry for entry in binfmt_state().values() if entry.runs("arm64"))
    assert entry.enabled
    assert "F" in entry.flags
    run = ("docker", "run", "--rm", "--platform", "linux/arm64", f"{LOCAL}/busybox:1.35", "uname", "-m")
    assert local.out(*run).strip() == "aarch64"


@pytest.mark.parametrize("syntax", ["", "# syntax=docker/dockerfile:1\n"], ids=["plain", "syntax"])
@pytest.mark.parametrize("by_digest", [False, True], ids=["tag", "digest"])
def test_an_unmodified_dockerfile_cross_builds(local: Air, syntax: str, by_digest: bool) -> None:
    from tests.testbed import origin_digests

    base = "debian@" + origin_digests()["library/debian:12"] if by_digest else "debian:12"
    name = f"app:{'d' if by_digest else 't'}{'s' if syntax else 'p'}"
    local.build(LOCAL, name, f'{syntax}FROM {base}\nRUN uname -m > /machine\nCMD ["cat", "/machine"]\n')
    for platform, machine in (("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")):
        local.host.run("docker", "pull", "-q", "--platform", platform, f"{LOCAL}/{name}")
        assert local.out("docker", "run", "--rm", "--platform", platform, f"{LOCAL}/{name}").strip() == machine


def test_a_second_run_changes_nothing_and_says_so(local: Air) -> None:
    before = local.state()
    document = local.installed()
    assert document["changed"] is False, document["steps"]
    assert [step["step"] for step in document["steps"] if step["changed"]] == []
    text = local.host.run("python3", ARCHIVE, "install")
    assert text.stdout.rstrip().endswith("nothing to do: everything was already there")
    assert text.stderr == ""
    plan = local.host.run("python3", ARCHIVE, "install", "--plan")
    assert plan.stdout.rstrip().endswith("nothing to do")
    assert local.state() == before


def test_what_was_stopped_is_started_again(local: Air) -> None:
    local.host.run("docker", "stop", "registry", "buildx_buildkit_cross-builder0")
    document = local.installed()
    changed = {step["step"]: step["changes"][0]["action"] for step in document["steps"] if step["changed"]}
    assert changed == {"registry": "start", "builder": "start", "test build": "build"}
    assert local.installed()["changed"] is False


def test_a_restart_of_docker_brings_registry_and_builder_back(local: Air) -> None:
    local.host.restart_docker()
    assert set(local.out("docker", "ps", "--format", "{{.Names}}").split()) == {
        "bundle-binfmt",
        "registry",
        "buildx_buildkit_cross-builder0",
    }
    assert local.installed()["changed"] is False


def test_another_user_gets_a_client_side_of_his_own(local: Air) -> None:
    local.host.add_user("ann", ("docker",))
    code, document, stderr = local.install(user="ann")
    assert code == 0, stderr
    changed = {step["step"] for step in document["steps"] if step["changed"]}
    assert changed - {"emulation"} == {"buildx", "configuration", "builder", "test build"}
    assert "cross-builder*" in local.host.run("docker", "buildx", "ls", user="ann").stdout
    assert local.installed()["changed"] is False


# Installed for the LAN


def test_daemon_json_is_merged_and_read_again_without_a_restart(lan: Air) -> None:
    assert json.loads(lan.out("cat", "/etc/docker/daemon.json")) == {
        "log-level": "warn",
        "debug": False,
        "insecure-registries": [LAN],
    }
    assert json.loads(lan.out("cat", "/etc/docker/daemon.json.before-bundle")) == {"log-level": "warn", "debug": False}
    info = json.loads(lan.out("docker", "info", "--format", "{{json .RegistryConfig.IndexConfigs}}"))
    assert info[LAN]["Secure"] is False


def test_the_lan_registry_is_as_the_manual_procedure_has_it(lan: Air) -> None:
    inspected = json.loads(lan.out("docker", "inspect", "registry"))[0]
    assert inspected["HostConfig"]["PortBindings"] == {"5000/tcp": [{"HostIp": "192.168.10.10", "HostPort": "5000"}]}
    (mount,) = inspected["Mounts"]
    assert (mount["Type"], mount["Source"]) == ("bind", "/srv/registry")
    toml = lan.out("cat", "/root/.docker/buildx/buildkitd.cross-builder.toml")
    assert f'[registry."{LAN}"]\n  http = true\n  insecure = true\n' in toml
    assert f'[registry."docker.io"]\n  mirrors = ["{LAN}"]\n' in toml
    inspected_builder = lan.out("docker", "buildx", "inspect", "cross-builder")
    assert f'image="{LAN}/moby/buildkit@sha256:' in inspected_builder
    assert 'network="host"' not in inspected_builder
    assert "running" in inspected_builder


def test_a_build_goes_through_the_lan_address(lan: Air) -> None:
    lan.build(LAN, "app:1", 'FROM debian:12\nRUN uname -m > /machine\nCMD ["cat", "/machine"]\n')
    for platform, machine in (("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")):
        lan.host.run("docker", "pull", "-q", "--platform", platform, f"{LAN}/app:1")
        assert lan.out("docker", "run", "--rm", "--platform", platform, f"{LAN}/app:1").strip() == machine


def test_a_second_run_on_the_lan_stays_there_and_changes_nothing(lan: Air) -> None:
    before = lan.state()
    for options in ((), ("--registry", LAN), ("--registry", LAN, "--data", "/srv/registry", "--yes")):
        document = lan.installed(*options)
        assert document["changed"] is False, document["steps"]
        assert document["registry"]["address"] == LAN
        assert document["registry"]["data"] == "/srv/registry"
    assert lan.state() == before


def test_other_settings_replace_what_is_ours_and_keep_the_data(lan: Air) -> None:
    document = lan.installed("--registry", LOCAL)
    changed = {step["step"]: [change["action"] for change in step["changes"]] for step in document["steps"]}
    assert changed["images"] == ["tag", "tag"]
    assert changed["registry"] == ["replace"]
    assert changed["push"] == []
    assert changed["configuration"] == ["rewrite"]
    assert changed["builder"] == ["pull", "recreate"]
    assert lan.installed()["changed"] is False


# Hosts that are not ready


def problems_of(air: Air, *options: str, user: Optional[str] = None, code: int = 4) -> dict[str, Any]:
    found, document, stderr = air.install(*options, user=user)
    assert found == code, stderr
    assert all(problem["hint"] for problem in document["error"]["problems"])
    return {problem["subject"]: problem for problem in document["error"]["problems"]}


def foreign_image(air: Air) -> None:
    air.host.run("sh", "-c", "tar -c -C / etc/hostname | docker import - foreign:1")


def test_all_problems_come_in_one_report_and_nothing_is_changed(bare: Air) -> None:
    foreign_image(bare)
    bare.host.run("docker", "create", "--name", "registry", "foreign:1", "/x")
    instances = bare.host.path("/root/.docker/buildx/instances")
    instances.mkdir(parents=True)
    (instances / "cross-builder").write_text(
        json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": [{"Name": "cross-builder0"}]})
    )
    server = bare.host.popen("python3", "-m", "http.server", "5000", "--bind", "127.0.0.1", stderr=subprocess.DEVNULL)
    bare.host.path("/tmp/wait.py").write_text(
        "import socket, time\nfor _ in range(100):\n"
        "    try: socket.create_connection(('127.0.0.1', 5000)); break\n    except OSError: time.sleep(0.05)\n"
    )
    bare.host.run("python3", "/tmp/wait.py")
    try:
        before = bare.state()
        problems = problems_of(bare, "--platform", "linux/amd64,linux/s390x")
        assert set(problems) == {
            "--platform linux/s390x",
            "container `registry`",
            "builder `cross-builder`",
            f"address {LOCAL}",
        }
        assert "of the user `root`" in problems[f"address {LOCAL}"]["message"]
        assert problems["builder `cross-builder`"]["hint"].endswith("docker buildx rm cross-builder")
        assert bare.state() == before
    finally:
        server.terminate()
        server.wait()
        bare.host.run("docker", "rm", "registry")
        (instances / "cross-builder").unlink()


def test_a_container_that_has_the_port_is_named(bare: Air) -> None:
    bare.host.run("docker", "load", "-i", ARCHIVE)  # the archive is a Docker archive of the registry image, too
    bare.host.run("docker", "run", "-d", "--name", "other", "-p", "127.0.0.1:5000:5000", "registry:3")
    try:
        problem = problems_of(bare)[f"address {LOCAL}"]
        assert "the container `other`" in problem["message"]
        assert "docker stop other" in problem["hint"]
    finally:
        bare.host.run("docker", "rm", "-f", "other")
        bare.host.run("docker", "rmi", "registry:3")


def test_without_permission(bare: Air) -> None:
    bare.host.add_user("bob")
    problem = problems_of(bare, user="bob")["Docker"]
    assert "no permission" in problem["message"]
    assert "usermod -aG docker" in problem["hint"]


def test_an_unprivileged_user_gets_the_commands_that_root_must_run(bare: Air) -> None:
    bare.host.add_user("cleo", ("docker",))
    problems = problems_of(bare, "--registry", LAN, user="cleo")
    (problem,) = problems.values()
    assert "sudo tee /etc/docker/daemon.json" in problem["hint"]
    assert "sudo kill -HUP" in problem["hint"]


def test_consent_is_needed_to_change_daemon_json(bare: Air) -> None:
    problem = problems_of(bare, "--registry", LAN)["consent"]
    assert "daemon.json" in problem["message"]
    assert "--yes" in problem["hint"]
    assert not bare.host.path("/etc/docker/daemon.json").exists()


def test_an_address_of_another_machine(bare: Air) -> None:
    problem = problems_of(bare, "--registry", "192.168.10.99:5000", "--yes")["address 192.168.10.99:5000"]
    assert "no address 192.168.10.99" in problem["message"]


def test_docker_stopped_and_daemon_json_broken_are_both_said(bare: Air) -> None:
    bare.host.stop_docker()
    daemon_json = bare.host.path("/etc/docker/daemon.json")
    daemon_json.parent.mkdir(exist_ok=True)
    daemon_json.write_text('{"debug": true,}')
    try:
        problems = problems_of(bare, "--registry", LAN, "--yes")
        assert set(problems) == {"Docker", "/etc/docker/daemon.json"}
        assert "not running" in problems["Docker"]["message"]
        assert "not valid JSON" in problems["/etc/docker/daemon.json"]["message"]
        assert daemon_json.read_text() == '{"debug": true,}'
    finally:
        daemon_json.unlink()
        bare.host.start_docker()


def test_an_archive_for_other_hosts(bare: Air, usb: Path) -> None:
    from tests.support.archives import ARM64, image, made

    content = made(image("registry:3", "registry", (ARM64,), (9,)), image("debian:12", seeds=(1,)))
    content.write(usb / "arm.tar", content.contents("arm", host=ARM64))
    code, document, stderr = bare.install(archive="/usb/arm.tar")
    assert code == 4, stderr
    problems = {problem["subject"]: problem["message"] for problem in document["error"]["problems"]}
    assert problems["this host"] == "it is linux/amd64, and the archive is for hosts of linux/arm64"


def test_too_little_space_is_seen_before(bare: Air) -> None:
    bare.host.run("sh", "-c", "mkdir -p /small && mount -t tmpfs -o size=100m tmpfs /small")
    try:
        problem = problems_of(bare, "--data", "/small/registry")["disk space for /small/registry"]
        assert "are needed" in problem["message"]
        assert bare.out("ls", "/small") == ""
    finally:
        bare.host.run("umount", "/small")


def test_a_plan_is_complete_and_touches_nothing(bare: Air) -> None:
    before = bare.state()
    done = bare.host.run("python3", ARCHIVE, "install", "--plan", "--json", "--registry", LAN)
    plan = json.loads(done.stdout)
    actions = {(step["step"], change["action"], change["kind"]) for step in plan["steps"] for change in step["changes"]}
    assert {
        ("images", "load", "image"),
        ("registry", "create", "volume"),
        ("registry", "start", "container"),
        ("push", "push", "tag"),
        ("push", "upload", "blobs"),
        ("buildx", "install", "file"),
        ("configuration", "write", "file"),
        ("daemon", "allow", "insecure registry"),
        ("builder", "create", "builder"),
        ("test build", "build", "test image"),
    } <= actions
    assert bare.state() == before


# Things that go wrong on the way


def watch(process: subprocess.Popen[str], word: str, then: Any) -> str:
    """Call `then` when a line of stderr has `word`; gives all of stderr when the process has ended."""
    lines = []
    threads = []
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if word in line and not threads:
                threads.append(threading.Thread(target=then))
                threads[0].start()
    for thread in threads:
        thread.join()
    text = "".join(lines)
    assert "Traceback" not in text, text
    return text


def start(air: Air, *options: str) -> subprocess.Popen[str]:
    command = ("python3", ARCHIVE, "install", *options)
    process: subprocess.Popen[str] = air.host.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return process


def test_ended_by_a_signal_it_goes_on(fresh: Air) -> None:
    from tests.testbed import origin_digests

    digest = origin_digests()["library/debian:12"]
    process = start(fresh, "--platform", "linux/arm64")
    text = watch(process, "upload blobs", lambda: process.send_signal(signal.SIGTERM))
    assert process.returncode == 130, text
    # The push and what Docker loads beside it may have come to their ends, or not.
    assert fresh.served(LOCAL, "debian:12") in (["404"], [digest])
    document = fresh.installed("--platform", "linux/arm64")
    assert "registry" in {step["step"] for step in document["steps"] if not step["changed"]}
    # Only arm64 is there, under the digest of the origin: a sparse index.
    assert fresh.served(LOCAL, "debian:12", f"debian@{digest}") == [digest, digest]
    index = json.loads(fresh.out("docker", "buildx", "imagetools", "inspect", "--raw", f"{LOCAL}/debian:12"))
    found = fresh.served(LOCAL, *(f"debian@{entry['digest']}" for entry in index["manifests"]))
    there = {entry["platform"]["architecture"]: status != "404" for entry, status in zip(index["manifests"], found)}
    assert there["arm64"]
    assert not there["amd64"]
    fresh.host.run("docker", "buildx", "build", "--platform", "linux/arm64", "-", input="FROM debian:12\nRUN true\n")
    # And the rest comes when it is asked for.
    assert fresh.installed()["changed"] is True
    assert fresh.served(LOCAL, *(f"debian@{entry['digest']}" for entry in index["manifests"][:2])).count("404") == 0
    assert fresh.installed()["changed"] is False


def test_a_damaged_layer_is_named_and_nothing_is_tagged(fresh: Air, usb: Path, tmp_path: Path) -> None:
    from bundles.archive.reader import Archive

    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes((usb / "offline.tar").read_bytes())
    with Archive(damaged) as archive:
        base = next(image for image in archive.manifest.images if image.reference.familiar == "debian:12")
        layer = max(archive.walk(base.platforms[1].manifest), key=lambda blob: blob.size)
        offset = archive.layout.blob(layer.digest).data_offset + layer.size // 2
    with damaged.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    fresh.host.mount_in(tmp_path, "/stick", readonly=True)
    code, document, stderr = fresh.install(archive="/stick/damaged.tar")
    assert code == 3, stderr
    (problem,) = document["error"]["problems"]
    assert str(layer.digest) in problem["subject"]
    assert "debian:12" in problem["subject"]
    assert fresh.served(LOCAL, "debian:12", "busybox:1.35", "registry:3") == ["404"] * 3
    assert fresh.installed()["changed"] is True


def test_a_registry_that_dies_is_a_clear_error(fresh: Air) -> None:
    process = start(fresh)
    text = watch(process, "upload blobs", lambda: fresh.host.run("docker", "kill", "registry", check=False))
    assert process.returncode == 5, text
    assert "registry" in text
    assert fresh.installed()["finished"]


def test_a_disk_that_fills_up_is_a_clear_error(fresh: Air) -> None:
    fresh.host.run("sh", "-c", "mkdir -p /small && mount -t tmpfs -o size=400m tmpfs /small")
    process = start(fresh, "--data", "/small/registry")
    fill = ("sh", "-c", "head -c 330M /dev/zero > /small/filler")
    text = watch(process, "start container registry", lambda: fresh.host.run(*fill, check=False))
    assert process.returncode == 1, text
    assert "no space left" in text
    fresh.host.run("rm", "/small/filler")
    assert fresh.installed("--data", "/small/registry")["finished"]


def test_nobody_learns_a_planted_password(fresh: Air) -> None:
    """A proxy's, and those of logins that the host keeps: not from what is said, the process list, or what is left."""
    password, proxy_password = "Planted-Passw0rd-81b7", "Planted-Pr0xy-55aa"
    proxy = f"http://user:{proxy_password}@127.0.0.1:9"
    login = base64.b64encode(f"robot:{password}".encode()).decode()
    config = {
        "auths": {name: {"auth": login} for name in (LOCAL, "registry.corp")},
        "proxies": {"default": {"httpProxy": proxy, "httpsProxy": proxy}},
    }
    place = fresh.host.path("/root/.docker/config.json")
    place.parent.mkdir()
    place.write_text(json.dumps(config))
    environment = {name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    seen: set[bytes] = set()
    with fresh.host.popen(
        *("python3", ARCHIVE, "install", "--json", "--log-file", "/root/install.log"),
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip

        def watch_processes() -> None:
            while process.poll() is None:
                for line in Path("/proc").glob("[0-9]*/cmdline"):
                    with contextlib.suppress(OSError):
                        seen.add(line.read_bytes())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch_processes)
        watcher.start()
        said = process.communicate()[0]
        watcher.join()
    assert process.returncode == 0, said
    assert any(b"buildx\0build" in line for line in seen)
    inspected = fresh.out(
        "sh", "-c", "docker inspect $(docker ps -aq); for c in $(docker ps -aq); do docker logs $c; done"
    )
    secrets = [password, proxy_password, login, base64.b64encode(f"user:{proxy_password}".encode()).decode()]
    for secret in secrets:
        assert secret not in said
        assert secret not in inspected
        assert not [line for line in seen if secret.encode() in line]
        places = "/root /etc/docker /var/log /tmp /var/lib/docker/volumes /var/lib/docker/containers"
        found = fresh.host.run("sh", "-c", f"grep -rlF '{secret}' {places}", check=False).stdout.split()
        assert set(found) <= {"/root/.docker/config.json"}
    assert json.loads(place.read_text())["auths"] == config["auths"]
    assert fresh.out("stat", "-c", "%a", "/root/install.log") == "600\n"
