"""Short versions of the fault campaigns (tests/campaign), and media as they are: FAT32, and a stick that is pulled."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bundler.writing.writer import ArchiveWriter
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from tests.campaign import create, install, push
from tests.campaign.disks import Disk
from tests.support.archives import example

pytestmark = pytest.mark.e2e


def test_create_goes_on_after_every_kind_of_fault() -> None:
    with create.Campaign(seed=7) as campaign:
        outcomes = [campaign.run(kind) for kind in dict.fromkeys(create.KINDS)]
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert sum(outcome.ended for outcome in outcomes) >= 3


def test_push_goes_on_after_every_kind_of_fault() -> None:
    with push.Campaign(seed=7) as campaign:
        outcomes = [campaign.run(kind) for kind in dict.fromkeys(push.KINDS)]
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert sum(outcome.code != 0 for outcome in outcomes) >= 3


def test_install_goes_on_after_faults() -> None:
    with install.Campaign(seed=7) as campaign:
        kinds = ("SIGKILL", "registry crashes", "disk full", "medium pulled", "two at once")
        outcomes = [campaign.run(kind) for kind in kinds]
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert sum(outcome.hit for outcome in outcomes) >= 3


def test_a_disk_is_filled_though_others_write_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the campaigns do: between the look at what is free and the filling, an installation goes on writing."""
    with Disk(tmp_path / "small", 32 << 20) as disk:
        free = shutil.disk_usage(disk.mount_point).free
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free + (4 << 20)))
        filler = disk.fill(1 << 20)
        with pytest.raises(OSError, match="No space left"), (disk.mount_point / "more").open("wb") as file:
            file.write(bytes(1 << 20))
        filler.unlink()


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    """An image of a FAT32 file system of 1 GiB."""
    from tests.testbed import apt

    apt.install(("mtools", "dosfstools", "fusefat"))
    image = tmp_path / "fat.img"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.fat", "-F", "32", image], check=True, capture_output=True)
    yield image
    image.unlink()


def test_parts_on_a_real_fat32(fat: Path, tmp_path: Path) -> None:
    """Copied in, and out again: the same bytes."""
    with ArchiveWriter(tmp_path / "offline.tar", example().contents(), 30_000) as writer:
        for layer in writer.layers:
            sink = writer.sink(layer)
            sink.write(memoryview(example().layers[layer.digest]))
            assert sink.finish()
        files = [file.path for file in writer.finish().files]
    subprocess.run(["mcopy", "-i", fat, *files, tmp_path / "offline.tar.sha256", "::"], check=True)
    back = tmp_path / "back"
    back.mkdir()
    subprocess.run(["mcopy", "-n", "-i", fat, "::*", back], check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "offline.tar.sha256"], cwd=back, check=True)
    with Archive(back / files[-1].name) as archive:
        verify_archive(archive)
    assert [(back / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]


def test_an_archive_too_large_for_fat32_is_refused_before_anything_is_written(fat: Path, tmp_path: Path) -> None:
    mount = tmp_path / "usb"
    mount.mkdir()
    subprocess.run(["fusefat", "-o", "rw+", fat, mount], check=True, capture_output=True)
    try:
        contents = example().contents()
        huge = Descriptor(contents.manifest.blobs[-1].media_type, Digest.of(b"huge"), 5 << 30)
        manifest = dataclasses.replace(contents.manifest, blobs=(*contents.manifest.blobs, huge))
        large = dataclasses.replace(contents, manifest=manifest)
        with pytest.raises(UsageError, match="is a FAT file system, where a file has at most 4294967295") as caught:
            ArchiveWriter(mount / "offline.tar", large)
        assert caught.value.hint == "--split 4000MiB"
        with pytest.raises(UsageError, match="the largest part has 4294967296"):
            ArchiveWriter(mount / "offline.tar", large, 1 << 32)
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", mount], check=True)
