"""How long it takes until something happens: `bundle --help`, and `inspect` of a large archive."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from bench.context import BUNDLE, Context
from bench.measure import Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bundler.definition.spec import Spec
from bundler.writing.contents import Contents, compose
from bundler.writing.program import program
from bundles.archive.layout import (
    CHECKSUM_NAME,
    END_OF_TAR,
    MANIFEST_NAME,
    OCI_LAYOUT,
    OCI_LAYOUT_NAME,
    checksum_line,
    header,
)
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from tests.support.archives import AMD64, ARM64, image, made

_SIZE = 20 * 10**9
_LIMITS = {"bundle --help": 0.15, "python3 offline.tar inspect, 20 GB": 0.5}


def run(context: Context) -> Findings:
    archive = context.directory("startup") / "offline.tar"
    _write_sparse(archive)
    say(f"an archive of {archive.stat().st_size / 1e9:.0f} GB, sparse")
    commands: dict[str, list[object]] = {
        "bundle --help": [BUNDLE, "--help"],
        "python3 offline.tar inspect, 20 GB": [sys.executable, archive, "inspect"],
        # What there is to compare with: an interpreter that does nothing.
        "python3 -c pass": [sys.executable, "-c", "pass"],
    }
    runs = {name: (lambda argv=argv: measure(argv)) for name, argv in commands.items()}
    in_rounds(1, runs, lambda text: None)  # compiles what is not compiled yet
    samples, failures = in_rounds(max(5, 2 * context.rounds), runs, lambda text: None)
    rows = [
        (name, f"{sample.seconds:.3f}", f"{sample.cpu:.3f}", megabytes(sample.memory))
        for name, sample in samples.items()
    ]
    ratios = [_ratio(name, samples[name]) for name in _LIMITS if name in samples]
    table = Table("start-up", "", ("command", "s", "CPU s", "peak MB"), rows)
    return Findings([table], ratios, [f"{name}: {reason}" for name, reason in failures.items()])


def _ratio(name: str, sample: Sample) -> Ratio:
    return Ratio(f"{name}, s", f"under {_LIMITS[name]}", f"{sample.seconds:.3f}", sample.seconds < _LIMITS[name])


def _write_sparse(path: Path) -> None:
    """An archive in which everything is real but the content of its layers, which are holes."""
    few = made(*(image(f"image-{number}:1", seeds=(number, number + 1)) for number in range(0, 100, 2)))
    size = _SIZE // len(few.plan.layers)
    layers = tuple((Descriptor(layer.media_type, layer.digest, size), source) for layer, source in few.plan.layers)
    plan = dataclasses.replace(few.plan, layers=layers)
    contents = compose(Spec("large", (AMD64, ARM64), (AMD64,), (), {}, False), plan, program())
    _write(path, contents)


def _write(path: Path, contents: Contents) -> None:
    manifest = contents.manifest.to_bytes()
    layout = contents.manifest.layout(len(manifest))
    small = {
        OCI_LAYOUT_NAME: OCI_LAYOUT,
        CHECKSUM_NAME: checksum_line(Digest.of(manifest)),
        MANIFEST_NAME: manifest,
        **contents.files,
        **{digest.blob_path: data for digest, data in contents.documents.items()},
    }
    with path.open("wb") as file:
        for entry in layout.entries:
            file.seek(entry.offset)
            file.write(header(entry.name, entry.size) + small.get(entry.name, b""))
        file.seek(layout.end_of_entries)
        file.write(END_OF_TAR + contents.program)
