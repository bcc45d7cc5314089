"""Create: registry -> one synced, verified file with its SHA-256, beside what others do for the same."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.context import ONLY_IMAGES, Context
from bench.measure import Failed, Sample, in_rounds, measure, megabytes, say, total, used
from bench.report import Findings, Ratio, Table
from bench.workload import Workload, chosen

OURS, COPY = "bundle create", "cp"
_OURS = f"exec $BUNDLE create -q -o offline.tar --mirror $MIRROR {' '.join(ONLY_IMAGES)} $NAMES"

# Each writes one or more tars into the working directory. $IMAGES are the images with their registry.
_PEERS = {
    "regctl image export": """
        for image in $IMAGES; do $REGCTL image export $REG "$image" "$(basename "$image" | tr : -).tar"; done""",
    "regctl image copy + tar": """
        for image in $IMAGES; do
            $REGCTL image copy -v error $REG "$image" "ocidir://layout:$(basename "$image" | tr : -)" > /dev/null
        done
        tar -cf out.tar -C layout .""",
    "crane pull + tar": """
        $CRANE pull --insecure --format oci $IMAGES layout
        tar -cf out.tar -C layout .""",
    "oras cp + tar": """
        for image in $IMAGES; do
            name=$(basename "$image" | tr : -)
            $ORAS cp --no-tty --from-plain-http --to-oci-layout "$image" "layout:$name" > /dev/null
        done
        tar -cf out.tar -C layout .""",
    # An OCI layout cannot take Docker's own media types with their digests preserved: those images go to dir:.
    "skopeo copy + tar": """
        mkdir layout
        for image in $IMAGES; do
            name=$(basename "$image" | tr : -)
            to=oci:layout:$name
            case $name in eclipse-temurin-*) to=dir:layout/$name ;; esac
            skopeo copy -q --all --preserve-digests --src-tls-verify=false "docker://$image" "$to"
        done
        tar -cf out.tar -C layout .""",
}


def run(context: Context) -> Findings:
    """On a disk, and in memory where there is room for it: what the disk hides shows there."""
    workload = context.workload(chosen(context.quick))
    findings = _on(context, workload, context.scratch, "on disk", main=True)
    memory = Path("/dev/shm")
    reference = context.directory("reference")
    context.create(workload.images, reference / "offline.tar")
    size = used(reference)
    shutil.rmtree(reference)
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 * size:
        with_memory = context.directory(f"bench-{context.scratch.name}", memory)
        try:
            findings += _on(context, workload, with_memory, "in memory (tmpfs)", main=False)
        finally:
            shutil.rmtree(with_memory)
    return findings


@dataclasses.dataclass(frozen=True)
class _Run:
    """One way to make an archive, and what each of its steps cost in each round. Ours does all in one."""

    script: str
    fetches: list[Sample] = dataclasses.field(default_factory=list)
    syncs: list[Sample] = dataclasses.field(default_factory=list)
    hashes: list[Sample] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, context: Context, workload: Workload, place: Path) -> Sample:
        out = context.directory("run", place)
        environment = {
            **context.environment(out),
            "IMAGES": " ".join(workload.sources),
            "NAMES": " ".join(workload.images),
            "MIRROR": f"docker.io={workload.registry}",
            "REG": f"--host reg={workload.registry},tls=disabled",
        }

        def step(script: str, samples: list[Sample]) -> Sample:
            samples.append(measure(["sh", "-ec", script], environment, out, out))
            return samples[-1]

        whole = step(self.script, self.fetches)
        if self.script != _OURS:
            whole += step("sync *.tar", self.syncs) + step("sha256sum *.tar > SHA256", self.hashes)
        self.sizes.append(total(file.stat().st_size for file in out.glob("*.tar")))
        shutil.rmtree(out)
        return whole


def _on(context: Context, workload: Workload, place: Path, where: str, *, main: bool) -> Findings:
    say(f"create, {where}: {', '.join(workload.images)}")
    archive = context.directory("reference", place) / "offline.tar"
    context.create(workload.images, archive)
    content = archive.stat().st_size
    ways = {OURS: _Run(_OURS), **{name: _Run(script) for name, script in _PEERS.items()}}
    ways[COPY] = _Run(f"cp {archive} out.tar")
    medians, failures = in_rounds(
        context.rounds, {name: functools.partial(way, context, workload, place) for name, way in ways.items()}, say
    )
    shutil.rmtree(archive.parent)
    if OURS not in medians:
        raise Failed(failures[OURS])
    ours = medians[OURS]
    without = {name: sample.seconds - _middle(ways[name].hashes) for name, sample in medians.items()}
    rows = [
        (name, _cell(ways[name].fetches), _cell(ways[name].syncs), _cell(ways[name].hashes), f"{sample.seconds:.2f}",
         f"{sample.seconds / ours.seconds:.2f}", f"{without[name] / ours.seconds:.2f}", f"{sample.cpu:.2f}",
         megabytes(sample.memory), f"{sample.written / ways[name].sizes[-1]:.2f}",
         megabytes(max(0, sample.disk - ways[name].sizes[-1])), megabytes(ways[name].sizes[-1]))
        for name, sample in medians.items()
    ]  # fmt: skip
    table = Table(
        f"create, {where}",
        f"{len(workload.images)} images, two platforms, {megabytes(content)} MB in our archive; medians of "
        f"{context.rounds}, in turn. Ours verifies, syncs and hashes in the one command; for the others the sync of "
        "the result and its sha256sum are columns of their own. The two ratios say how many times longer than ours "
        "it took, with that sha256sum and without (ours always includes it). `written` is bytes written to files "
        "divided by the size of the result; `extra disk` is what was there at the worst moment beyond the result.",
        ("tool", "fetch s", "sync s", "sha256 s", "total s", "ratio", "ratio without sha256", "CPU s", "peak MB",
         "written", "extra disk MB", "result MB"),
        rows,
    )  # fmt: skip
    ratios = []
    peers = [name for name in medians if name in _PEERS]
    if peers:
        fastest = min(peers, key=lambda name: medians[name].seconds)
        ratio = medians[fastest].seconds / ours.seconds
        ratios.append(
            Ratio(f"create, {where}: fastest peer ({fastest}) / ours", "at least 2", f"{ratio:.2f}", ratio >= 2)
        )
        fastest = min(peers, key=without.__getitem__)
        ratio = without[fastest] / ours.seconds
        ratios.append(
            Ratio(f"create, {where}: fastest peer without its sha256sum ({fastest}) / ours", "", f"{ratio:.2f}", None)
        )
    if COPY in medians:
        limit = ours.seconds / medians[COPY].seconds
        ratios.append(
            Ratio(f"create, {where}: ours / (cp + sync + sha256sum)", "at most 1.2", f"{limit:.2f}", limit <= 1.2)
        )
    if main:
        extra = max(0, ours.disk - content)
        ratios += [
            Ratio("create: peak memory, MB", "under 100", megabytes(ours.memory), ours.memory < 100e6),
            Ratio("create: disk beyond the archive, MB", "0", megabytes(extra), extra < 1e6),
            Ratio("create: bytes written / archive", "", f"{ours.written / content:.3f}", None),
        ]
    return Findings([table], ratios, [f"create, {where}, {name}: {reason}" for name, reason in failures.items()])


def _middle(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.seconds for sample in samples) if samples else 0.0


def _cell(samples: Sequence[Sample]) -> str:
    return f"{_middle(samples):.2f}" if samples else "-"
