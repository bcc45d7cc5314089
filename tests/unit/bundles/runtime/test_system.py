"""What systems differ in: both bodies do the same, and that of Windows what only Windows asks for.

Here it runs over a made-up kernel32 (tests/support/fake_windows.py).
"""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, fake_windows


@pytest.fixture(params=["posix", "macos", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The part of each system; macOS has that of Linux, and less in `os`."""
    if request.param == "windows":
        return fake_windows.load(monkeypatch)[0]
    from bundles.runtime import posix

    if request.param == "macos":
        for name in ("preadv", "fdatasync", "posix_fadvise"):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(posix, "_FULL_SYNC", 51)  # which Linux does not know, as macOS on a drive of the network
        monkeypatch.setattr(posix, "_BOOT_ID", Path("/nowhere"))
    return posix


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_windows.load(monkeypatch)[0]


def names(module: str) -> dict[str, str]:
    """The public names of a module: functions with their arguments, and constants."""
    tree = ast.parse((ROOT / "bundles" / "runtime" / f"{module}.py").read_text())
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = f"{[argument.arg for argument in node.args.args]}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ""
    return {name: arguments for name, arguments in found.items() if not name.startswith("_")}


def test_both_systems_have_the_same_names() -> None:
    # Only Linux is asked for a table of mounts, by tests.
    assert {**names("windows"), "file_system": ""} == {**names("posix"), "file_system": ""}


def test_bytes_are_read_and_written_where_they_belong_from_any_thread(system: Any, tmp_path: Path) -> None:
    file = system.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    pieces = [bytes([number]) * 4096 for number in range(64)]

    def work(number: int) -> None:
        assert system.write_at(file, memoryview(pieces[number]), number * 4096) == 4096
        buffer = bytearray(4096)
        assert system.read_at(file, memoryview(buffer), number * 4096) == 4096
        assert buffer == pieces[number]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    system.sync_data(file)
    system.sync(file)
    system.forget(file, 0, 4096)
    system.sync_directory(tmp_path)
    assert system.read_at(file, memoryview(bytearray(10)), 64 * 4096 - 3) == 3
    assert system.read_at(file, memoryview(bytearray(10)), 64 * 4096) == 0
    os.close(file)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_what_is_appended_stands_at_the_end(system: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\n")
    file = system.open_file(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    system.read_at(file, memoryview(bytearray(2)), 0)
    os.write(file, b"two\n")
    os.close(file)
    assert path.read_bytes() == b"one\ntwo\n"


def test_one_has_the_lock_of_a_file(system: Any, tmp_path: Path) -> None:
    first, second = (system.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert system.lock(first)
    assert not system.lock(second)
    os.close(first)
    assert system.lock(second)
    os.close(second)


def test_one_has_the_lock_of_a_directory(system: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    first, second = system.open_directory(place), system.open_directory(place)
    assert system.lock(first)
    assert not system.lock(second)
    os.close(second)
    assert system.is_named(first, place)
    system.remove_directory(place, first)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_stays(system: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("here")
    file = system.open_directory(tmp_path)
    system.remove_directory(tmp_path, file)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(OSError, match="ad file descriptor"):
        os.fstat(file)


def test_an_open_file_gets_another_name_and_is_removed(system: Any, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_bytes(b"before")
    file = system.open_file(old, os.O_RDWR | os.O_CREAT)
    os.write(file, b"after")
    assert system.is_named(file, old)
    system.replace(old, new)
    assert not system.is_named(file, old)
    assert system.is_named(file, new)
    assert new.read_bytes() == b"after"
    new.unlink()
    assert not system.is_named(file, new)
    os.close(file)


def test_no_link_is_followed(system: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    (tmp_path / "other").symlink_to("directory")
    os.close(system.open_file(tmp_path / "link", os.O_RDONLY))
    for opened in (
        lambda: system.open_no_link(tmp_path / "link", os.O_RDWR),
        # Of a link to a directory Linux says that it is no directory.
        lambda: system.open_directory(tmp_path / "other"),
    ):
        with pytest.raises(OSError, match=r"symbolic links|ot a directory"):
            opened()


def test_what_is_there_is_not_made(system: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        system.open_file(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileNotFoundError):
        system.open_file(tmp_path / "none", os.O_RDONLY)


def test_a_file_takes_up_about_as_much_as_it_has(system: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert 100_000 <= system.allocated((tmp_path / "file").stat()) < 200_000


def test_a_boot_that_has_no_name_is_unknown(system: Any) -> None:
    assert system.boot_id()
    assert system.boot_id() == system.boot_id()


def test_names_that_windows_does_not_have(windows: Any) -> None:
    for name in ("a:b.tar", "what?.tar", "a*b", 'say "so".tar', "a\nb", "CON", "con.tar", "Nul.tar.gz", "COM1.tar",
                 "lpt\u00b9.tar", "dot.", "space ", "x" * 256):  # fmt: skip
        assert windows.forbidden(name), name
    for name in ("offline.tar", "console.tar", "com10.tar", ".hidden", "a b.tar", "\u65e5\u672c.tar", "x" * 255):
        assert windows.forbidden(name) is None, name


def test_names_that_linux_has(system: Any) -> None:
    assert system.forbidden("offline.tar") is None


def test_words_of_a_command(system: Any) -> None:
    assert system.quote("offline.tar") == "offline.tar"
    assert system.quote("my archive.tar") in ("'my archive.tar'", '"my archive.tar"')


@pytest.mark.parametrize(
    "text",
    [
        "R&D.tar",
        "a(1).tar",
        "a;b",
        "it's",
        "$HOME.tar",
        "a,b",
        "`a`",
        "a|b",
        "a^b",
        "a b\\",
        "a%b",
        'say "so"',
        'a\\"',
        "",
    ],
)
def test_words_that_windows_would_take_for_something_else(windows: Any, text: str) -> None:
    quoted = windows.quote(text)
    # What programs are started with there, of the same text with a blank, which is quoted for that.
    assert f" {quoted}" == f' "{subprocess.list2cmdline([" " + text])[2:]}'


def test_words_that_windows_takes_as_they_are(windows: Any) -> None:
    for text in (
        "offline.tar",
        r"C:\usb\offline.tar",
        "--to",
        "linux/amd64",
        "a=b",
        "debian:12@sha256:0",
        "\u65e5\u672c.tar",
    ):
        assert windows.quote(text) == text


def test_where_docker_keeps_things_on_windows(windows: Any) -> None:
    assert windows.certificates_name("harbor.corp:5000") == "harbor.corp5000"
    environment = {"HOME": "/c/Users/me", "USERPROFILE": "C:\\Users\\me"}
    assert str(windows.home(environment)) == "C:\\Users\\me"
    assert windows.DOCKER_ENGINE == "npipe:////./pipe/docker_engine"


def test_the_file_system_of_a_drive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    windows, kernel32 = fake_windows.load(monkeypatch)
    kernel32.file_system = "FAT32"
    assert windows.file_system(tmp_path) == "fat32"


def test_only_what_is_too_long_gets_the_long_form(windows: Any, tmp_path: Path) -> None:
    assert windows.full_path(tmp_path / "a.tar", 20) == tmp_path / "a.tar"
    long = tmp_path / ("x" * 100) / ("y" * 100) / ".." / "a.tar"
    assert str(windows.full_path(long, 20)) == f"\\\\?\\{tmp_path}/{'x' * 100}/a.tar"


def test_another_name_is_waited_for_while_a_scanner_has_the_file(
    windows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    real, refusals = Path.replace, [32, 5]

    def busy(path: Path, other: Path) -> Path:
        if refusals:
            error = PermissionError(errno.EACCES, "being used", str(path))
            error.winerror = refusals.pop()  # type: ignore[attr-defined]
            raise error
        return real(path, other)

    monkeypatch.setattr(Path, "replace", busy)
    windows.replace(source, target)
    assert target.read_bytes() == b"new"
    source.write_bytes(b"newer")
    refusals += [32] * 1000
    monkeypatch.setattr(windows, "_PATIENCE", 0.1)
    with pytest.raises(PermissionError):
        windows.replace(source, target)


def test_a_pipe_that_nobody_reads(system: Any) -> None:
    assert system.is_closed_pipe(BrokenPipeError())
    assert not system.is_closed_pipe(OSError(errno.ENOSPC, "full"))


def test_the_boot_of_a_mac_is_asked_of_sysctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bundles.runtime import posix

    program = tmp_path / "sysctl"
    program.write_text("#!/bin/sh\n[ \"$*\" = '-n kern.bootsessionuuid' ] && echo 1234-ABCD\n")
    program.chmod(0o755)
    monkeypatch.setattr(posix, "_BOOT_ID", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert subprocess.run(["sysctl", "-n", "x"], check=False).returncode == 1
    assert posix.boot_id() == "1234-ABCD"
