"""What recording adds to a build: the same build in a builder of its own, without the recorder and with it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from bench.context import BUNDLE, Context
from bench.measure import Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bundler.definition.spec import TOOLCHAIN
from tests.testbed import ORIGIN, start_origin
from tests.testbed.online import docker_environment, online_engine

_PLAIN, _CACHED, _RECORD = "docker buildx build", "docker buildx build --cache-to", "bundle record"
_CACHE = "type=local,dest=cache,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd"
# Everything that `bundle record` does, too: a builder is made, used once and removed.
_BUILD = """
    docker buildx create --name bench --driver docker-container --bootstrap \\
        --driver-opt image=$BUILDKIT --driver-opt network=host --buildkitd-config buildkitd.toml > /dev/null
    trap 'docker buildx rm --force bench' EXIT
    docker buildx build --builder bench --platform $PLATFORMS $EXPORT app"""
# As many packages as a build of its own would take. apt asks for each of them.
_PACKAGES = {True: "hello", False: "build-essential python3-venv git"}
_ONE, _BOTH = "linux/amd64", "linux/amd64,linux/arm64"
# What is emulated takes its time: for both platforms, which is what `bundle record` builds for by itself, less does.
_PACKAGES_OF_BOTH = "git"
_DOCKERFILE = """\
FROM debian:12
RUN apt-get update && apt-get install -y --no-install-recommends {packages}
COPY Dockerfile /
"""


def run(context: Context) -> Findings:
    start_origin("bench")
    with online_engine("bench-record") as host:
        environment = {
            **docker_environment(host, context.directory("docker")), "BUILDKIT": TOOLCHAIN["buildkit"]
        }  # fmt: skip
        make = functools.partial(_run, context, environment, _ONE, _PACKAGES[context.quick])
        say(f"record: debian:12 with {_PACKAGES[context.quick]}")
        make(_PLAIN)  # Docker pulls BuildKit
        samples, failures = in_rounds(
            context.rounds, {name: functools.partial(make, name) for name in (_PLAIN, _CACHED, _RECORD)}, say
        )
        found = json.loads((context.scratch / "run" / "record.json").read_text()) if _RECORD in samples else {}
        both, failures_of_both = _for_both(context, environment)
        failures.update({f"{name}, both platforms": reason for name, reason in failures_of_both.items()})
    if _PLAIN not in samples:
        raise Failed(failures[_PLAIN])
    alone = samples[_PLAIN]
    rows = [
        (name, f"{sample.seconds:.1f}", f"{sample.seconds / alone.seconds:.2f}", f"{sample.cpu:.1f}",
         megabytes(sample.memory))
        for name, sample in samples.items()
    ]  # fmt: skip
    table = Table(
        "a build that is recorded",
        f"`apt-get install` of {_PACKAGES[context.quick]} in debian:12 for linux/amd64 from this machine's package "
        f"registry: {found.get('answers')} answers, {megabytes(found.get('size', 0))} MB, a cache of "
        f"{megabytes(found.get('cacheSize', 0))} MB. Each makes a builder, uses it once and removes it; medians of "
        f"{context.rounds}, in turn. CPU and memory are those of the command, without BuildKit's.",
        ("command", "s", "ratio", "CPU s", "peak MB"),
        rows,
    )
    ratios = []
    if _RECORD in samples:
        recorded = samples[_RECORD]
        more = recorded.seconds / alone.seconds
        ratios = [
            Ratio("record / the build alone", "under 1.2", f"{more:.2f}", more < 1.2),
            Ratio("record: peak memory, MB", "under 100", megabytes(recorded.memory), recorded.memory < 100e6),
        ]
    if _RECORD in samples and _CACHED in samples:
        beside = samples[_RECORD].seconds / samples[_CACHED].seconds
        ratios.insert(1, Ratio("record / the build that exports its cache", "", f"{beside:.2f}", None))
    if len(both) > 1:
        more = both[_RECORD].seconds / both[_PLAIN].seconds
        what = "record / the build alone, both platforms"
        ratios.append(Ratio(what, "under 1.2", f"{more:.2f}", more < 1.2))
    tables = [table, _table_of_both(context, both)]
    return Findings(tables, ratios, [f"record, {name}: {reason}" for name, reason in failures.items()])


def _for_both(context: Context, environment: dict[str, str]) -> tuple[dict[str, Sample], dict[str, str]]:
    make = functools.partial(_run, context, environment, _BOTH, _PACKAGES_OF_BOTH)
    say(f"record: debian:12 with {_PACKAGES_OF_BOTH}, {_BOTH}")
    runs = {name: functools.partial(make, name) for name in (_PLAIN, _RECORD)}
    return in_rounds(_rounds_of_both(context), runs, say)


def _rounds_of_both(context: Context) -> int:
    return (context.rounds + 1) // 2


def _table_of_both(context: Context, samples: dict[str, Sample]) -> Table:
    return Table(
        "a build for two platforms that is recorded",
        f"`apt-get install` of {_PACKAGES_OF_BOTH} in debian:12 for {_BOTH}, the second one emulated; medians of "
        f"{_rounds_of_both(context)}, in turn.",
        ("command", "s"),
        [(name, f"{sample.seconds:.1f}") for name, sample in samples.items()],
    )


def _run(context: Context, environment: dict[str, str], platforms: str, packages: str, name: str) -> Sample:
    """Build in an empty directory."""
    place = context.directory("run")
    (place / "app").mkdir()
    (place / "app" / "Dockerfile").write_text(_DOCKERFILE.format(packages=packages))
    if name == _RECORD:
        return _record(place, environment, platforms)
    (place / "buildkitd.toml").write_text(
        f'[registry."docker.io"]\n  mirrors = ["{ORIGIN}"]\n[registry."{ORIGIN}"]\n  http = true\n  insecure = true\n'
    )
    export = f"--cache-to {_CACHE}" if name == _CACHED else ""
    return measure(["sh", "-ec", _BUILD], {**environment, "EXPORT": export, "PLATFORMS": platforms}, place)


def _record(place: Path, environment: dict[str, str], platforms: str) -> Sample:
    script = 'exec "$0" record app --platform "$2" --mirror "docker.io=$1" --json > record.json'
    return measure(["sh", "-ec", script, BUNDLE, ORIGIN, platforms], environment, place)
