"""A tag that moved makes another bundle of the same command: what was downloaded before is not fetched again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.definition.spec import TOOLCHAIN
from bundler.writing import previous
from bundles.archive.layout import header
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.oci.descriptor import Descriptor
from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.images import noise

COMMAND = [sys.executable, "-c", "from bundles.cli.app import main; main()", "create", "--platform", "linux/amd64"]
WITHOUT = [f"--without={role}" for role in TOOLCHAIN]


def create(registry: FakeRegistry, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, f"{registry.host}/a:1", f"{registry.host}/b:1", *WITHOUT, "-o", "offline.tar", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=directory)


def layers(registry: FakeRegistry, manifest: Descriptor) -> list[Descriptor]:
    return registry.children(manifest)[1:]


@pytest.mark.parametrize("first", [(), ("--split", "7MB")], ids=["whole", "parts"])
@pytest.mark.parametrize("second", [(), ("--split", "5MB")], ids=["whole", "parts"])
def test_only_what_is_new_is_fetched(
    registry: FakeRegistry, tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    kept = registry.tag("a", "1", registry.image("linux/amd64", [noise(n, 3_000_000) for n in range(3)]))
    old = registry.tag("b", "1", registry.image("linux/amd64", [noise("old", 2_000_000)]))
    *_, failing = sorted((*layers(registry, kept), *layers(registry, old)), key=lambda layer: layer.digest)
    registry.fault("GET", f"/blobs/{failing.digest}", times=-1, status=403)
    assert create(registry, tmp_path, "--workers", "1", *first).returncode == 5
    there = [layer for layer in layers(registry, kept) if layer != failing]
    registry.faults.clear()
    registry.tag("b", "1", registry.image("linux/amd64", [noise("new", 2_000_000)]))
    registry.requests.clear()
    done = create(registry, tmp_path, *second)
    assert done.returncode == 0, done.stderr
    for layer in there:
        assert not registry.seen("GET", f"/blobs/{layer.digest}"), done.stderr
    assert "note: an interrupted run for another bundle has left" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "previous" in path.name or "partial" in path.name] == []
    with Archive(tmp_path / ("offline.tar.001" if second else "offline.tar")) as archive:
        verify_archive(archive)


def test_wrong_bytes_in_what_is_left_are_fetched(registry: FakeRegistry, tmp_path: Path) -> None:
    kept = registry.tag("a", "1", registry.image("linux/amd64", [noise(n, 3_000_000) for n in range(3)]))
    old = registry.tag("b", "1", registry.image("linux/amd64", [noise("old", 2_000_000)]))
    *_, failing = sorted((*layers(registry, kept), *layers(registry, old)), key=lambda layer: layer.digest)
    registry.fault("GET", f"/blobs/{failing.digest}", times=-1, status=403)
    assert create(registry, tmp_path, "--workers", "1").returncode == 5
    registry.faults.clear()
    partial = tmp_path / "offline.tar.partial"
    data = bytearray(partial.read_bytes())
    positions = [data.find(registry.data(layer)[:1000]) for layer in layers(registry, kept) if layer != failing]
    assert min(positions) > 0
    for position in positions:
        data[position + 500] ^= 1
    partial.write_bytes(data)
    registry.tag("b", "1", registry.image("linux/amd64", [noise("new", 2_000_000)]))
    done = create(registry, tmp_path)
    assert done.returncode == 0, done.stderr
    with Archive(tmp_path / "offline.tar") as archive:
        verify_archive(archive)


def test_without_room_for_both_the_old_one_goes(registry: FakeRegistry, tmp_path: Path) -> None:
    journal = tmp_path / "offline.tar.journal"
    digest = registry.blob("x", b"bundle").digest
    layer = registry.blob("x", b"layer").digest
    journal.write_text(f"bundle {digest} 7\nsynced {layer} 5\n")
    (tmp_path / "offline.tar.partial").write_bytes(b"content")
    other = registry.blob("x", b"other bundle").digest
    assert previous.set_aside(tmp_path / "offline.tar", other, 1 << 60) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar.journal", "offline.tar.partial"]
    previous.set_aside(tmp_path / "offline.tar", digest, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar.journal", "offline.tar.partial"]
    previous.set_aside(tmp_path / "offline.tar", other, 1)
    names = ["offline.tar.previous.journal", "offline.tar.previous.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    previous.discard(tmp_path / "offline.tar")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_of_no_use_and_no_obstacle(registry: FakeRegistry, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    data = b'{"format": 99}\n'
    digest, layer = registry.blob("x", data).digest, registry.blob("x", b"layer")
    left = tmp_path / "offline.tar.previous.partial"
    for content in (bytes(2048) + header("bundle.json", len(data)) + data, b"", b"x" * 5000):
        left.write_bytes(content)
        (tmp_path / "offline.tar.previous.journal").write_text(f"bundle {digest} 9000\nsynced {layer.digest} 5\n")
        found = previous.Leftover.of(path)
        assert found
        with found:
            assert found.size_of([layer]) == 0
