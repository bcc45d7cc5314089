"""A build that needs the network, recorded here and built again on a host that has none: no route, no DNS.

The tests go on from each other, in their order, on one host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import STATE
from tests.testbed import (
    ORIGIN,
    Host,
    binfmt_clear,
    binfmt_restore,
    binfmt_state,
    gotools,
    start_origin,
)
from tests.testbed.online import docker_environment, online_engine

pytestmark = pytest.mark.e2e
BUNDLE = Path(sys.executable).parent / "bundle"
PLATFORMS = "linux/amd64,linux/arm64"
# What is emulated takes its time: arm64 installs one small package.
DOCKERFILE = """\
FROM python:3-slim AS build
ARG TARGETARCH
RUN apt-get update && apt-get install -y --no-install-recommends \\
    $([ $TARGETARCH = arm64 ] && echo hello || echo ca-certificates curl python3-pip)
RUN [ $TARGETARCH = arm64 ] || pip install --break-system-packages six==1.16.0
ARG PAGE
ADD ${PAGE} /page
RUN if [ $TARGETARCH = arm64 ]; then hello > /hello; else curl -fsS -o /again $PAGE && cmp /page /again; fi
COPY app.sh /
RUN sh /app.sh > /result

FROM scratch
COPY --from=build /result /
"""
APP = """\
case $(uname -m) in
x86_64) python3 -c 'import six; print("six", six.__version__)' ;;
*) cat /hello ;;
esac
sha256sum /page
"""


@dataclasses.dataclass
class Air:
    """A host, the application on it, and what is done there. `page` is what is downloaded, `first` the receipt."""

    host: Any
    page: str
    first: Any = None

    def bundle(self, *arguments: str, code: int = 0) -> Any:
        """The JSON document of a command, run from the archive; its exit code has to be `code`."""
        done = self.host.run("python3", "/usb/offline.tar", *arguments, "--json", check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def build(self, *options: str, platform: str = PLATFORMS, code: int = 0) -> str:
        """Build as anybody does, and return what was said; the result is in /root/out."""
        self.host.run("rm", "-rf", "/root/out")
        command = ["docker", "buildx", "build", "--progress=plain", "--platform", platform, *options]
        command += ["--build-arg", f"PAGE={self.page}", "-o", "/root/out", "/root/app"]
        done = self.host.run(*command, check=False)
        assert done.returncode == code, done.stderr
        return str(done.stderr)

    def write(self, name: str, text: str) -> None:
        self.host.path(f"/root/app/{name}").write_text(text)

    def result(self, platform: str = "") -> str:
        return str(self.host.path(f"/root/out/{platform}/result").read_text())

    def unrecorded(self) -> list[str]:
        return list(self.bundle("status")["replay"]["unrecorded"])

    def state(self) -> list[str]:
        return str(self.host.run("sh", "-c", STATE).stdout).splitlines()


def cached(said: str) -> list[str]:
    """The instructions of the first stage that were not built again, in short; their layers may not be here either."""
    steps = dict(re.findall(r"^#(\d+) \[(?:linux/\S+ )?build \S+\] (\w+ \S+ \S+)", said, re.MULTILINE))
    return [steps[number] for number in re.findall(r"^#(\d+) CACHED", said, re.MULTILINE) if number in steps]


@pytest.fixture(scope="module")
def page() -> str:
    """A file over https, from where this machine gets Go modules."""
    command = [gotools.go_command(), "env", "GOPROXY"]
    proxy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(",")[0]
    return f"{proxy.strip()}/golang.org/x/text/@v/v0.3.0.zip"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("work") / "app"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "app.sh").write_text(APP)
    return directory


@pytest.fixture(scope="module")
def usb(app: Path, page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with offline.tar: the build recorded, and made an archive of."""
    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    record = app.parent / "app.record"
    mirror = ["--mirror", f"docker.io={ORIGIN}"]
    with online_engine() as host:
        environment = docker_environment(host, tmp_path_factory.mktemp("docker"))
        # What was recorded with an older BuildKit is replayed to a newer one.
        options = ["--buildkit-image", old_buildkit(host), "--build-arg", f"PAGE={page}", *mirror]
        command = [str(BUNDLE), "record", str(app), "-o", str(record), *options, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-8000:]
        recorded = json.loads(done.stdout)
        assert (recorded["notes"], recorded["buildkit"]) == ([], gotools.OLD_BUILDKIT_VERSION)
    command = [str(BUNDLE), "create", "--record", str(record), *mirror, "-o", str(directory / "offline.tar")]
    subprocess.run(command, check=True)
    return directory


def old_buildkit(host: Host) -> str:
    """Have the engine hold an image of the oldest BuildKit that records."""
    name, image = "old", "buildkit:old"
    host.run("docker", "create", "--name", name, "moby/buildkit:buildx-stable-1")
    host.copy_in(gotools.OLD_BUILDKITD.make(), "/root/buildkitd")
    host.run("docker", "cp", "/root/buildkitd", f"{name}:/usr/bin/buildkitd")
    host.run("docker", "commit", name, image)
    host.run("docker", "rm", name)
    return image


@pytest.fixture(scope="module", autouse=True)
def without_emulation() -> Iterator[None]:
    """The machine's kernel does not run arm64 but where the host's installer, or BuildKit, sees to it."""
    before = binfmt_state()
    binfmt_clear("arm64")
    yield
    binfmt_restore(before)


@pytest.fixture(scope="module")
def air(usb: Path, app: Path, page: str) -> Iterator[Air]:
    with Host() as host:
        host.mount_in(usb, "/usb", readonly=True)
        host.copy_in(app, "/root/app")
        yield Air(host, page)


def interrupt(host: Host) -> None:
    """Install, and kill it as soon as there is the container of the replay, whatever that holds by then."""
    with host.popen("python3", "/usb/offline.tar", "install", "-q", stdout=subprocess.DEVNULL) as process:
        while "bundle-replay" not in host.run("docker", "ps", "-a", "--format", "{{.Names}}").stdout:
            assert process.poll() is None
            time.sleep(0.05)
        host.run("pkill", "-KILL", "-f", "/usb/offline.tar install")
    # buildx itself is not asked: it would make directories that are nobody's.
    assert "buildx_buildkit" not in host.run("docker", "ps", "-a", "--format", "{{.Names}}").stdout


def test_installing_brings_the_service_and_says_what_is_cached(air: Air) -> None:
    air.before = air.state()  # type: ignore[attr-defined]
    interrupt(air.host)
    air.first = air.bundle("install")
    replay = air.first["replay"]
    assert (replay["port"], [tape["name"] for tape in replay["tapes"]], replay["direct"]) == (5080, ["app"], [])
    (cache,) = air.first["caches"]
    assert re.fullmatch(r"type=registry,ref=localhost:5000/offline-bundle/cache:app@sha256:[0-9a-f]{64}", cache)
    # A second run changes nothing.
    assert air.bundle("install")["changed"] is False
    status = air.bundle("status")
    assert (status["healthy"], status["replay"]["state"], status["replay"]["unrecorded"]) == (True, "running", [])
    assert status["replay"]["answers"] > 10


def test_with_its_cache_nothing_is_built_again(air: Air) -> None:
    said = air.build("--cache-from", *air.first["caches"])
    assert len([step for step in cached(said) if step.startswith("RUN")]) == 8, said
    assert air.result("linux_amd64").startswith("six 1.16.0\n")
    assert air.result("linux_arm64").startswith("Hello, world!\n")


def test_a_changed_file_runs_again_what_follows_it_alone(air: Air) -> None:
    air.write("app.sh", APP + "echo changed\n")
    said = air.build("--cache-from", *air.first["caches"], platform="linux/amd64")
    assert {"RUN apt-get update", "RUN [ amd64"} <= set(cached(said)), said
    # Nothing was asked of the replay.
    assert "proxy network requests" not in said
    assert air.result().endswith("changed\n")


def test_the_ordinary_build_gets_everything_again(air: Air) -> None:
    said = air.build("--no-cache")
    assert cached(said) == []
    assert air.result("linux_amd64").startswith("six 1.16.0\n")
    assert air.result("linux_arm64").startswith("Hello, world!\n")
    assert air.unrecorded() == []


def test_a_changed_line_gets_the_same_packages(air: Air) -> None:
    changed = DOCKERFILE.replace("RUN apt-get update &&", "RUN echo changed; apt-get update &&")
    air.write("Dockerfile", changed.replace("six==1.16.0", "six==1.16.0 && echo changed, too"))
    said = air.build(platform="linux/amd64")
    assert "changed, too" in said
    assert air.result().startswith("six 1.16.0\n")
    assert air.unrecorded() == []


def test_what_was_not_recorded_fails_at_once_and_is_named(air: Air) -> None:
    lines = "RUN apt-get update && apt-get install -y --no-install-recommends cowsay\nCOPY app.sh /\n"
    air.write("Dockerfile", DOCKERFILE.replace("COPY app.sh /\n", lines))
    said = air.build(platform="linux/amd64", code=1)
    assert re.search(r"404 +Not Found|404 +not recorded", said), said
    missing = air.unrecorded()
    assert any("/cowsay_" in url and url.startswith("GET http") for url in missing), missing
    # A name of a host that nobody has heard of is no wait for DNS either.
    air.write("Dockerfile", DOCKERFILE.replace("COPY app.sh /\n", "RUN curl -fsS https://nowhere.example/x\n"))
    assert "404" in air.build(platform="linux/amd64", code=1)
    assert "GET https://nowhere.example/x" in air.unrecorded()
    done = air.host.run("python3", "/usb/offline.tar", "status")
    assert "GET https://nowhere.example/x\n" in done.stdout
    assert "next, where there is a network: bundle record" in done.stdout
    # The image of which there is none: that is not what was missed of a recording.
    air.write("Dockerfile", "FROM nowhere:1\n")
    assert "nowhere:1" in air.build(platform="linux/amd64", code=1)
    assert [url for url in air.unrecorded() if "/v2/" in url] == []


def test_after_a_restart_it_is_there_again(air: Air) -> None:
    air.host.restart_docker()
    # Docker answers when its containers were started, which is a moment before Python in there has opened the port.
    # From then on builds wait for the tapes.
    air.host.run("timeout", "20", "bash", "-c", "until (</dev/tcp/127.0.0.1/5080) 2>/dev/null; do sleep 0.02; done")
    air.write("Dockerfile", DOCKERFILE)
    air.build("--no-cache", platform="linux/amd64")
    assert air.result().startswith("six 1.16.0\n")
    (process,) = air.host.run("pgrep", "-f", "bundle-replay/program.zip").stdout.split()
    status = air.host.path(f"/proc/{process}/status").read_text()
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 100 << 10
    assert re.findall(r"Cap(?:Eff|Prm|Bnd):\s+(\w+)", status) == ["0" * 16] * 3
    assert "Uid:\t65534\t65534\t65534\t65534\n" in status


def test_a_service_that_is_gone_comes_back(air: Air) -> None:
    air.host.run("docker", "rm", "-f", "bundle-replay")
    (finding,) = air.bundle("doctor", code=4)["findings"]
    assert (finding["check"], finding["fixable"]) == ("replay", True)
    air.bundle("doctor", "--fix")
    air.build("--no-cache", platform="linux/amd64")


def test_without_the_replay_builds_are_as_ever(air: Air) -> None:
    document = air.bundle("install", "--no-replay")
    assert document["replay"] is None
    assert air.host.run("docker", "ps", "-aq", "--filter", "name=bundle-replay").stdout == ""
    assert "proxyNetwork" not in air.host.path(document["builder"]["config"]).read_text()
    # What was chosen stays; and it can be chosen again.
    assert air.bundle("upgrade")["replay"] is None
    mirror = "192.168.10.10:8088"
    assert air.bundle("install", "--direct", mirror, "--direct", "mirror.corp")["replay"]["direct"] == [
        mirror,
        "mirror.corp",
    ]
    assert air.bundle("upgrade")["changed"] is False


def test_what_the_site_has_is_reached_by_builds_themselves(air: Air) -> None:
    command = ["python3", "-m", "http.server", "8088", "--bind", "192.168.10.10", "--directory", "/root/app"]
    with air.host.popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            again = (
                "RUN for n in 1 2 3 4 5; do curl -fsS -o /page http://192.168.10.10:8088/app.sh && break; sleep 1; done"
            )
            air.write("Dockerfile", DOCKERFILE.replace("COPY app.sh /\n", f"{again}\nCOPY app.sh /\n"))
            air.build(platform="linux/amd64")
        finally:
            server.terminate()
    digest = hashlib.sha256(air.host.path("/root/app/app.sh").read_bytes()).hexdigest()
    assert f"{digest}  /page" in air.result()


def test_tapes_are_read_over_tls_with_a_login(air: Air) -> None:
    """And when the registry goes back to plain HTTP, so does the service."""
    air.write("Dockerfile", DOCKERFILE)
    for options in (("--tls", "--login"), ("--no-tls",)):
        assert air.bundle("install", *options)["registry"]["tls"] is ("--tls" in options)
        assert "type=registry,ref=localhost:5000/" in air.bundle("status")["caches"][0]
        said = air.build("--no-cache", platform="linux/amd64")
        assert [step for step in cached(said) if step.startswith("RUN")] == []
        assert air.result().startswith("six 1.16.0\n")
        assert air.bundle("doctor")["healthy"] is True


def test_uninstalling_leaves_nothing(air: Air) -> None:
    air.bundle("uninstall", "--data", "--yes")
    air.host.run("rm", "-rf", "/root/out")
    left = [line for line in air.state() if "/root/app" not in line]
    assert left == [line for line in air.before if "/root/app" not in line]  # type: ignore[attr-defined]
