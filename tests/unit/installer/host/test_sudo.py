"""Whose files they are: root, sudo, and an engine that is not on this host."""

from __future__ import annotations

import os
import pwd
import socket
import time
from pathlib import Path

import pytest

from installer.host.docker.cli import DockerCLI
from installer.host.sudo import environment_of_invoker, hand_over, settings_of_invoker

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@only_root
@pytest.mark.parametrize(("member", "home"), [(True, "own"), (False, "root's")])
def test_under_sudo_the_home_is_that_of_who_uses_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: bool, home: str
) -> None:
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, os.geteuid()))
    path = tmp_path / "docker.sock"
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("docker.sock")
        os.chown(path, 0, user.pw_gid if member else 54321)
        said = {"SUDO_UID": str(user.pw_uid), "HOME": "/root", "DOCKER_HOST": f"unix://{path}", "PATH": "/bin"}
        expected = user.pw_dir if home == "own" else "/root"
        assert environment_of_invoker(said) == {**said, "HOME": expected}
        for nobody in ("", "0", "x", "4000000000"):
            assert environment_of_invoker({**said, "SUDO_UID": nobody})["HOME"] == "/root"


@only_root
def test_what_docker_writes_as_root_into_a_home_is_handed_over(tmp_path: Path) -> None:
    home, docker = tmp_path / "home", tmp_path / "bin" / "docker"
    (home / ".docker").mkdir(parents=True)
    old = home / ".docker" / "old"
    old.write_text("of root, and none of our business")
    os.chown(home, 12345, 12346)
    os.chown(home / ".docker", 12345, 12346)
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nmkdir -p "$HOME/.docker/buildx/instances"; ln -s /etc/passwd "$HOME/.docker/link"\n')
    docker.chmod(0o755)
    time.sleep(1.1)
    DockerCLI({"PATH": f"{docker.parent}:/usr/bin:/bin", "HOME": str(home)}).run(["buildx", "create"])
    for name in ("buildx", "buildx/instances", "link"):
        state = (home / ".docker" / name).lstat()
        assert (state.st_uid, state.st_gid) == (12345, 12346), name
    assert old.stat().st_uid == 0
    assert Path("/etc/passwd").stat().st_uid == 0
    hand_over([home / "none"], 0)


@only_root
def test_a_link_in_a_home_gives_nothing_away(tmp_path: Path) -> None:
    home, target = tmp_path / "home", tmp_path / "target"
    for place in (home, target):
        place.mkdir()
    os.chown(home, 12345, 12346)
    (target / "file").write_text("root's own, and new")
    (home / ".docker").symlink_to(target)
    hand_over([home / ".docker"], 0)
    assert (target.stat().st_uid, (target / "file").stat().st_uid) == (0, 0)
    # One whose target is the same person's is what people do who keep such files together.
    os.chown(target, 12345, 12346)
    os.link(target / "file", tmp_path / "second name")
    (target / "single").write_text("made by docker")
    hand_over([home / ".docker"], 0)
    assert ((target / "single").stat().st_uid, (target / "file").stat().st_uid) == (12345, 0)


@only_root
def test_ssh_is_roots_where_settings_are_somebody_elses() -> None:
    own = pwd.getpwuid(0).pw_dir
    assert settings_of_invoker({"SUDO_UID": "1000", "HOME": "/home/anna"})
    assert not settings_of_invoker({"SUDO_UID": "1000", "HOME": own})
    assert not settings_of_invoker({"HOME": "/somewhere"})
