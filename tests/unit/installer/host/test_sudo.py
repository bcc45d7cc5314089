"""Whose files they are: root, sudo, and an engine that is not on this host."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundler.writing.program import _MAIN
from bundles.archive.reader import Archive
from bundles.errors import HostError
from installer.host import files
from installer.host.docker_cli import DockerCLI
from installer.host.host import Host
from installer.host.relay import Relay
from installer.host.sudo import environment_of_invoker, hand_over
from installer.model.job import Options
from installer.preflight import settle
from tests.support import ROOT
from tests.support.archives import example

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


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("tcp://127.0.0.1:2375", "run it on that machine: python3 offline.tar install"),
        ("ssh://ann@far:2222", "ssh -p 2222 ann@far, and run it there: python3 offline.tar install"),
    ],
)
def test_an_engine_elsewhere_is_refused_before_anything_is_asked(tmp_path: Path, endpoint: str, hint: str) -> None:
    example().write(tmp_path / "offline.tar")
    host = Host.this({"PATH": str(tmp_path), "HOME": str(tmp_path), "DOCKER_HOST": endpoint}, None)
    with Archive(tmp_path / "offline.tar") as archive, pytest.raises(HostError) as caught:
        settle(archive, Options(), host)
    assert f"Docker's engine is at `{endpoint}` (DOCKER_HOST), not on this host" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("version", "name", "first"),
    [
        ("(2, 7, 18)", "usb/offline.tar", "usb/offline.tar"),
        ("(3, 6, 8)", "usb/offline.tar", "usb/offline.tar"),
        ("(3, 7, 4)", "offline.tar.003", "offline.tar.001"),
        ("(3, 8, 20)", "offline.v03", "offline.v03"),
    ],
)
def test_an_old_python_gets_a_line_that_names_the_other_way(version: str, name: str, first: str) -> None:
    program = f"import sys; sys.version_info = {version}; sys.argv = [{name!r}, 'install']\n{_MAIN.decode()}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    short = ".".join(version.strip("()").split(", ")[:2])
    assert done.returncode == 1
    assert done.stderr == (
        f"error: this program needs python 3.9 or later, and this is python {short}\n"
        "  next: run it with a later python3, or without one: "
        f"tar -xOf {first} install.sh | sh -s -- {first} install\n"
    )


def test_the_relay_carries_words_input_and_results(tmp_path: Path) -> None:
    """The other side is the function of install.sh itself."""
    script = (ROOT / "installer" / "install.sh").read_text()
    body = script[script.index("relay() {") : script.index("clean_up() {")]
    for name in ("ask", "answer"):
        os.mkfifo(tmp_path / name)
    with subprocess.Popen(["dash", "-euc", f"shared={tmp_path}\n{body}\nrelay"], stdin=subprocess.DEVNULL) as shell:
        relay = Relay(tmp_path)
        done = relay.run(
            ["sh", "-c", 'cat; printf "[%s]" "$@"; echo oops >&2; exit 3', "x", "a b", "it's\n$HOME *", ""], "in\n"
        )
        assert (done.code, done.stdout, done.stderr) == (3, "in\n[a b][it's\n$HOME *][]", "oops\n")
        assert relay.run(["no-such-command"], "").code == 127
        assert relay.run(["true"], "") == type(done)(0, "", "")
        (tmp_path / "ask").write_text("end\n")
        assert shell.wait(10) == 0


@only_root
def test_the_lock_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    with files.lock(tmp_path / "bundle" / "lock"):
        state = (tmp_path / "bundle" / "lock").stat()
    assert (state.st_uid, state.st_gid) == (12345, 12346)
