"""install.sh against a docker command that only writes down what it is given: under dash and busybox."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.create import Options, create
from bundles.archive.reader import Archive
from bundles.oci.image import parse_manifest
from bundles.runtime.progress import Silent
from installer.steps.toolchain_images import stream
from tests.support import ROOT
from tests.support.archives import AMD64, ARM64, PROGRAM, image, made

# A docker command that keeps what it is given; what it is asked for is in the files of the directory $FAKE.
DOCKER = """\
#!/bin/sh
case "$1 $2" in
"context inspect") cat "$FAKE/endpoint" ;;
"version -f") echo linux/amd64 ;;
"info -f") cat "$FAKE/security" ;;
"image inspect") [ -e "$FAKE/loaded" ] && cat "$FAKE/id" ;;
"load -q") cat >"$FAKE/loaded" ;;
"image rm") printf '%s\\n' "$3" >"$FAKE/removed" ;;
"run --rm") printf '%s\\n' "$@" >"$FAKE/run"; exit 7 ;;
*) echo "fake docker: $*" >&2; exit 99 ;;
esac
"""
SHELLS = {"dash": ["/bin/dash"], "busybox": ["/bin/busybox", "sh"]}


@dataclasses.dataclass
class Site:
    """A place with an archive and a docker command, and the shell to run its script with."""

    directory: Path
    shell: list[str]

    def script(self, archive: Path) -> bytes:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("install.sh")
            assert member
            return member.read()

    def run(self, script: bytes, *arguments: object, **environment: str) -> tuple[int, str]:
        """The exit code and stderr; the script comes from a pipe, as from tar."""
        done = subprocess.run(
            [*self.shell, "-s", "--", *map(str, arguments)],
            input=script,
            capture_output=True,
            cwd=self.directory,
            env={
                "PATH": f"{self.directory}/bin:/usr/bin:/bin",
                "HOME": str(self.directory / "home"),
                "FAKE": str(self.directory),
                "TMPDIR": str(self.directory / "tmp"),
                **environment,
            },
            check=False,
        )
        return done.returncode, done.stderr.decode()

    def said(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture(params=list(SHELLS))
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    for name in ("bin", "home", "tmp"):
        (tmp_path / name).mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    (tmp_path / "security").write_text("[name=seccomp,profile=builtin]\n")
    # A socket's path has at most 107 bytes.
    with socket.socket(socket.AF_UNIX) as listener, _Directory(tmp_path):
        listener.bind("docker.sock")
        (tmp_path / "endpoint").write_text(f"unix://{tmp_path}/docker.sock\n")
        yield Site(tmp_path, SHELLS[request.param])


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path, self._before = path, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self._path)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with a Python image for two host platforms, in a directory whose name has a space."""
    sample = made(image("python:3-slim", "python", (AMD64, ARM64), (3, 4)), image("debian:12"))
    (tmp_path / "usb stick").mkdir()
    sample.write(tmp_path / "usb stick" / "offline.tar")
    return tmp_path / "usb stick" / "offline.tar"


def test_a_signed_archive_has_its_places_too(site: Site, tmp_path: Path) -> None:
    sample = made(image("python:3-slim", "python", (AMD64, ARM64), (3, 4)), image("debian:12"))
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    options = Options(key=key, program=PROGRAM)
    archive = create(sample.spec, tmp_path / "offline.tar", sample.source, options, Silent()).written.path
    identity, expected = python_stream(archive)
    (site.directory / "id").write_text(identity)
    assert site.run(site.script(archive), archive, "install") == (7, "loading Python from the archive\n")
    assert (site.directory / "loaded").read_bytes() == expected


def python_stream(path: Path) -> tuple[str, bytes]:
    """The id of the Python image for amd64, and what `docker load` should get."""
    with Archive(path) as opened:
        (item,) = opened.manifest.with_role("python")
        (content,) = (each for each in item.platforms if each.platform == AMD64)
        name = f"docker.io/library/bundle-python:{content.manifest.digest.hex[:12]}"
        config = parse_manifest(opened.read_document(content.manifest)).config
        return str(config.digest), b"".join(stream(opened, content.manifest, name, lambda count: None))


def test_docker_gets_the_python_image_and_nothing_else_of_the_archive(site: Site, archive: Path) -> None:
    identity, expected = python_stream(archive)
    (site.directory / "id").write_text(identity)
    code, stderr = site.run(site.script(archive), archive, "install", "--registry", "a b'c:5000")
    assert (code, stderr) == (7, "loading Python from the archive\n")
    assert (site.directory / "loaded").read_bytes() == expected
    words = site.said("run").splitlines()
    image_at = next(n for n, word in enumerate(words) if word.startswith("docker.io/library/bundle-python:"))
    assert words[image_at + 1 :] == [str(archive), "install", "--registry", "a b'c:5000"]
    assert f"type=bind,src={archive},dst={archive},readonly" in words
    assert f"type=bind,src={site.directory}/home,dst={site.directory}/home" in words
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    # Nothing is left behind.
    assert site.said("removed").startswith("docker.io/library/bundle-python:")
    assert list((site.directory / "tmp").iterdir()) == []
    assert list((site.directory / "home").iterdir()) == []


def test_an_image_that_is_there_already_is_neither_loaded_nor_removed(site: Site, archive: Path) -> None:
    identity, _ = python_stream(archive)
    (site.directory / "id").write_text(identity)
    (site.directory / "loaded").write_text("before")
    assert site.run(site.script(archive), archive, "verify") == (7, "")
    assert site.said("loaded") == "before"
    assert not (site.directory / "removed").exists()


@pytest.mark.parametrize(
    ("arguments", "writes"),
    [
        (["want"], True),
        (["want", "-o", "here.json"], True),
        (["inspect", "--html", "list.html"], True),
        (["inspect", "--json"], False),
        (["install"], False),
    ],
)
def test_only_what_writes_a_file_may_write_where_it_is_called(
    site: Site, archive: Path, arguments: list[str], writes: bool
) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    assert site.run(site.script(archive), archive, *arguments)[0] == 7
    mount = f"type=bind,src={site.directory},dst={site.directory}"
    mounts = [word for word in site.said("run").splitlines() if word.split(",readonly")[0] == mount]
    assert mounts == [mount if writes else f"{mount},readonly"]


@pytest.mark.parametrize(
    ("place", "mounted"),
    [
        *(("/develop", True), ("/library/a", True), ("/system", True), ("/processes", True)),
        *(("/dev", False), ("/dev/shm", False), ("/lib", False), ("/lib/a", False), ("/lib64", False)),
        *(("/proc/1", False), ("/sys", False), ("/sys/fs", False)),
    ],
)
@pytest.mark.parametrize("shell", list(SHELLS))
def test_what_is_the_containers_own_is_not_mounted(shell: str, place: str, mounted: bool, tmp_path: Path) -> None:
    """The function alone: a test cannot make directories at the root. What it asks of the disk is answered for it."""
    text = (ROOT / "installer" / "install.sh").read_text()
    function = text[text.index("mount_once() {") : text.index("bind() {")]
    for asks, answered in (('$(cd "$place" && pwd -P)', "$place"), ('[ ! -d "$place" ]', "false")):
        assert asks in function
        function = function.replace(asks, answered)
    program = f'mounted=:; bind() {{ echo "$1"; }}\n{function}'
    done = subprocess.run(
        [*SHELLS[shell], "-c", f"{program}\nmount_once {place} ro"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, [place] if mounted else []), done.stderr


@pytest.mark.parametrize("size", [10 * 512, 40 * 512, 150 * 512])
def test_parts_are_read_in_a_row(site: Site, archive: Path, size: int) -> None:
    identity, expected = python_stream(archive)
    script = site.script(archive)
    data = archive.read_bytes()
    archive.unlink()
    for number, start in enumerate(range(0, len(data), size), 1):
        archive.with_name(f"offline.tar.{number:03}").write_bytes(data[start : start + size])
    (site.directory / "id").write_text(identity)
    last = archive.with_name(f"offline.tar.{number:03}")
    for name in ("offline.tar", "offline.tar.001", last.name):
        (site.directory / "loaded").unlink(missing_ok=True)
        assert site.run(script, f"usb stick/{name}", "install")[0] == 7
        assert (site.directory / "loaded").read_bytes() == expected
        assert f"{last}\ninstall" in site.said("run")
    archive.with_name("offline.tar.001").rename(archive.with_name("gone"))
    code, stderr = site.run(script, last, "install")
    assert code == 3, stderr


def test_what_is_wrong_is_said_with_an_exit_code(site: Site, archive: Path) -> None:
    script = site.script(archive)
    (site.directory / "id").write_text("sha256:" + "0" * 64)

    def fails(code: int, message: str, *arguments: object, **environment: Any) -> None:
        found, stderr = site.run(script, *arguments, **environment)
        assert (found, message in stderr) == (code, True), stderr
        assert stderr.startswith(("error: ", "loading"))
        assert not (site.directory / "run").exists()

    fails(2, "expected an archive and a command", archive)
    fails(2, "`--log-file` does not work", archive, "install", "--log-file", "x")
    fails(3, "no such file", site.directory / "none.tar", "install")
    fails(3, "the Python image in the archive is damaged", archive, "install")
    assert site.said("removed").startswith("docker.io/library/bundle-python:")
    (site.directory / "security").write_text("[name=seccomp,profile=builtin name=rootless]\n")
    fails(4, "the engine is rootless", archive, "install")
    (site.directory / "endpoint").write_text("ssh://somewhere\n")
    fails(4, "the engine is on another machine (`ssh://somewhere`)", archive, "install")
    (site.directory / "endpoint").write_text("unix:///nowhere/docker.sock\n")
    fails(4, "Docker is not running", archive, "install")
    os.truncate(archive, archive.stat().st_size - 1)
    fails(3, "is not whole, or another archive", archive, "install")
    with archive.open("ab") as file:
        file.write(b"x")
    (site.directory / "tools").mkdir()
    for tool in ("awk", "basename", "dirname", "ls", "sed"):
        (site.directory / "tools" / tool).symlink_to(str(shutil.which(tool)))
    fails(4, "there is no docker command", archive, "install", PATH=f"{site.directory}/tools")


def test_without_a_python_image_the_script_says_so(site: Site, tmp_path: Path) -> None:
    made(image("debian:12")).write(tmp_path / "small.tar")
    script = site.script(tmp_path / "small.tar")
    code, stderr = site.run(script, "small.tar", "install")
    assert code == 4
    assert "this archive has no Python image for linux/amd64" in stderr
    assert "--with-python" in stderr


@pytest.mark.e2e
def test_shellcheck_finds_nothing(archive: Path) -> None:
    script = ROOT / "installer" / "install.sh"
    with tarfile.open(archive) as tar:
        member = tar.extractfile("install.sh")
        assert member
        for text in (script.read_bytes(), member.read()):
            done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=text, capture_output=True, check=False)
            assert (done.returncode, done.stdout.decode()) == (0, "")
