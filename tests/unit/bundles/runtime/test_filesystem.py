"""What a file system can hold."""

from __future__ import annotations

from pathlib import Path

from bundles.runtime.filesystem import largest_file


def test_fat_file_systems_are_recognised(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    usb = tmp_path / "my usb"
    usb.mkdir()
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"36 22 8:17 / {str(usb.resolve()).replace(' ', chr(92) + '040')} rw,nosuid shared:1 - vfat /dev/sdb1 rw\n"
    )
    assert largest_file(usb, mounts) == 4_294_967_295
    assert largest_file(tmp_path, mounts) is None
    assert largest_file(usb, tmp_path / "none") is None
