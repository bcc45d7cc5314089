"""What a file system can hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundles.runtime import posix
from bundles.runtime.filesystem import largest_file


def test_the_type_of_a_file_system_is_that_of_the_last_mount_on_the_way(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    usb = tmp_path / "my usb"
    usb.mkdir()
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"36 22 8:17 / {str(usb.resolve()).replace(' ', chr(92) + '040')} rw,nosuid shared:1 - vfat /dev/sdb1 rw\n"
    )
    assert posix.file_system(usb, mounts) == "vfat"
    assert posix.file_system(tmp_path, mounts) == "ext4"
    assert posix.file_system(usb, tmp_path / "none") == ""


@pytest.mark.parametrize(("kind", "limit"), [("vfat", 4_294_967_295), ("fat32", 4_294_967_295), ("ntfs", None)])
def test_fat_file_systems_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: int
) -> None:
    monkeypatch.setattr("bundles.runtime.filesystem.system.file_system", lambda directory: kind)
    assert largest_file(tmp_path) == limit
