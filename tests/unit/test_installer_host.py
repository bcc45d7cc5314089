"""Files on the host, the kernel, the choice of a test build, and what reads other programs' words."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.errors import HostError, UsageError
from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.host import files, kernel
from installer.host.docker_cli import CommandError, DockerCLI
from installer.host.docker_engine import Endpoint, endpoint_from_json
from installer.host.files import read_json_file
from installer.host.labels import EMULATION_CONTAINER, fingerprint
from installer.host.paths import Places
from installer.host.versions import version_of
from installer.model.job import Options
from installer.model.step import Change, summary
from installer.steps.buildx_plugin import OLDEST_BUILDX
from installer.steps.emulation import Emulation
from installer.steps.smoke_test import _starts_shell, _was_built_with_shell


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


def test_a_lock_that_cannot_be_given_to_its_owner_is_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root in a home on NFS, where root is nobody."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", refuse)
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
    with pytest.raises(HostError, match="no such file"), files.lock(tmp_path / "lock"):
        pass


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "daemon.json").mkdir()
    with pytest.raises(HostError, match=r"daemon\.json"):
        read_json_file(tmp_path / "daemon.json")
    assert read_json_file(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(HostError, match="not valid JSON"):
        read_json_file(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "architecture", ["amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "s390x", "mips64le", "loong64"]
)
def test_the_probe_is_a_program_of_that_platform(architecture: str, tmp_path: Path) -> None:
    names = {"amd64": "x86_64", "386": "i386", "arm64": "aarch64", "mips64le": "mips64el", "loong64": "loongarch64"}
    emulator = shutil.which(f"qemu-{names.get(architecture, architecture)}-static")
    if emulator is None:
        pytest.skip("qemu-user-static is not installed")
    program = tmp_path / "probe"
    program.write_bytes(kernel.exit_program(architecture))
    program.chmod(0o755)
    assert subprocess.run([emulator, str(program)], check=False).returncode == 0


def test_this_machine_runs_its_own_programs_and_no_unknown_ones() -> None:
    assert kernel.runs(Platform("linux", os.uname().machine))
    assert not kernel.runs(Platform("linux", "m68k"))
    assert not kernel.runs(Platform("windows", "amd64"))


def test_emulation_is_not_missing_for_what_the_kernel_cannot_be_asked_about() -> None:
    missing = []
    for architecture in ("m68k", "arm64"):
        job: Any = SimpleNamespace(
            host_platform=Platform("linux", "amd64"),
            platforms=(Platform("linux", "amd64"), Platform("linux", architecture)),
            tool=lambda role: SimpleNamespace(name="binfmt:1", manifest=SimpleNamespace(digest="sha256:1")),
        )
        engine = SimpleNamespace(
            container=lambda name: None, info=lambda: SimpleNamespace(is_rootless=False), image_id=lambda name: "id"
        )
        host: Any = SimpleNamespace(engine=engine)
        step = Emulation(job, host, Silent(), lambda platform: False)
        missing.append([change.name for change in step.look()])
        assert bool(step.notes()) is (architecture == "arm64")
    assert missing == [[], ["linux/arm64", EMULATION_CONTAINER]]


def test_places_follow_the_environment() -> None:
    places = Places.of({"HOME": "/home/ann"})
    assert places.buildx_plugin == Path("/home/ann/.docker/cli-plugins/docker-buildx")
    assert places.buildkitd_config("x") == Path("/home/ann/.docker/buildx/buildkitd.x.toml")
    assert places.buildx_config == Path("/home/ann/.docker/buildx")
    assert places.receipt == Path("/home/ann/.local/state/bundle/receipt.json")
    places = Places.of({"HOME": "/h", "DOCKER_CONFIG": "/d", "BUILDX_CONFIG": "/b", "XDG_STATE_HOME": "/s"})
    assert (places.docker_config, places.buildx_config, places.state) == (Path("/d"), Path("/b"), Path("/s/bundle"))


def test_the_endpoint_is_what_docker_says() -> None:
    text = json.dumps([{"Name": "default", "Endpoints": {"docker": {"Host": "unix:///run/x.sock"}}}])
    assert endpoint_from_json(text, None) == Endpoint("unix:///run/x.sock", "default")
    assert endpoint_from_json(text, None).socket_path == "/run/x.sock"
    remote = json.dumps([{"Name": "far", "Endpoints": {"docker": {"Host": "ssh://far"}}}])
    assert endpoint_from_json(remote, None).socket_path is None
    with pytest.raises(HostError, match="context inspect"):
        endpoint_from_json("[]", None)


def test_without_a_docker_command(tmp_path: Path) -> None:
    cli = DockerCLI({"PATH": str(tmp_path), "DOCKER_HOST": "tcp://far:2375"})
    assert not cli.is_installed
    assert cli.endpoint() == Endpoint("tcp://far:2375")


def test_a_failed_command_shows_itself_and_its_words(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\necho "no space in $1" >&2\nexit 7\n')
    program.chmod(0o755)
    cli = DockerCLI({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    with pytest.raises(CommandError) as caught:
        cli.run(["two words", "x"])
    assert caught.value.message == "exit code 7 from: docker 'two words' x\nno space in two words"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("github.com/docker/buildx v0.29.1 28f6246", "0.29.1"),
        ("github.com/docker/buildx 0.13.1+dfsg1 0.13.1+dfsg1-3", "0.13.1"),
        ("v0.34.0-rc1", "0.34.0"),
        ("20.10.24+dfsg1", "20.10.24"),
        ("dev", "None"),
    ],
)
def test_versions_as_they_are_printed(text: str, found: str) -> None:
    assert str(version_of(text)) == found


@pytest.mark.parametrize(("text", "old"), [("v0.12.1", True), ("0.13.0", False), ("v1.0.0", False), ("v0.9.1", True)])
def test_the_oldest_buildx(text: str, old: bool) -> None:
    found = version_of(text)
    assert found is not None
    assert (found < OLDEST_BUILDX) is old


@pytest.mark.parametrize("name", ["", "Default", "default", "a/b", "1st", "a b"])
def test_builder_names(name: str) -> None:
    with pytest.raises(UsageError, match="builder's name"):
        Options(builder=name)


@pytest.mark.parametrize(
    ("config", "history", "expected"),
    [
        ({"Cmd": ["bash"]}, [], True),
        ({"Cmd": ["/bin/sh"]}, [], True),
        ({"Entrypoint": ["/app"], "Cmd": None}, [], False),
        ({"Cmd": ["python3"]}, [{"created_by": "RUN /bin/sh -c apt-get update # buildkit"}], True),
        ({"Cmd": ["/app"]}, [{"created_by": '/bin/sh -c #(nop)  CMD ["/app"]', "empty_layer": True}], False),
        ({}, [], False),
    ],
)
def test_which_images_have_a_shell(config: Any, history: Any, expected: bool) -> None:
    assert (_starts_shell(config) or _was_built_with_shell(history)) is expected


def test_fingerprints_are_equal_for_equal_states() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_changes_are_one_line_for_people() -> None:
    changes = [Change("push", "tag", f"t{number}") for number in range(10)]
    assert summary(changes[:1]) == "push tag t0"
    loads = [Change("load", "image", name, "into Docker", size=3 << 19) for name in ("registry:3", "buildkit:1")]
    assert summary([*loads, *changes, Change("upload", "blobs", "3", size=1 << 20)]) == (
        "load image registry:3 and 1 more (3.0 MiB), push tag t0 and 9 more, upload blobs 3 (1.0 MiB)"
    )
