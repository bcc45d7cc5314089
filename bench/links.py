"""Create over a link with a long round trip, and over a slow one."""

from __future__ import annotations

import functools
import shutil

from bench.context import Context
from bench.link import link
from bench.measure import in_rounds, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import chosen, small
from bundler.writing.fetch import DEFAULT_WORKERS
from bundles.archive.reader import Archive

_ROUND_TRIP = 0.1
_RATE = 100e6 / 8
_WORKERS = (1, 2, 4, 8, 16)


def run(context: Context) -> Findings:
    return _far(context) + _slow(context) + _limited(context)


def _far(context: Context) -> Findings:
    count = 20 if context.quick else 100
    say(f"links: {_ROUND_TRIP * 1000:.0f} ms, {count} small images")
    out = context.directory("far")
    with link(context.registry, round_trip=_ROUND_TRIP) as address:
        runs = {
            str(workers): functools.partial(
                context.create, small(count), out / "offline.tar", "--workers", str(workers), registry=address
            )
            for workers in (_WORKERS[2:4] if context.quick else _WORKERS)
        }
        samples, failures = in_rounds(1, runs, say)
    shutil.rmtree(out)
    table = Table(
        "a link with 100 ms of latency",
        f"{count} small images: {2 * count} layers of 4 KB, and {5 * count} manifests and configs, which are resolved "
        "16 at a time whatever the workers.",
        ("workers", "s", "round trips of 100 ms"),
        [
            (name, f"{sample.seconds:.1f}", f"{sample.seconds / _ROUND_TRIP:.0f}")
            for name, sample in samples.items()
        ],
    )  # fmt: skip
    return Findings([table], (), [f"latency, {name} workers: {reason}" for name, reason in failures.items()])


def _slow(context: Context) -> Findings:
    images = ("debian:12",) if context.quick else ("debian:12", "gcc:12")
    say(f"links: 100 Mbit/s, {', '.join(images)}")
    out = context.directory("slow")
    archive = out / "offline.tar"
    with link(context.registry, rate=_RATE) as address:
        samples, failures = in_rounds(
            1, {"create": functools.partial(context.create, images, archive, registry=address)}, say
        )
    if failures:
        return Findings(failures=[f"100 Mbit/s: {failures['create']}"])
    with Archive(archive) as opened:
        size = opened.layout.program_offset
    shutil.rmtree(out)
    sample = samples["create"]
    excess = sample.seconds / (size / _RATE) - 1
    table = Table(
        "a link of 100 Mbit/s",
        "`bytes/bandwidth` counts the archive without the program behind the tar, which does not come over the link.",
        ("MB", "s", "bytes/bandwidth, s", "more"),
        [(megabytes(size), f"{sample.seconds:.2f}", f"{size / _RATE:.2f}", f"{100 * excess:.1f} %")],
    )
    ratio = Ratio("100 Mbit/s: time beyond bytes/bandwidth", "at most 3 %", f"{100 * excess:.1f} %", excess <= 0.03)
    return Findings([table], [ratio])


def _limited(context: Context) -> Findings:
    images = chosen(context.quick)
    say(f"links: 100 Mbit/s for each connection, {', '.join(images)}")
    out = context.directory("limited")
    archive = out / "offline.tar"
    with link(context.registry, rate=_RATE, each=True) as address:
        samples, failures = in_rounds(
            1, {"create": functools.partial(context.create, images, archive, registry=address)}, say
        )
    if failures:
        return Findings(failures=[f"100 Mbit/s for each connection: {failures['create']}"])
    with Archive(archive) as opened:
        size = opened.layout.program_offset
        largest = max(blob.size for blob in opened.manifest.blobs)
    shutil.rmtree(out)
    seconds, least = samples["create"].seconds, size / _RATE / DEFAULT_WORKERS
    table = Table(
        "a registry that gives each connection 100 Mbit/s",
        f"{DEFAULT_WORKERS} workers, each with a connection. The least is when all of them are busy to the end.",
        ("MB", "largest layer, MB", "s", "least, s", "more"),
        [
            (
                megabytes(size),
                megabytes(largest),
                f"{seconds:.2f}",
                f"{least:.2f}",
                f"{100 * (seconds / least - 1):.1f} %",
            )
        ],
    )
    return Findings([table])
