"""`bundle record` with a real engine: apt and https through the recorder, and nothing of it left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bundles.archive.tape.answer import Tape
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from tests.testbed import ORIGIN, Host, gotools, start_origin
from tests.testbed.online import docker_environment, online_engine

pytestmark = pytest.mark.e2e
BUNDLE = Path(sys.executable).parent / "bundle"
BUILDKIT = "moby/buildkit:buildx-stable-1"
# amd64 takes a package; both take a page over https, which the build's own ADD and a RUN ask for.
DOCKERFILE = """\
FROM debian:12
ARG TARGETARCH PAGE
ADD ${PAGE} /page
RUN [ $TARGETARCH != amd64 ] || { apt-get update && apt-get install -y --no-install-recommends hello; }
COPY Dockerfile /
"""
# Two targets, one on the other, that ask for the same lists of packages; what is doubled here must come out single.
BAKE = """\
target "lib" {
  dockerfile = "Dockerfile.lib"
  platforms = ["linux/amd64"]
}
target "app" {
  contexts = { base = "target:lib" }
  dockerfile-inline = <<EOT
FROM base
ARG NOTE
RUN [ "$NOTE" = '$${x}' ]
RUN apt-get update && apt-get install -y --no-install-recommends hello
EOT
  args = { NOTE = "$${x}" }
  platforms = ["linux/amd64"]
  tags = ["registry.invalid/app"]
  output = ["type=registry"]
  cache-from = ["type=registry,ref=registry.invalid/cache"]
}
target "remote" {
  context = "https://github.com/moby/buildkit.git"
}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Host]:
    start_origin()
    with online_engine() as host:
        yield host


@pytest.fixture
def environment(engine: Host, tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    return {**docker_environment(engine, tmp_path), "TMPDIR": str(scratch)}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text(DOCKERFILE)
    proxy = subprocess.run(
        [gotools.go_command(), "env", "GOPROXY"], capture_output=True, text=True, check=True
    ).stdout.partition(",")[0]
    page = f"{proxy.strip()}/golang.org/x/text/@v/v0.3.0.mod"
    options = ["--build-arg", f"PAGE={page}", "--mirror", f"docker.io={ORIGIN}", "--buildkit-image", BUILDKIT]
    return [str(BUNDLE), "record", str(tmp_path / "app"), "-o", str(tmp_path / "app.record"), *options, "--json"]


def blob(record: Path, digest: object) -> bytes:
    return (record / Digest(str(digest)).blob_path).read_bytes()


def left_behind(engine: Host, environment: Mapping[str, str]) -> list[str]:
    names = engine.run("docker", "ps", "-a", "--format", "{{.Names}}").stdout.split()
    names += engine.run("docker", "volume", "ls", "--format", "{{.Name}}").stdout.split()
    instances = Path(environment["DOCKER_CONFIG"]) / "buildx" / "instances"
    return [*names, *map(str, instances.glob("*")), *map(str, Path(environment["TMPDIR"]).iterdir())]


def test_a_build_is_recorded(engine: Host, environment: dict[str, str], command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    document: dict[str, Any] = json.loads(done.stdout)
    record = tmp_path / "app.record"
    assert json.loads((record / "record.json").read_bytes()).items() <= document.items()
    (image,) = document["images"]
    assert (image["reference"], image["platforms"]) == ("docker.io/library/debian:12", ["linux/amd64", "linux/arm64"])
    assert document["notes"] == []

    index = json.loads((record / "index.json").read_bytes())
    tapes, caches = (
        [entry for entry in index["manifests"] if entry["artifactType"] == kind]
        for kind in ("application/vnd.offline-bundle.tape.v1", "application/vnd.buildkit.cacheconfig.v0")
    )
    (tape_entry,), (cache_entry,) = tapes, caches
    tape = Tape.parse(blob(record, parse_manifest(blob(record, tape_entry["digest"])).config.digest))
    urls = [answer.url for answer in tape]
    assert any(url.endswith("/InRelease") for url in urls)
    assert len([url for url in urls if "/hello_" in url and url.endswith("_amd64.deb")]) == 1
    assert len([url for url in urls if url.endswith("v0.3.0.mod")]) == 1  # for two platforms, asked once
    assert not [url for url in urls if "/v2/" in url]
    assert all(Digest.of(blob(record, content.digest)) == content.digest for content in tape.contents)
    layers = parse_manifest(blob(record, cache_entry["digest"])).layers
    assert all(Digest.of(blob(record, layer.digest)) == layer.digest for layer in layers)
    assert left_behind(engine, environment) == []


def test_the_targets_of_a_bake_file_become_one_record(
    engine: Host, environment: dict[str, str], command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "app" / "docker-bake.hcl").write_text(BAKE)
    (tmp_path / "app" / "Dockerfile.lib").write_text("FROM debian:12\nRUN apt-get update\n")
    options = command[command.index("--mirror") :]
    what = [*command[:2], str(tmp_path / "app" / "docker-bake.hcl"), "app", "-o", str(tmp_path / "app.record")]
    done = subprocess.run([*what, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["notes"], document["platforms"]) == ([], ["linux/amd64"])
    assert [image["reference"] for image in document["images"]] == ["docker.io/library/debian:12"]
    described = [(build["name"], build["dockerfile"], len(build["steps"])) for build in document["builds"]]
    assert described == [("app", "docker-bake.hcl[app]", 2), ("lib", "Dockerfile.lib", 1)]
    record = tmp_path / "app.record"
    index = json.loads((record / "index.json").read_bytes())
    entries = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in index["manifests"]}
    assert list(entries) == ["tape", "cache-app", "cache-lib"]
    layers = {
        name: {layer.digest for layer in parse_manifest(blob(record, entry["digest"])).layers}
        for name, entry in entries.items()
    }
    # What the targets share is in the record once: the base image, and the step of the one in the other's cache.
    assert layers["cache-lib"] < layers["cache-app"]
    tape = Tape.parse(blob(record, parse_manifest(blob(record, entries["tape"]["digest"])).config.digest))
    assert [answer.url.rpartition("/")[2].partition("_")[0] for answer in tape if answer.url.endswith(".deb")] == [
        "hello"
    ]
    assert left_behind(engine, environment) == []


def test_an_interrupted_recording_goes_on(
    engine: Host, environment: dict[str, str], command: list[str], tmp_path: Path
) -> None:
    lines = tmp_path / "app.record" / "tape.jsonl"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while (
        process.poll() is None and time.monotonic() < end and (not lines.exists() or not lines.read_text().count("\n"))
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said[-8000:]
    assert left_behind(engine, environment) == []
    kept = {json.loads(line)["url"] for line in lines.read_text().splitlines()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    assert f"going on with {len(kept)} answers" in done.stderr
    assert json.loads(done.stdout)["answers"] > len(kept)
    assert not lines.exists()


def test_a_build_that_fails_says_so_and_leaves_nothing(
    engine: Host, environment: dict[str, str], command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "app" / "Dockerfile").write_text("FROM debian:12\nRUN exit 3\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the build failed (exit code 1)" in json.loads(done.stdout)["error"]["message"]
    assert "exit code: 3" in done.stderr
    assert left_behind(engine, environment) == []
