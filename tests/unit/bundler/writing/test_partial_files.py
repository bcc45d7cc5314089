"""What an interrupted run has left is kept: by a late sync, and by a later run that is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bundler.writing import writer as writer_module
from bundler.writing.contents import Contents
from bundler.writing.journal import Journal
from bundler.writing.partial_files import Unfinished
from bundler.writing.running_hash import FrontierHasher
from bundler.writing.writer import ArchiveWriter
from bundles.errors import ArchiveError, DiskFullError, UsageError
from bundles.oci.digest import Digest
from tests.support.archives import Made, example, image, made


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


@pytest.fixture(scope="module")
def other() -> Contents:
    return made(image("other:1", seeds=(8, 9))).contents()


def interrupted(path: Path, sample: Made) -> dict[Digest, int]:
    """A run that ends when all layers are in place; gives what it claims."""
    with ArchiveWriter(path, sample.contents()) as writer:
        for layer in writer.layers:
            sink = writer.sink(layer)
            sink.write(memoryview(sample.layers[layer.digest]))
            assert sink.finish()
    return {layer.digest: layer.size for layer in writer.layers}


def claims(path: Path, sample: Made) -> dict[Digest, int]:
    """What the next run for the same bundle goes on from."""
    with ArchiveWriter(path, sample.contents()) as writer:
        return {layer.digest: writer.sink(layer).position for layer in writer.layers}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_sync_that_began_before_a_blob_grew_takes_nothing_back(tmp_path: Path) -> None:
    bundle, blob = Digest.of(b"bundle"), Digest.of(b"blob")
    journal = Journal(tmp_path / "journal", bundle)
    journal.begin()
    journal.written(blob, 1000)
    journal.synced({blob: 400})
    journal.close()
    assert Journal(tmp_path / "journal", bundle).claims == {blob: 1000}


def test_after_a_start_of_the_machine_only_what_was_synced_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, blob = Digest.of(b"bundle"), Digest.of(b"blob")
    journal = Journal(tmp_path / "journal", bundle)
    journal.begin()
    journal.written(blob, 1000)
    journal.synced({blob: 400})
    journal.close()
    monkeypatch.setattr("bundler.writing.journal.system.boot_id", lambda: "another")
    assert Journal(tmp_path / "journal", bundle).claims == {blob: 400}


def test_no_space_for_another_bundle_leaves_the_unfinished_one(
    sample: Made, other: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "offline.tar"
    done = interrupted(path, sample)
    before = contents(tmp_path)
    real = os.statvfs

    def full(place: Any) -> os.statvfs_result:
        values = list(real(place))
        values[4] = 0  # f_bavail
        return os.statvfs_result(values)

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", full)
        patched.setattr(writer_module, "disk_usage", lambda partials: 0)
        with pytest.raises(DiskFullError):
            ArchiveWriter(path, other)
    assert contents(tmp_path) == before
    assert claims(path, sample) == done


def test_a_refused_command_leaves_the_unfinished_bundle(sample: Made, other: Contents, tmp_path: Path) -> None:
    """The archive of before is there, its successor is unfinished, and somebody adds --split."""
    path = tmp_path / "offline.tar"
    made(image("other:1", seeds=(8, 9))).write(path, other)
    done = interrupted(path, sample)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is there, and parts beside it"):
        ArchiveWriter(path, sample.contents(), 30_000)
    assert contents(tmp_path) == before
    assert claims(path, sample) == done


def test_another_bundle_replaces_an_unfinished_one(sample: Made, other: Contents, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    interrupted(path, sample)
    with ArchiveWriter(path, other) as writer:
        assert {writer.sink(layer).position for layer in writer.layers} == {0}
    assert set(claims(path, sample).values()) == {0}


def test_a_finished_archive_that_cannot_be_written_keeps_its_name(
    sample: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample.write(tmp_path / "offline.tar").path
    before = contents(tmp_path)
    real = os.open

    def protected(place: Any, flags: int, *rest: Any) -> int:
        if Path(place) == path and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(place, flags, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", protected)
        with pytest.raises(UsageError, match="permission denied"):
            ArchiveWriter(path, sample.contents())
    assert contents(tmp_path) == before
    with ArchiveWriter(path, sample.contents()) as writer:
        assert all(writer.sink(layer).position == layer.size for layer in writer.layers)


def test_a_file_that_is_cut_by_another_program_is_an_error(sample: Made, tmp_path: Path) -> None:
    """What is said to be written is not there: that must not keep the hash busy for ever."""
    manifest = sample.contents().manifest
    layout = manifest.layout(len(manifest.to_bytes()))
    with Unfinished([tmp_path / "offline.tar"], [layout.size]) as files:
        hasher = FrontierHasher(files, layout)
        hasher.start()
        for entry in layout.entries:
            hasher.complete(entry)
        with pytest.raises(ArchiveError, match="was cut by another program"):
            hasher.result(b"")


def test_names_that_could_only_fail_in_the_end_are_refused_at_once(sample: Made, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "a.tar.sha256").mkdir()
    for name, message in (
        ("pipe.tar", "is a device, a pipe or a socket"),
        ("a.tar", "is a directory, and the checksums go there"),
        ("a" * 240, "is too long"),
        ("a" * 300, "is too long"),
        ("off-\udce4.tar", "cannot be printed"),
        ("off\n.tar", "cannot be printed"),
    ):
        with pytest.raises(UsageError, match=message):
            ArchiveWriter(tmp_path / name, sample.contents())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.sha256", "pipe.tar"]
