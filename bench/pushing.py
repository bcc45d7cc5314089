"""The push phase of install: archive -> a registry that holds all tags, beside what others do for the same."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench.context import Context
from bench.measure import Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import chosen, scratch_registry
from tests.testbed.registry import fetch_manifest

OURS = "push of bundle install"

# $TARS has one OCI layout as a tar for each image; $TO is the registry.
_PEERS = {
    "regctl image import": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            $REGCTL image import $REG "$TO/library/${name%%_*}:${name##*_}" "$tar"
        done""",
    "tar -x + crane push": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            mkdir layout
            tar -xf "$tar" -C layout
            $CRANE push --insecure layout "$TO/library/${name%%_*}:${name##*_}" > /dev/null
            rm -r layout
        done""",
    "tar -x + skopeo copy": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            mkdir layout
            tar -xf "$tar" -C layout
            skopeo copy -q --all --preserve-digests --dest-tls-verify=false oci:layout \
                "docker://$TO/library/${name%%_*}:${name##*_}"
            rm -r layout
        done""",
}


def run(context: Context) -> Findings:
    images = chosen(context.quick)
    say(f"push: {', '.join(images)}")
    material = context.directory("material")
    archive = material / "offline.tar"
    context.create(images, archive)
    for image, source in zip(images, context.workload(images).sources):
        measure(
            ["sh", "-ec", f"$REGCTL image export --host reg={context.registry},tls=disabled {source} $0",
             material / f"{image.replace(':', '_')}.tar"],
            context.environment(material),
        )  # fmt: skip
    argv = [sys.executable, "-m", "bench.pushdriver", archive]
    runs: dict[str, Callable[[], Sample]] = {OURS: functools.partial(_push, context, images, argv)}
    for name, script in _PEERS.items():
        runs[name] = functools.partial(_push, context, images, ["sh", "-ec", script, "sh"])
    medians, failures = in_rounds(context.rounds, runs, say)
    size = archive.stat().st_size
    shutil.rmtree(material)
    table = Table(
        "push",
        f"{len(images)} images, two platforms, {megabytes(size)} MB, into an empty registry (distribution 3, which "
        f"syncs what it keeps) on loopback; medians of {context.rounds}, in turn. Ours takes the one archive and "
        "pushes each image under two names; the others take a tar for each image and push one name. `written` and "
        "`extra disk` are the client's; what the registry keeps is the same for all.",
        ("tool", "s", "ratio", "CPU s", "peak MB", "written MB", "extra disk MB"),
        [
            (name, f"{sample.seconds:.2f}", f"{sample.seconds / medians[OURS].seconds:.2f}", f"{sample.cpu:.2f}",
             megabytes(sample.memory), megabytes(sample.written), megabytes(sample.disk))
            for name, sample in medians.items()
        ] if OURS in medians else [],
    )  # fmt: skip
    ratios = []
    peers = {name: sample.seconds for name, sample in medians.items() if name != OURS}
    if OURS in medians and peers:
        ours = medians[OURS]
        fastest = min(peers, key=peers.__getitem__)
        ratio = peers[fastest] / ours.seconds
        ratios = [
            Ratio(f"push: fastest peer ({fastest}) / ours", "at least 1.5", f"{ratio:.2f}", ratio >= 1.5),
            Ratio("push: peak memory, MB", "under 100", megabytes(ours.memory), ours.memory < 100e6),
            Ratio("push: disk beyond the registry's data, MB", "0", megabytes(ours.disk), ours.disk < 1e6),
        ]
    return Findings([table], ratios, [f"{name}: {reason}" for name, reason in failures.items()])


def _push(context: Context, images: tuple[str, ...], argv: list[object]) -> Sample:
    storage = context.directory("registry")
    home = context.directory("run")
    material = context.scratch / "material"
    with scratch_registry(storage) as address:
        environment = {
            **context.environment(home),
            "TO": address,
            "REG": f"--host reg={address},tls=disabled",
            "TARS": " ".join(str(path) for path in sorted(material.glob("*_*.tar"))),
        }
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
        sample = measure([*argv, address], environment, home, home)
        _check(address, images)
    shutil.rmtree(storage)
    shutil.rmtree(home)
    return sample


def _check(address: str, images: tuple[str, ...]) -> None:
    """Raise Failed unless the registry has all tags."""
    for image in images:
        try:
            fetch_manifest(int(address.rpartition(":")[2]), *f"library/{image}".split(":"))
        except OSError as error:
            raise Failed(f"`{image}` is not in the registry afterwards: {error}") from None
