"""Writing an archive: the same bytes, no final name before the end, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from bundler.writing import writer as writer_module
from bundler.writing.writer import ArchiveWriter
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import BundleError, DiskFullError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from tests.support.archives import Made, example, image, made


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


@pytest.fixture
def archive(sample: Made, tmp_path: Path) -> Path:
    return sample.write(tmp_path / "offline.tar").path


def test_what_was_written_reads_back(sample: Made, archive: Path) -> None:
    with Archive(archive) as opened:
        verify_archive(opened)
        assert opened.manifest == sample.contents().manifest
        for blob in opened.manifest.blobs:
            data = b""
            reader = opened.open_blob(blob)
            while chunk := reader.read(1000):
                data += chunk
            assert Digest.of(data) == blob.digest
        root = opened.manifest.images[1].root
        found = [str(blob.digest) for blob in opened.walk(root)]
    assert len(found) == 1 + 2 * 3
    assert found[0] == str(root.digest)


def test_the_checksum_file_is_for_sha256sum(archive: Path) -> None:
    subprocess.run(["sha256sum", "-c", "offline.tar.sha256"], cwd=archive.parent, check=True, capture_output=True)


def test_the_reported_digests_are_those_of_the_bytes(sample: Made, tmp_path: Path) -> None:
    written = sample.write(tmp_path / "a.tar")
    data = written.path.read_bytes()
    assert written.files[0].sha256 == hashlib.sha256(data).hexdigest()
    assert written.size == len(data)
    with tarfile.open(written.path) as tar:
        assert str(written.digest) == "sha256:" + hashlib.sha256(_member(tar, "bundle.json")).hexdigest()


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file
    return file.read()


def test_order_is_fixed_and_layers_come_last_by_digest(sample: Made, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    first = ["oci-layout", "bundle.json.sha256", "bundle.json", "index.json", "manifest.json", "install.sh"]
    assert names[:6] == first
    layers = [digest.blob_path for digest in sorted(sample.layers)]
    assert names[-len(layers) :] == layers
    documents = names[6 : -len(layers)]
    assert documents == sorted(documents)


def test_index_json_names_every_image(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        index = json.loads(_member(tar, "index.json"))
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert names == ["docker.io/library/registry:3", "docker.io/library/debian:12", "ghcr.io/team/gcc:12"]


def test_docker_archive_has_the_registry_image_only(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        (entry,) = json.loads(_member(tar, "manifest.json"))
        assert entry["RepoTags"] == ["registry:3"]
        for name in (entry["Config"], *entry["Layers"]):
            assert "sha256:" + name[-64:] == str(Digest.of(_member(tar, name)))


def test_same_input_same_bytes_whatever_the_order_of_arrival(sample: Made, tmp_path: Path) -> None:
    first = sample.write(tmp_path / "a.tar").path.read_bytes()
    with ArchiveWriter(tmp_path / "b.tar", sample.contents()) as writer:
        layers = list(writer.layers)
        random.Random(7).shuffle(layers)
        sinks = {layer: writer.sink(layer) for layer in layers}
        for layer in layers:
            data = memoryview(sample.layers[layer.digest])
            for start in range(0, len(data), 3000):
                sinks[layer].write(data[start : start + 3000])
        assert all(sink.finish() for sink in sinks.values())
        written = writer.finish()
    assert (tmp_path / "b.tar").read_bytes() == first
    assert written.files[0].sha256 == hashlib.sha256(first).hexdigest()


def test_no_final_name_before_the_end_and_a_rerun_goes_on(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()) as writer:
        first, second = writer.layers[:2]
        sink = writer.sink(first)
        sink.write(memoryview(sample.layers[first.digest]))
        assert sink.finish()
        writer.sink(second).write(memoryview(sample.layers[second.digest])[:700])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["offline.tar.journal", "offline.tar.partial"]
    with ArchiveWriter(path, sample.contents()) as writer:
        assert writer.sink(first).position == first.size
    assert sample.write(path).files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]
    fresh = sample.write(tmp_path / "fresh.tar").path.read_bytes()
    assert path.read_bytes() == fresh


def test_the_middle_of_a_blob_is_resumed(sample: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_JOURNAL_STEP", 4096)
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()) as writer:
        layer = writer.layers[0]
        sink = writer.sink(layer)
        for start in range(0, 12_288, 4096):
            sink.write(memoryview(sample.layers[layer.digest])[start : start + 4096])
    with ArchiveWriter(path, sample.contents()) as writer:
        sink = writer.sink(layer)
        assert sink.position == 12_288
        sink.write(memoryview(sample.layers[layer.digest])[12_288:])
        assert sink.finish()


def test_a_lying_journal_costs_a_download_and_no_wrong_archive(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()) as writer:
        layer = writer.layers[0]
        writer.journal.written(layer.digest, layer.size)
    with ArchiveWriter(path, sample.contents()) as writer:
        sink = writer.sink(layer)
        assert not sink.finish()
        assert sink.position == 0
        sink.write(memoryview(sample.layers[layer.digest]))
        assert sink.finish()
    assert sample.write(path).files[0].sha256 == sample.write(tmp_path / "fresh.tar").files[0].sha256


def test_wrong_bytes_begin_again_and_the_file_hash_follows(sample: Made, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "offline.tar", sample.contents()) as writer:
        for layer in writer.layers:
            sink = writer.sink(layer)
            sink.write(memoryview(bytes(layer.size)))
            assert not sink.finish()
            sink.write(memoryview(sample.layers[layer.digest]))
            assert sink.finish()
        written = writer.finish()
    assert written.files[0].sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()


def test_a_finished_archive_is_not_fetched_again(sample: Made, tmp_path: Path) -> None:
    path = sample.write(tmp_path / "offline.tar").path
    data = path.read_bytes()
    with ArchiveWriter(path, sample.contents()) as writer:
        for layer in writer.layers:
            sink = writer.sink(layer)
            assert sink.position == layer.size
            assert sink.finish()
        writer.finish()
    assert path.read_bytes() == data
    assert sorted(file.name for file in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]


def test_of_a_damaged_finished_archive_only_the_damage_is_fetched_again(sample: Made, tmp_path: Path) -> None:
    path = sample.write(tmp_path / "offline.tar").path
    data = path.read_bytes()
    with Archive(path) as opened:
        offset = opened.layout.blob(opened.manifest.blobs[-1].digest).data_offset
    path.write_bytes(data[: offset + 9] + bytes([data[offset + 9] ^ 1]) + data[offset + 10 :])
    with ArchiveWriter(path, sample.contents()) as writer:
        *right, last = [writer.sink(layer) for layer in writer.layers]
        assert all(sink.finish() for sink in right)
        assert not last.finish()
        last.write(memoryview(sample.layers[last.descriptor.digest]))
        assert last.finish()
        writer.finish()
    assert path.read_bytes() == data


def test_another_plan_begins_anew(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()) as writer:
        layer = writer.layers[0]
        sink = writer.sink(layer)
        sink.write(memoryview(sample.layers[layer.digest]))
        assert sink.finish()
    other = made(image("debian:12", seeds=(5,)))
    other.write(path)
    with Archive(path) as opened:
        verify_archive(opened)


def test_two_writers_of_one_archive(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()), pytest.raises(BundleError, match="is being written by another"):
        ArchiveWriter(path, sample.contents())


def test_a_file_that_is_no_bundle_is_not_replaced(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "thesis.odt"
    path.write_bytes(b"years of work")
    with pytest.raises(UsageError, match="is not replaced"):
        ArchiveWriter(path, sample.contents())
    assert path.read_bytes() == b"years of work"
    assert list(tmp_path.iterdir()) == [path]


def test_no_space_is_seen_before_anything_is_written(
    sample: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        values = list(real(path))
        values[4] = 0  # f_bavail
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(DiskFullError, match="0 B free"):
        ArchiveWriter(tmp_path / "offline.tar", sample.contents())
    assert list(tmp_path.iterdir()) == []


def test_more_images_than_a_reader_takes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    contents = example().contents()
    (one, *_) = contents.manifest.images
    many = tuple(
        dataclasses.replace(one, reference=Reference.parse(f"team/app-{number}:1")) for number in range(40_000)
    )
    too_large = dataclasses.replace(contents, manifest=dataclasses.replace(contents.manifest, images=many))
    with pytest.raises(UsageError, match=r"40000 images make a bundle\.json of [0-9]+ bytes") as caught:
        ArchiveWriter(tmp_path / "offline.tar", too_large)
    assert caught.value.hint == "divide the images among several bundles"
    assert list(tmp_path.iterdir()) == []
