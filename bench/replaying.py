"""What replaying costs: `apt-get install` on an air-gapped host, beside the same from a mirror on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench.context import BUNDLE, Context
from bench.measure import Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bundler.definition.record import Record
from bundles.archive.tape.answer import Tape
from bundles.oci.image import parse_manifest
from tests.testbed import ORIGIN, Host, binfmt_restore, binfmt_state, start_origin
from tests.testbed.online import docker_environment, online_engine

_REPLAYED, _MIRRORED = "replayed", "from a mirror on loopback"
_MIRROR_PORT = 8080
# With what they need, the first are some 50 packages in debian:12.
_PACKAGES = {True: "hello", False: "build-essential"}
_DOCKERFILE = """\
FROM debian:12
RUN apt-get update && apt-get install -y --no-install-recommends {packages}
"""
_BUILD = "docker buildx build --builder {builder} --no-cache --platform linux/amd64 --progress plain {options} /app"


def run(context: Context) -> Findings:
    start_origin("bench")
    packages = _PACKAGES[context.quick]
    place = context.directory("replay")
    (place / "app").mkdir()
    (place / "app" / "Dockerfile").write_text(_DOCKERFILE.format(packages=packages))
    say(f"replay: debian:12 with {packages}")
    with online_engine("bench-online") as host:
        mirror = ["--mirror", f"docker.io={ORIGIN}"]
        environment = docker_environment(host, place)
        measure([BUNDLE, "record", "app", "--platform", "linux/amd64", *mirror, "-o", "app.record"], environment, place)
    create = measure([BUNDLE, "create", "--record", "app.record", *mirror, "-o", "offline.tar"], None, place)
    tape = _prepare(place)
    formats = binfmt_state()
    try:
        with Host(name="bench-replay") as host:
            host.mount_in(place, "/usb", readonly=True)
            host.run("python3", "/usb/offline.tar", "install", "-q", timeout=600)
            shutil.copytree(place / "app", host.path("/app"))
            with _mirror(host):
                runs = {
                    _REPLAYED: lambda: _build(host, "cross-builder", ""),
                    _MIRRORED: lambda: _build(
                        host, "mirrored", f"--build-arg http_proxy=http://127.0.0.1:{_MIRROR_PORT}"
                    ),
                }
                samples, failures = in_rounds(context.rounds, runs, say)
            memory = _peak(host, "bundle-replay")
    finally:
        binfmt_restore(formats)
    rows = [(name, f"{sample.seconds:.1f}") for name, sample in samples.items()]
    size = sum(content.size for content in tape.contents)
    count = sum(answer.url.endswith(".deb") for answer in tape)
    table = Table(
        "a step that is replayed",
        f"`apt-get update` and `apt-get install` of {packages}, {count} packages in all, {len(tape)} answers of "
        f"{megabytes(size)} MB, on an air-gapped host (Docker 28) for linux/amd64; medians of {context.rounds}. "
        "The mirror is a proxy on loopback that hands out the same files from the disk, without BuildKit's own proxy.",
        ("how", "s"),
        rows,
    )
    ratios = [
        Ratio("create with a record: peak memory, MB", "under 100", megabytes(create.memory), create.memory < 100e6)
    ]
    ratios.append(Ratio("the replay service: peak memory, MB", "under 100", megabytes(memory), memory < 100e6))
    if len(samples) == len(runs):
        beside = samples[_REPLAYED].seconds / samples[_MIRRORED].seconds
        ratios.insert(0, Ratio("replay / a mirror on loopback", "at most 1", f"{beside:.2f}", beside <= 1.0))
    return Findings([table], ratios, [f"replay, {name}: {reason}" for name, reason in failures.items()])


def _prepare(place: Path) -> Tape:
    """Write down which file of the record is behind each URL, for the mirror."""
    record = Record.read(place / "app.record")
    (content,) = record.tapes.values()
    tape = Tape.parse(content.read(parse_manifest(content.read(content.root)).config))
    files = {answer.url: f"/usb/app.record/{answer.content.digest.blob_path}" for answer in tape if answer.content}
    (place / "map.json").write_text(json.dumps(files))
    shutil.copy2(Path(__file__).with_name("mirror.py"), place)
    return tape


@contextlib.contextmanager
def _mirror(host: Host) -> Iterator[None]:
    """Serve the same contents, and make a builder that knows nothing of the replay."""
    host.path("/root/mirrored.toml").write_text(
        '[registry."localhost:5000"]\n  http = true\n[registry."docker.io"]\n  mirrors = ["localhost:5000"]\n'
    )
    image = "localhost:5000/moby/buildkit:buildx-stable-1"
    host.run("docker", "buildx", "create", "--name", "mirrored", "--driver", "docker-container", "--driver-opt",
             f"image={image}", "--driver-opt", "network=host", "--buildkitd-config", "/root/mirrored.toml",
             "--bootstrap")  # fmt: skip
    process = host.popen("python3", "/usb/mirror.py", str(_MIRROR_PORT), "/usb/map.json")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _build(host: Host, builder: str, options: str) -> Sample:
    begun = time.perf_counter()
    done = host.run("sh", "-c", _BUILD.format(builder=builder, options=options), check=False, timeout=600)
    if done.returncode:
        raise Failed(f"the build on {builder}: {done.stderr[-600:]}")
    return Sample(time.perf_counter() - begun, 0.0, 0, 0)


def _peak(host: Host, container: str) -> int:
    """The most memory that the first process of a container ever had, in bytes."""
    pid = host.run("docker", "inspect", "-f", "{{.State.Pid}}", container).stdout.strip()
    lines = host.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
