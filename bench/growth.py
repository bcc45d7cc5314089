"""How cost grows: with the number of images, and with the number of workers."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench.context import BUNDLE, Context
from bench.measure import Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import chosen, scratch_registry, small

_COUNTS, _QUICK_COUNTS = (10, 100, 1000), (10, 100)
_WORKERS = (1, 2, 4, 8, 16)
_STEPS = ("create", "inspect", "verify", "push", "push again")


def run(context: Context) -> Findings:
    return _images(context) + _workers(context)


def _images(context: Context) -> Findings:
    """Small images, where what is done for each image is all there is."""
    counts = _QUICK_COUNTS if context.quick else _COUNTS
    found: dict[tuple[str, int], Sample] = {}
    failures: list[str] = []
    for count in counts:
        say(f"growth: {count} images")
        out = context.directory("growth")
        archive = out / "offline.tar"
        definition = out / "bundle.toml"
        names = ", ".join(f'"{name}"' for name in small(count))
        definition.write_text(f"images = [{names}]\n")
        storage = context.directory("registry")
        with scratch_registry(storage) as address:
            push = [sys.executable, "-m", "bench.pushdriver", archive, address]
            commands: dict[str, list[object]] = {
                "inspect": [BUNDLE, "inspect", archive], "verify": [BUNDLE, "verify", "-q", archive],
                "push": push, "push again": push,
            }  # fmt: skip
            environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
            runs: dict[str, Callable[[], Sample]] = {
                "create": functools.partial(context.create, (), archive, "-f", str(definition))
            }
            for name, argv in commands.items():
                runs[name] = functools.partial(measure, argv, environment)
            samples, failed = in_rounds(1, runs, say)
        found.update({(name, count): sample for name, sample in samples.items()})
        failures += [f"{count} images, {name}: {reason}" for name, reason in failed.items()]
        shutil.rmtree(out)
        shutil.rmtree(storage)
    rows, ratios = [], []
    for name in _STEPS:
        here = [found.get((name, count)) for count in counts]
        cells = [f"{sample.seconds:.2f} ({megabytes(sample.memory)} MB)" if sample else "-" for sample in here]
        slope = "-"
        last, before, first = here[-1], here[-2], here[0]
        if last and before and first and before.cpu > first.cpu:
            # CPU time, because it hardly depends on what else the machine does; without the fixed part.
            one = (before.cpu - first.cpu) / (counts[-2] - counts[0]) if len(counts) > 2 else before.cpu / counts[0]
            many = (last.cpu - before.cpu) / (counts[-1] - counts[-2])
            slope = f"{1000 * one:.1f} -> {1000 * many:.1f}"
            # Less than a millisecond is lost in the noise of one run.
            if len(counts) > 2 and one > 0.001:
                ratios.append(Ratio(f"{name}: CPU for each image, {counts[-1]} to {counts[-2]} images", "about 1",
                                    f"{many / one:.2f}", many / one < 1.3))  # fmt: skip
        rows.append((name, *cells, slope))
    table = Table(
        "growth: small images",
        "Two platforms each, one layer of 4 KB for each; seconds, and peak memory. The last column is the CPU time in "
        f"ms that one more image costs, up to {counts[-2]} images and from there to {counts[-1]}: equal when cost "
        "grows linearly.",
        ("command", *(f"{count} images" for count in counts), "ms for each image"),
        rows,
    )
    return Findings([table], ratios, failures)


def _workers(context: Context) -> Findings:
    images = chosen(context.quick)
    say("growth: workers")
    out = context.directory("workers")
    runs = {
        str(count): functools.partial(context.create, images, out / "offline.tar", "--workers", str(count))
        for count in _WORKERS
    }
    samples, failures = in_rounds(1 if context.quick else 3, runs, say)
    table = Table(
        "growth: workers",
        "`bundle create --workers N` of the large images from a registry on loopback: two cores are busy with two "
        "workers, more do not help there. What they do on a link with latency is below.",
        ("workers", "s", "CPU s", "peak MB"),
        [
            (name, f"{sample.seconds:.2f}", f"{sample.cpu:.2f}", megabytes(sample.memory))
            for name, sample in samples.items()
        ],
    )
    return Findings([table], (), [f"{name} workers: {reason}" for name, reason in failures.items()])
