"""What a file system can hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import BundleError, UsageError
from bundles.runtime import posix
from bundles.runtime.filesystem import largest_file, partial_of, probe, replace_file, write_whole
from tests.support import fake_windows


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What files are written with, of each system."""
    if request.param == "posix":
        return posix
    windows = fake_windows.load(monkeypatch)[0]
    monkeypatch.setattr("bundles.runtime.filesystem.system", windows)
    return windows


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


def test_of_two_that_write_one_file_the_first_has_it(system: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def first() -> Iterator[bytes]:
        yield b"first"
        with pytest.raises(BundleError, match="is being written by another process"):
            replace_file(path, [b"second"])
        assert os.listdir(tmp_path) == [".file.partial"]  # noqa: PTH208
        yield b" and whole"

    replace_file(path, first())
    assert path.read_bytes() == b"first and whole"
    replace_file(path, [b"second"])
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_without_locks_the_last_has_it_and_the_first_is_told(
    system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "lock", lambda file: True)
    path = tmp_path / "file"

    def first() -> Iterator[bytes]:
        yield b"first"
        replace_file(path, [b"second"])

    with pytest.raises(BundleError, match="is being written by another process"):
        replace_file(path, first())
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "read-only", "link", "pipe"])
def test_what_is_in_the_way_is_removed_and_not_written_to(system: Any, tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"mine")
    temporary = partial_of(path)
    if kind == "link":
        temporary.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(temporary)
    else:
        os.link(other, temporary)
        temporary.chmod(0o400 if kind == "read-only" else 0o644)
    replace_file(path, [b"new"])
    assert path.read_bytes() == b"new"
    assert other.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_content_that_fails_leaves_the_file_as_it_was(system: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def content() -> Iterator[bytes]:
        yield b"half"
        raise BundleError("no more")

    with pytest.raises(BundleError, match="no more"):
        replace_file(path, content())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["app:1.tar", "con.tar", "x.", "x?.tar"])
def test_names_that_windows_does_not_have_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("bundles.runtime.filesystem.system", fake_windows.load(monkeypatch)[0])
    with pytest.raises(UsageError, match="Windows"):
        write_whole(tmp_path / name, [b"new"])
    assert list(tmp_path.iterdir()) == []
    # Of a path only the end is the file's name.
    write_whole(tmp_path / ".." / tmp_path.name / "app-1.tar", [b"new"])
    assert (tmp_path / "app-1.tar").read_bytes() == b"new"


@pytest.mark.parametrize(("name", "step"), [("my out", "mkdir -p 'my out'"), ("~/my out", "write '{home}/my out'")])
def test_a_directory_that_is_not_there_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        write_whole(Path(name) / "want.json", [b"x"])
    assert caught.value.message == f"the directory `{name}` does not exist"
    assert str(caught.value.hint).endswith(step.format(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_of_the_file_that_was_named(tmp_path: Path) -> None:
    def content() -> Iterator[bytes]:
        yield b"x"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as error:
        write_whole(tmp_path / "bundle.lock", content())
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "bundle.lock"))
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_be(tmp_path: Path) -> None:
    probe(tmp_path / "none")
    probe(tmp_path / "none" / "there")
    with pytest.raises(OSError, match="too long"):
        probe(tmp_path / ("x" * 300))
