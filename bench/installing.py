"""The whole install on an air-gapped host, beside the manual procedure that it replaces."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from bench.context import Context
from bench.measure import Disk, Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import PLATFORMS, chosen, pairs
from tests.testbed import CommandError, Host, gotools

_SOURCE, _TARGET = 5556, 5000


def run(context: Context) -> Findings:
    images = ("debian:12",) if context.quick else chosen(quick=False)
    usb = context.directory("usb")
    archive = usb / "offline.tar"
    say(f"install: {', '.join(images)}")
    create = measure(
        [context.environment(usb)["BUNDLE"], "create", "-q", "-o", archive,
         "--mirror", f"docker.io={context.registry}", *images]
    )  # fmt: skip
    rounds = 1 if context.quick else 3
    installs, failures = in_rounds(rounds, {"install": lambda: _install(context)}, say)
    failures = {f"install: {reason}": "" for reason in failures.values()}
    manual: dict[str, float] = {}
    try:
        manual = _manual(context, images)
    except (CommandError, Failed, OSError) as error:
        failures[f"manual procedure: {error}"] = ""
    rows = [("bundle create, toolchain included", f"{create.seconds:.1f}")]
    rows += [
        ("python3 offline.tar install, smoke test included", f"{sample.seconds:.1f}") for sample in installs.values()
    ]
    rows += [(f"by hand: {step}", f"{seconds:.1f}") for step, seconds in manual.items()]
    table = Table(
        "the whole install",
        f"{', '.join(images)}, two platforms, {megabytes(archive.stat().st_size)} MB, on a fresh air-gapped host "
        f"(Docker 28); install is the median of {rounds}, the manual procedure ran once. By hand, nothing but the "
        "images is counted: its registry was already running, and no builder was made.",
        ("step", "s"),
        rows,
    )
    ratios = []
    if installs and manual:
        whole, install = sum(manual.values()), installs["install"].seconds
        offline = whole - manual["docker pull"] - manual["docker save"]
        ratios = [
            Ratio("the manual procedure / install", "at least 10", f"{whole / install:.1f}", whole >= 10 * install),
            Ratio("its offline half (load to manifest push) / install", "", f"{offline / install:.1f}", None),
            Ratio("the manual procedure / (create + install)", "", f"{whole / (create.seconds + install):.1f}", None),
            Ratio("install: peak memory, MB", "under 100", megabytes(installs["install"].memory),
                  installs["install"].memory < 100e6),
            Ratio("install: most that was ever in /tmp, MB", "0",
                  megabytes(installs["install"].disk), installs["install"].disk < 1e6),
        ]  # fmt: skip
    return Findings([table], ratios, list(failures))


def _install(context: Context) -> Sample:
    with Host(name="bench") as host:
        host.mount_in(context.scratch / "usb", "/usb", readonly=True)
        # There is no GNU time on the host; its Python can tell the peak of a child.
        script = (
            "import os,resource,subprocess,sys;"
            "code=subprocess.call(['python3','/usb/offline.tar','install','--yes','-q'],stdout=2);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);sys.exit(code)"
        )
        with Disk(host.path("/tmp")) as disk:
            begun = time.perf_counter()
            done = host.run("python3", "-c", script, timeout=600)
            seconds = time.perf_counter() - begun
    return Sample(seconds, 0.0, int(done.stdout.split()[-1]) * 1024, 0, disk.peak)


def _manual(context: Context, images: Sequence[str]) -> dict[str, float]:
    """Seconds for each step of the manual procedure, on one host that has both registries."""
    steps: dict[str, float] = {}
    with Host(name="bench-manual") as host:
        host.mount_in(context.storage, "/source")
        host.mount_in(gotools.REGISTRY.make(), "/usr/local/bin/registry-server")
        servers = [_serve(host, "/source", _SOURCE), _serve(host, "/target", _TARGET)]

        def step(name: str, *argv: str) -> None:
            begun = time.perf_counter()
            host.run(*argv, timeout=900)
            seconds = time.perf_counter() - begun
            steps[name] = steps.get(name, 0.0) + seconds

        host.run("mkdir", "-p", "/carry")
        try:
            for image, platform in pairs(images):
                say(f"  by hand: {image} for {platform}")
                alone = _alone(image, platform.architecture)
                source = f"localhost:{_SOURCE}/library/{image}"
                step("docker pull", "docker", "pull", "-q", "--platform", str(platform), source)
                host.run("docker", "tag", source, alone)
                step("docker save", "docker", "save", "-o", f"/carry/{alone.replace(':', '_')}.tar", alone)
            # The offline side begins with an empty engine.
            host.run("sh", "-c", "docker rmi -f $(docker images -q | sort -u)")
            for image, platform in pairs(images):
                alone = _alone(image, platform.architecture)
                step("docker load", "docker", "load", "-q", "-i", f"/carry/{alone.replace(':', '_')}.tar")
                step("docker tag", "docker", "tag", alone, f"localhost:{_TARGET}/{alone}")
                step("docker push", "docker", "push", "-q", f"localhost:{_TARGET}/{alone}")
            for image in images:
                name = f"localhost:{_TARGET}/{image}"
                parts = [f"localhost:{_TARGET}/{_alone(image, platform.architecture)}" for platform in PLATFORMS]
                step("docker manifest create", "docker", "manifest", "create", "--insecure", name, *parts)
                step("docker manifest push", "docker", "manifest", "push", "--insecure", name)
        finally:
            for server in servers:
                server.terminate()
                server.wait(10)
    return steps


def _alone(image: str, architecture: str) -> str:
    name, _, tag = image.partition(":")
    return f"{name}-{architecture}:{tag}"


def _serve(host: Host, storage: str, port: int) -> subprocess.Popen[str]:
    """A registry in the host."""
    host.path(f"/tmp/registry-{port}.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = host.path(f"/tmp/registry-{port}.log").open("w")
    server = host.popen(
        "/usr/local/bin/registry-server", "serve", f"/tmp/registry-{port}.yml", stdout=log, stderr=log,
        env={"OTEL_TRACES_EXPORTER": "none"},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    ask = ("python3", "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/v2/')")
    while host.run(*ask, check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the registry in the host does not answer at port {port}")
        time.sleep(0.2)
    return server
