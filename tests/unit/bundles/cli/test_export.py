"""`bundle export`: a file whole or none, the same bytes each time, and nothing overwritten."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.writing.program import program
from bundles.archive.manifest import File
from bundles.archive.reader import Archive
from bundles.oci.digest import Digest
from bundles.runtime import filesystem
from tests.support import ROOT, fake_windows
from tests.support.archives import example, image, made
from tests.support.program import bundle, bundle_here

ONE = ("--platform", "linux/amd64")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example().write(tmp_path_factory.mktemp("usb") / "offline.tar").path


@pytest.fixture
def archive(made_once: Path, tmp_path: Path) -> Path:
    """The archive, in the directory where commands run, which has nothing else."""
    path = tmp_path / "offline.tar"
    path.write_bytes(made_once.read_bytes())
    return path


def left(archive: Path) -> list[str]:
    """What is in the directory besides the archive."""
    return sorted(path.name for path in archive.parent.iterdir() if path != archive)


def refused(archive: Path, *arguments: object, code: int = 2) -> str:
    done = bundle_here("export", archive, *arguments, cwd=archive.parent)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_file_that_docker_loads(archive: Path) -> None:
    command = ("export", archive, "debian:12", "--to", "docker-archive:debian.tar", *ONE, "--json")
    done = bundle_here(*command, cwd=archive.parent)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    path = archive.parent / "debian.tar"
    with Archive(archive) as opened:
        content = next(each for each in opened.manifest.images if each.reference.familiar == "debian:12").platforms[0]
        config = opened.read_image(content.manifest).config
        assert document == {
            "archive": str(archive),
            "bundle": str(opened.digest),
            "format": "docker-archive",
            "file": "debian.tar",
            "size": path.stat().st_size,
            "written": True,
            "images": [
                {
                    "reference": "docker.io/library/debian:12",
                    "role": "base",
                    "name": "docker.io/library/debian:12",
                    "digest": str(content.manifest.digest),
                    "platforms": ["linux/amd64"],
                    "id": str(config.digest),
                }
            ],
            "notes": [],
        }
    with tarfile.open(path) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert (entry["RepoTags"], entry["Config"]) == (["debian:12"], config.digest.blob_path)
    assert left(archive) == ["debian.tar"]
    # Again it has nothing to do, and what it would write is what is there.
    before = path.stat()
    again = json.loads(bundle_here(*command, cwd=archive.parent).stdout)
    assert again == {**document, "written": False}
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_people_are_shown(archive: Path) -> None:
    done = bundle_here("export", archive, "debian", "--to", "docker-archive:a b.tar", *ONE, cwd=archive.parent)
    assert done.returncode == 2
    done = bundle_here("export", archive, "debian:12", "--to", "docker-archive:a b.tar", *ONE, cwd=archive.parent)
    assert done.stdout.splitlines()[0] == "a b.tar: 26.5 KiB, docker-archive"
    assert done.stdout.splitlines()[-1] == "next: docker load -i 'a b.tar'"
    done = bundle_here("export", archive, "ghcr.io/team/gcc:12", "--to", "oci-archive:gcc.tar", cwd=archive.parent)
    assert "linux/amd64, linux/arm64" in done.stdout
    assert "note: ghcr.io/team/gcc:12: its index lists linux/arm/v7 too, and that is not in the file" in done.stdout
    quiet = bundle_here(
        "export", archive, "debian:12", "--to", "oci-archive:q.tar", "-q", "--log-file", "log", cwd=archive.parent
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "export debian:12: " in (archive.parent / "log").read_text()


def test_stdout_gets_the_same_bytes_and_nothing_else(archive: Path) -> None:
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", "export", archive, "debian:12", *ONE]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "--to", "docker-archive:-"], env=environment, check=True, capture_output=True)
    assert bundle_here(*command[3:], "--to", "docker-archive:file.tar", cwd=archive.parent).returncode == 0
    assert done.stdout == (archive.parent / "file.tar").read_bytes()
    assert b"stdout: 26.5 KiB, docker-archive" in done.stderr
    assert (
        "cannot both go to stdout"
        in json.loads(
            bundle_here("export", archive, "debian:12", "--to", "docker-archive:-", "--json", cwd=archive.parent).stdout
        )["error"]["message"]
    )
    # A reader that has gone ends it, and is told nothing.
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(
        [*command, "-q", "--to", "docker-archive:-"],
        env=environment, check=False, stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (1, b"")


def test_a_terminal_is_not_written_to(archive: Path) -> None:
    terminal, other = pty.openpty()
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", "export", str(archive), "debian:12"]
    done = subprocess.run(
        [*command, "--to", "docker-archive:-", *ONE],
        env={"PYTHONPATH": str(ROOT)}, stdout=other, stderr=subprocess.PIPE, check=False, text=True,
    )  # fmt: skip
    os.close(other)
    os.close(terminal)
    assert done.returncode == 2
    assert "stdout is a terminal" in done.stderr


@pytest.mark.parametrize(
    ("target", "message", "step"),
    [
        ("debian.tar", "is not known", "--to docker-archive:debian.tar"),
        ("oci:debian", "is not known", "--to oci-archive:debian"),
        ("oci-archive:", "names no file", "--to oci-archive:image.tar"),
        ("oci-archive:usb/", "the directory `usb` does not exist", "mkdir -p usb"),
        ("oci-archive:~/my images/a.tar", "the directory `~/my images` does not exist", "write '{home}/my images'"),
    ],
)
def test_a_target_that_is_none_has_a_next_step(archive: Path, target: str, message: str, step: str) -> None:
    said = refused(archive, "debian:12", "--to", target, *ONE)
    assert message in said
    assert said.endswith(f"{step.format(home=archive.parent)}\n")
    assert left(archive) == []


def test_a_stdout_that_is_closed_is_not_written_to(archive: Path) -> None:
    program = "from bundles.cli.app import main; main()"
    line = f"{sys.executable} -c '{program}' export {archive} debian:12 --to oci-archive:- >&-"
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", line], cwd=archive.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: stdout is closed\n  next: name a file: --to oci-archive:FILE")
    assert left(archive) == []


def test_the_archive_that_runs_need_not_be_named(tmp_path: Path) -> None:
    sample = made(image("debian:12"), image("gcc:12", seeds=(3,)))
    contents = sample.contents()
    data = program()
    manifest = dataclasses.replace(contents.manifest, program=File("program.zip", Digest.of(data), len(data)))
    path = sample.write(tmp_path / "offline.tar", dataclasses.replace(contents, manifest=manifest, program=data)).path
    (tmp_path / "other.tar").write_bytes(path.read_bytes())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "offline.tar", "export", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    for number, names in enumerate((["debian:12"], ["gcc:12", "debian:12"], ["other.tar", "debian:12"])):
        done = run(*names, "--to", f"oci-archive:{number}.tar", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        wanted = [name for name in names if name != "other.tar"]
        assert [each["reference"].rpartition("/")[2] for each in document["images"]] == wanted
        assert document["archive"] == ("other.tar" if "other.tar" in names else str(path))
    assert "python3 offline.tar export IMAGE --to" in run("--to", "oci-archive:x.tar").stderr
    assert "did you mean `debian:12`?" in run("debian:13", "--to", "oci-archive:x.tar").stderr


def test_parts_are_read_where_they_are(archive: Path, tmp_path: Path) -> None:
    sample = example()
    (tmp_path / "parts").mkdir()
    sample.write(tmp_path / "parts" / "offline.tar", split=64 << 10)
    for name, source in (("a.tar", archive), ("b.tar", tmp_path / "parts" / "offline.tar.001")):
        done = bundle_here("export", source, "debian:12", "--to", f"oci-archive:{name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["debian:12", "--to", "debian.tar"], "expected docker-archive:FILE or oci-archive:FILE"),
        (["debian:12", "--to", "docker-archive:"], "expected docker-archive:FILE or oci-archive:FILE"),
        (["debian:12", "--to", "oci:directory"], "expected docker-archive:FILE or oci-archive:FILE"),
        (
            ["debian:12", "--to", "docker-archive:x.tar:debian:12"],
            "next: the same command with --to docker-archive:x.tar\n",
        ),
        (["debian:12", "--to", "oci-archive:x.tar:team/app"], "images keep the names that they have in the archive"),
        (["debian:12", "--to", "docker-archive:-:debian:12"], "next: the same command with --to docker-archive:-\n"),
        (["debian:12"], "missing option"),
        (["--to", "oci-archive:x.tar"], "the image is missing"),
        (["debian:12", "--to", "oci-archive:x.tar", "--platform", "linux"], "names no architecture"),
        (["debian:12", "--to", "oci-archive:nowhere/x.tar"], "next: mkdir -p nowhere"),
        (["debian:12", "--to", "oci-archive:."], "is a directory"),
        (["debian:12", "--to", "oci-archive:/dev/null"], "`/dev/null` is a device, a pipe or a socket"),
        (["debian:12", "--to", "docker-archive:x.tar"], "next: the same command with --platform linux/amd64"),
        (["debian:12", "--to", f"docker-archive:{'x' * 300}", *ONE], "cannot be written: file name too long"),
    ],
)
def test_what_cannot_be_meant_is_refused(archive: Path, arguments: list[str], said: str) -> None:
    assert said in refused(archive, *arguments)
    assert left(archive) == []


@pytest.mark.parametrize("name", ["12:30.tar", "a:b/x", "a:b/x.tar", "x:Y Z", "x:"])
def test_a_colon_may_be_in_the_name_of_a_file(archive: Path, name: str) -> None:
    (archive.parent / "a:b").mkdir()
    done = bundle_here("export", archive, "debian:12", "--to", f"oci-archive:{name}", cwd=archive.parent)
    assert done.returncode == 0, done.stderr
    assert (archive.parent / name).is_file()


def test_a_name_that_windows_does_not_have_is_refused_before_anything_is_read(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "system", fake_windows.load(monkeypatch)[0])
    said = refused(archive, "none:1", "--to", "oci-archive:con.tar")
    assert "`con.tar` cannot be written: Windows has a device of that name" in said
    assert "next: name another file after --to" in said
    said = refused(archive, "none:1", "--to", "oci-archive:x.tar", "--log-file", "nul")
    assert "next: choose another --log-file" in said
    assert left(archive) == []


def test_what_is_there_is_not_overwritten(archive: Path) -> None:
    (archive.parent / "mine.tar").write_bytes(b"mine")
    (archive.parent / "link.tar").symlink_to("offline.tar")
    before = archive.read_bytes()
    for name, said in (
        ("mine.tar", "exists and is not what would be written"),
        ("offline.tar", "is the archive itself"),
        ("link.tar", "is the archive itself"),
    ):
        assert said in refused(archive, "debian:12", "--to", f"oci-archive:{name}")
    # The same size, and one bit that is another.
    assert bundle_here("export", archive, "debian:12", "--to", "oci-archive:x.tar", cwd=archive.parent).returncode == 0
    data = bytearray((archive.parent / "x.tar").read_bytes())
    data[-3000] ^= 1
    (archive.parent / "x.tar").write_bytes(data)
    assert "next: name another file after --to, or rm x.tar" in refused(
        archive, "debian:12", "--to", "oci-archive:x.tar"
    )
    assert (archive.parent / "x.tar").read_bytes() == data
    assert (archive.parent / "mine.tar").read_bytes() == b"mine"
    assert archive.read_bytes() == before
    assert left(archive) == ["link.tar", "mine.tar", "x.tar"]


def test_what_another_process_writes_meanwhile_is_not_overwritten(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive.parent / "x.tar"

    def meanwhile(directory: Path) -> int:
        path.write_bytes(b"mine")
        return 1 << 40

    monkeypatch.setattr("bundles.cli.export.free_space", meanwhile)
    said = refused(archive, "debian:12", "--to", "oci-archive:x.tar", code=1)
    assert "`x.tar` has been written by another process meanwhile" in said
    assert path.read_bytes() == b"mine"
    assert left(archive) == ["x.tar"]


def test_a_damaged_layer_leaves_no_file(archive: Path) -> None:
    with Archive(archive) as opened:
        damaged = opened.manifest.images[-1]
        name, content = damaged.reference.familiar, damaged.platforms[-1]
        platform = str(content.platform)
        layer = opened.read_image(content.manifest).layers[-1]
        place = opened.layout.blob(layer.digest).data_offset + layer.size - 1
    data = bytearray(archive.read_bytes())
    data[place] ^= 1
    archive.write_bytes(data)
    for form, platforms in (("docker-archive", platform), ("oci-archive", "linux/amd64,linux/arm64")):
        said = refused(archive, name, "--to", f"{form}:x.tar", "--platform", platforms, code=3)
        assert "differs from its digest" in said
        assert "sha256sum -c" in said
    assert left(archive) == []


def test_no_room_is_said_before_and_meanwhile(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bundles.cli.export.free_space", lambda directory: 1000)
        said = refused(archive, "debian:12", "--to", "oci-archive:x.tar", code=1)
        assert "`x.tar` needs 49.5 KiB, and 1000 B are free" in said
    with monkeypatch.context() as patch:
        patch.setattr("bundles.cli.export.largest_file", lambda directory: 1000)
        assert "is a FAT file system" in refused(archive, "debian:12", "--to", "oci-archive:x.tar")

    def full(path: Path, content: Iterator[bytes]) -> None:
        next(content)
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(filesystem, "replace_file", full)
    assert "and no space is left" in refused(archive, "debian:12", "--to", "oci-archive:x.tar", code=1)
    assert left(archive) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_must_not_be_written_to(archive: Path) -> None:
    closed = archive.parent / "closed"
    closed.mkdir(mode=0o500)
    assert "permission denied" in refused(archive, "debian:12", "--to", "oci-archive:closed/x.tar")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(archive: Path, number: signal.Signals) -> None:
    slow = (
        "import time, bundles.archive.reader as reader\n"
        "read = reader.BlobReader.read\n"
        "reader.BlobReader.read = lambda *a: (time.sleep(0.5), read(*a))[1]\n"
        "from bundles.cli.app import main; main()"
    )
    command = [sys.executable, "-c", slow, "export", str(archive), "debian:12", "--to", "oci-archive:x.tar"]
    running = subprocess.Popen(
        command, cwd=archive.parent, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not (archive.parent / ".x.tar.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left(archive) == [".x.tar.partial"]
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, b""), err
    assert left(archive) == []


def test_what_a_killed_run_has_left_is_written_over(archive: Path) -> None:
    (archive.parent / ".x.tar.partial").write_bytes(b"half")
    assert bundle("export", archive, "debian:12", "--to", "oci-archive:x.tar", cwd=archive.parent).returncode == 0
    assert left(archive) == ["x.tar"]
