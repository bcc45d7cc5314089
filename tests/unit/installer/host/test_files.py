"""Files on the host: whole or not there, with the owner of their directory, one installation at a time."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from installer.host import files
from installer.host.files import read_json_file


def test_a_file_is_whole_and_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    files.write_atomically(path, [b"one", b"two"], 0o755)
    assert path.read_bytes() == b"onetwo"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def content() -> Any:
        yield b"half"
        raise HostError("the source failed")

    with pytest.raises(HostError, match="the source failed"):
        files.write_atomically(path, content(), 0o644)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12346)
    path = home / ".docker" / "cli-plugins" / "docker-buildx"
    files.write_atomically(path, [b"x"], 0o755)
    for place in (path, path.parent, path.parent.parent):
        assert (place.stat().st_uid, place.stat().st_gid) == (12345, 12346)


def test_one_installation_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "state" / "lock"
    program = f"from pathlib import Path; from installer.host import files\nwith files.lock(Path({str(place)!r})): pass"

    def other() -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr

    with files.lock(place):
        assert "BundleError: another `bundle install` is running" in other()
    assert other() == ""


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EROFS, "findmnt -T"), (errno.EACCES, "sudo chown $USER"), (errno.EIO, "ls -ld")]
)
def test_where_nothing_can_be_made_the_next_step_is_named(
    number: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    place = tmp_path / "a state" / "lock"
    with pytest.raises(HostError, match=os.strerror(number).lower()) as caught:
        files.write_atomically(place, [b"x"], 0o600)
    assert str(caught.value.hint).startswith(f"{hint} {tmp_path}")
    with pytest.raises(HostError, match=os.strerror(number).lower()) as caught, files.lock(place):
        pass
    assert str(caught.value.hint).startswith(f"{hint} {tmp_path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_lock_that_cannot_be_given_to_its_owner_is_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root in a home on NFS, where root is nobody."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    os.chown(tmp_path, 12345, 12345)
    monkeypatch.setattr(os, "fchown", refuse)
    with (
        pytest.raises(HostError, match=r"lock` cannot be written: operation not permitted"),
        files.lock(tmp_path / "lock"),
    ):
        pass


def test_a_full_disk_stays_one(tmp_path: Path) -> None:
    def content() -> Any:
        yield b"x"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(tmp_path / "file", content(), 0o600)


def test_a_lock_file_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "none" / "lock")
    with pytest.raises(HostError, match=r"lock` cannot be written: it is not a file"), files.lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "none").exists()


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "daemon.json").mkdir()
    with pytest.raises(HostError, match=r"daemon\.json"):
        read_json_file(tmp_path / "daemon.json")
    assert read_json_file(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(HostError, match="not valid JSON"):
        read_json_file(tmp_path / "bad.json")


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@only_root
def test_the_lock_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    with files.lock(tmp_path / "bundle" / "lock"):
        state = (tmp_path / "bundle" / "lock").stat()
    assert (state.st_uid, state.st_gid) == (12345, 12346)


@only_root
def test_a_link_in_the_place_of_the_lock_gives_nothing_away(tmp_path: Path) -> None:
    """Whoever owns the directory may put one there; root must not give its target to that user."""
    os.chown(tmp_path, 12345, 12346)
    target = Path("/var/tmp") / f"bundle-test-{os.getpid()}"
    target.write_text("root's own")
    try:
        for plant in (os.symlink, os.link):
            lock = tmp_path / plant.__name__
            try:
                plant(target, lock)
            except OSError:
                continue  # another file system
            if plant is os.symlink:
                with pytest.raises(HostError, match="it is not a file"), files.lock(lock):
                    pass
            else:
                with files.lock(lock):
                    pass
            assert (target.stat().st_uid, target.read_text()) == (0, "root's own")
    finally:
        target.unlink()


@only_root
def test_a_lock_that_is_there_keeps_its_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    (tmp_path / "lock").touch()
    with files.lock(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_uid == 0


@only_root
def test_a_directory_that_was_swapped_for_a_link_gives_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, target = tmp_path / "home", tmp_path / "root's"
    home.mkdir()
    target.mkdir()
    os.chown(home, 12345, 12346)
    make = Path.mkdir

    def swap(path: Path, *arguments: Any, **options: Any) -> None:
        make(path, *arguments, **options)
        path.rmdir()
        path.symlink_to(target)

    monkeypatch.setattr(Path, "mkdir", swap)
    with pytest.raises(HostError, match="cannot be written"):
        files.write_atomically(home / ".docker" / "file", [b"x"], 0o600)
    assert (target.stat().st_uid, list(target.iterdir())) == (0, [])


def test_a_temporary_file_that_somebody_planted_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    for plant in (os.link, os.symlink):
        plant(victim, tmp_path / ".file.partial")
        files.write_atomically(tmp_path / "file", [b"new"], 0o600)
        assert victim.read_bytes() == b"mine"
        assert (tmp_path / "file").read_bytes() == b"new"


def test_what_install_sh_made_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would know at the end that it was made for this program."""
    made = tmp_path / "home" / ".docker"
    made.mkdir(parents=True)
    assert files.missing_directories(made / "a") == [made / "a"]
    monkeypatch.setenv("BUNDLE_MADE", f"{made}\n{tmp_path / 'other'}\n")
    assert files.missing_directories(made / "a") == [made, made / "a"]
    files.write_atomically(made / "a" / "file", [b"x"], 0o600)
    assert (made / "a" / "file").read_bytes() == b"x"
