"""The whole install on an air-gapped host, beside the manual procedure that it replaces."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.context import Context
from bench.measure import Disk, Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import PLATFORMS, chosen, pairs
from tests.testbed import Host, SetupError, binfmt_restore, binfmt_state, gotools

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
    steps: list[dict[str, float]] = []
    # The hosts' files stay until the end: for five minutes after a directory tree was deleted, ext4 is much slower at
    # making the next one.
    with ExitStack() as hosts:
        runs = {
            "install": lambda: _install(context, hosts),
            "by hand": lambda: _by_hand(context, images, hosts, steps),
        }
        samples, failures = in_rounds(context.rounds, runs, say)
    names = list(steps[0]) if steps else []
    manual = {name: statistics.median(each[name] for each in steps) for name in names}
    rows = [("bundle create, toolchain included", f"{create.seconds:.1f}")]
    rows += [
        (title, f"{samples[name].seconds:.1f}")
        for name, title in (
            ("install", "python3 offline.tar install, smoke test included"),
            ("by hand", "by hand, all of it"),
        )
        if name in samples
    ]
    rows += [(f"by hand: {step}", f"{seconds:.1f}") for step, seconds in manual.items()]
    table = Table(
        "the whole install",
        f"{', '.join(images)}, two platforms, {megabytes(archive.stat().st_size)} MB, on a fresh air-gapped host "
        f"(Docker 28); medians of {context.rounds}. By hand, nothing but the images is counted: its registry was "
        "already running, and no builder was made.",
        ("step", "s"),
        rows,
    )
    ratios = []
    if len(samples) == len(runs):
        whole, install = samples["by hand"].seconds, samples["install"]
        offline = whole - manual["docker pull"] - manual["docker save"]
        ratios = [
            Ratio("the manual procedure / install", "at least 10",
                  f"{whole / install.seconds:.1f}", whole >= 10 * install.seconds),
            Ratio("its offline half (load to manifest push) / install", "", f"{offline / install.seconds:.1f}", None),
            Ratio("the manual procedure / (create + install)", "",
                  f"{whole / (create.seconds + install.seconds):.1f}", None),
            Ratio("install: peak memory, MB", "under 100", megabytes(install.memory), install.memory < 100e6),
            Ratio("install: most that was ever in /tmp, MB", "0", megabytes(install.disk), install.disk < 1e6),
        ]  # fmt: skip
    return Findings([table], ratios, [f"{name}: {reason}" for name, reason in failures.items()])


@contextmanager
def _host(name: str, hosts: ExitStack) -> Iterator[Host]:
    """A fresh host. Its engine ends with the context, its files stay until `hosts` ends."""
    formats = binfmt_state()
    try:
        host = hosts.enter_context(Host(name=name))
        try:
            yield host
        finally:
            host.stop_docker()
    except SetupError as error:
        raise Failed(str(error)) from error
    finally:
        # Emulation is the machine's: the next host must not find it done.
        binfmt_restore(formats)


def _install(context: Context, hosts: ExitStack) -> Sample:
    with _host("bench", hosts) as host:
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


def _by_hand(context: Context, images: Sequence[str], hosts: ExitStack, all_steps: list[dict[str, float]]) -> Sample:
    """The manual procedure, from one host to another; the seconds of each step go to `all_steps`."""
    steps: dict[str, float] = {}
    carry = context.directory("carry")

    def step(host: Host, name: str, *argv: str) -> None:
        begun = time.perf_counter()
        host.run(*argv, timeout=900)
        steps[name] = steps.get(name, 0.0) + time.perf_counter() - begun

    with _host("bench-online", hosts) as host:
        host.mount_in(carry, "/carry", readonly=False)
        host.mount_in(context.storage, "/source")
        with _serving(host, "/source", _SOURCE):
            for image, platform in pairs(images):
                alone = _alone(image, platform.architecture)
                source = f"localhost:{_SOURCE}/library/{image}"
                step(host, "docker pull", "docker", "pull", "-q", "--platform", str(platform), source)
                host.run("docker", "tag", source, alone)
                step(host, "docker save", "docker", "save", "-o", f"/carry/{alone.replace(':', '_')}.tar", alone)
    with _host("bench-offline", hosts) as host:
        host.mount_in(carry, "/carry")
        with _serving(host, "/target", _TARGET):
            for image, platform in pairs(images):
                alone = _alone(image, platform.architecture)
                step(host, "docker load", "docker", "load", "-q", "-i", f"/carry/{alone.replace(':', '_')}.tar")
                step(host, "docker tag", "docker", "tag", alone, f"localhost:{_TARGET}/{alone}")
                step(host, "docker push", "docker", "push", "-q", f"localhost:{_TARGET}/{alone}")
            for image in images:
                name = f"localhost:{_TARGET}/{image}"
                parts = [f"localhost:{_TARGET}/{_alone(image, platform.architecture)}" for platform in PLATFORMS]
                step(host, "docker manifest create", "docker", "manifest", "create", "--insecure", name, *parts)
                step(host, "docker manifest push", "docker", "manifest", "push", "--insecure", name)
    all_steps.append(steps)
    return Sample(sum(steps.values()), 0.0, 0, 0)


def _alone(image: str, architecture: str) -> str:
    name, _, tag = image.partition(":")
    return f"{name}-{architecture}:{tag}"


@contextmanager
def _serving(host: Host, storage: str, port: int) -> Iterator[None]:
    """A registry in the host."""
    host.mount_in(gotools.REGISTRY.make(), "/usr/local/bin/registry-server")
    host.path(f"/tmp/registry-{port}.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = host.path(f"/tmp/registry-{port}.log").open("w")
    server = host.popen(
        "/usr/local/bin/registry-server", "serve", f"/tmp/registry-{port}.yml", stdout=log, stderr=log,
        env={"OTEL_TRACES_EXPORTER": "none"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        ask = ("python3", "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/v2/')")
        while host.run(*ask, check=False).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the registry in the host does not answer at port {port}")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(10)
