"""Docker on another machine, through an ssh whose machines are files, and one that is a script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from bundles.errors import HostError
from installer.host.docker.container import Outcome
from installer.host.docker.remote import RemoteDocker, Ssh, UnreachableNodeError
from tests.support.fake_site import FakeSite

PLACE = ("-l", "anna", "--", "arm-box")


@pytest.fixture
def site(tmp_path: Path) -> FakeSite:
    return FakeSite(tmp_path / "site")


def docker(site: FakeSite) -> RemoteDocker:
    return RemoteDocker(Ssh(site.environment), PLACE, "ssh anna@arm-box")


def scripted(directory: Path, script: str) -> RemoteDocker:
    """With an ssh that does what a shell script does."""
    directory.mkdir()
    (directory / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "ssh").chmod(0o755)
    return RemoteDocker(Ssh({"PATH": f"{directory}:/usr/bin:/bin"}), PLACE, "ssh anna@arm-box")


def test_what_is_there_and_what_is_not(site: FakeSite) -> None:
    site.add("arm-box", architecture="aarch64", images={"a:1": "sha256:1"}, volumes=["v"], free=1 << 30)
    there = docker(site)
    info, machine = there.info()
    assert (str(info.platform), info.version, info.root) == ("linux/arm64", "28.0.0", "/var/lib/docker")
    assert machine == "arm-box x"
    assert (there.image_id("a:1"), there.image_id("b:1")) == ("sha256:1", None)
    assert there.container("c") is None
    assert there.free_space("/var/lib/docker") == 1 << 30
    there.remove_volume("w")
    there.remove_volume("v")
    with site.machine("arm-box") as state:
        assert state["volumes"] == []
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "ControlPath=none"):
        assert all(option in call for call in site.calls)


def test_words_reach_the_other_machine_as_they_are(tmp_path: Path) -> None:
    said = 'for word; do last=$word; done; eval "set -- $last"; printf \'[{"Id": "%s"}]\' "$4"'
    name = "a b; $(reboot) 'c' *"
    assert scripted(tmp_path / "bin", said).image_id(name) == name


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        ("echo 'bash: docker: command not found' >&2; exit 127", "there is no docker command", "install Docker"),
        ("echo 'permission denied while trying to connect' >&2; exit 1", "permission denied", "in the group docker"),
        ('echo \'{"ServerErrors": ["permission denied"]}\'', "permission denied", "in the group docker"),
        ("echo Welcome; echo '{}'", "prints something of its own: `Welcome`", "ssh anna@arm-box true has to"),
        ("echo null", "prints something of its own: `null`", "bashrc"),
    ],
)
def test_a_docker_that_cannot_be_asked(tmp_path: Path, script: str, message: str, hint: str) -> None:
    with pytest.raises(HostError, match=message) as caught:
        scripted(tmp_path / "bin", script).info()
    assert hint in str(caught.value.hint)
    assert not isinstance(caught.value, UnreachableNodeError)


def test_what_a_shell_prints_is_no_answer_of_docker(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="prints something of its own: `Welcome`"):
        scripted(tmp_path / "bin", "echo Welcome; echo '[]'").container("c")


class Impatient(Ssh):
    """With a hundredth of the time that there is."""

    def run(self, arguments: Any, words: Any, stdin: Any = (), seconds: Optional[float] = None) -> Outcome:
        assert seconds is not None
        return super().run(arguments, words, stdin, seconds / 100)


def test_a_docker_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    scripted(tmp_path / "bin", "cat >/dev/null; exec sleep 60")
    there = RemoteDocker(Impatient({"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}), PLACE, "ssh anna@arm-box")
    began = time.monotonic()
    with pytest.raises(HostError, match="`docker container` there has not ended within 60 s") as caught:
        there.container("c")
    assert caught.value.hint == "ssh anna@arm-box docker container ls"
    assert time.monotonic() - began < 30


def test_a_connection_that_stays_open_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    script = 'sleep 60 </dev/null >/dev/null & echo \'[{"Id": "sha256:1"}]\''
    assert scripted(tmp_path / "bin", script).image_id("a:1") == "sha256:1"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("hostname box.corp\\nport 22", "box.corp"),
        ("hostname box.corp\\nport 2222", "'[box.corp]:2222'"),
        ("hostname box.corp\\nport 2222\\nhostkeyalias box", "box"),
    ],
)
def test_the_key_that_is_known_is_named_as_ssh_has_it(tmp_path: Path, settings: str, name: str) -> None:
    says = "echo 'REMOTE HOST IDENTIFICATION HAS CHANGED!' >&2; exit 255"
    script = f"[ \"$1\" != -G ] || {{ printf '{settings}\\n'; exit; }}; {says}"
    with pytest.raises(UnreachableNodeError, match="another host key") as caught:
        scripted(tmp_path / "bin", script).info()
    assert f"ssh-keygen -R {name}, and ssh anna@arm-box" in str(caught.value.hint)


def test_an_image_that_ends_in_the_middle_ends_ssh(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(1 << 20)
        raise HostError("the medium failed")

    began = time.monotonic()
    with pytest.raises(HostError, match="the medium failed"):
        scripted(tmp_path / "bin", "cat >/dev/null; exec sleep 60").load(broken())
    assert time.monotonic() - began < 30


def test_a_docker_that_stops_reading_says_why(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no space left"):
        scripted(tmp_path / "bin", "echo 'no space left' >&2; exit 1").load(iter([bytes(1 << 20)] * 4))


def test_without_ssh(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="ssh cannot be run") as caught:
        RemoteDocker(Ssh({"PATH": str(tmp_path)}), PLACE, "x").info()
    assert caught.value.hint == "install openssh-client"
