"""Which process the engine is: asked of this machine's kernel, about processes that are called dockerd."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.host.docker.daemon import engine_process, only_dockerd, sees_the_same

PROC = Path("/proc")
# Listens at the socket that it is given a path of, or holds one open that it is given a number of, or does neither.
PROGRAM = """\
    #!{python}
    import os, socket, sys, time
    if sys.argv[1].startswith("/"):
        os.chdir(os.path.dirname(sys.argv[1]))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.basename(sys.argv[1]))
        listener.listen()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Start a process that bears a name."""
    with contextlib.ExitStack() as stack:

        def start(name: str, argument: object, *files: int) -> int:
            program = tmp_path / name
            program.write_text(textwrap.dedent(PROGRAM.format(python=sys.executable)))
            program.chmod(0o755)
            process = subprocess.Popen([program, str(argument)], stdout=subprocess.PIPE, pass_fds=files)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            assert process.stdout.readline() == b"ready\n"
            return process.pid

        yield start


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A directory with a short name: that of a socket has at most 107 bytes."""
    path = Path(f"/tmp/bundle-{os.getpid()}")
    path.mkdir()
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


def test_who_listens_is_the_engine_when_it_is_a_dockerd(start: object, short: Path) -> None:
    assert callable(start)
    first, second = start("dockerd", short / "first"), start("dockerd", short / "second")
    start("dockerd", "idle")
    assert engine_process(str(short / "first"), PROC) == first
    assert engine_process(str(short / "second"), PROC) == second
    (short / "link").symlink_to("second")
    assert engine_process(str(short / "link"), PROC) == second
    # Podman's service, a tunnel, a proxy.
    start("podman", short / "third")
    assert engine_process(str(short / "third"), PROC) is None
    assert engine_process(str(short / "none"), PROC) is None
    assert engine_process(None, PROC) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can see which sockets a process has")
def test_a_socket_that_was_handed_over_is_its_holders(start: object, short: Path) -> None:
    """As systemd does with docker.socket: here this process listens."""
    assert callable(start)
    start("dockerd", "idle")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        for each, name in ((listener, "docker.sock"), (other, "other.sock")):
            each.bind(str(short / name))
            each.listen()
        start("dockerd", "holds another", other.fileno())
        assert engine_process(str(short / "docker.sock"), PROC) is None
        holder = start("dockerd", "holds it", listener.fileno())
        assert engine_process(str(short / "docker.sock"), PROC) == holder
        start("dockerd", "holds it, too", listener.fileno())
        assert engine_process(str(short / "docker.sock"), PROC) is None


def test_a_process_sees_the_same_directory_or_another(tmp_path: Path) -> None:
    ours, theirs, proc = tmp_path / "ours", tmp_path / "theirs", tmp_path / "proc"
    for place in (ours / "etc", theirs / "etc", proc / "1", proc / "2"):
        place.mkdir(parents=True)
    (proc / "1" / "root").symlink_to(ours)
    (proc / "2" / "root").symlink_to(theirs)
    docker = Path("/etc/docker")
    # Neither has it: then what it would be made in counts.
    assert sees_the_same(1, docker, proc, ours)
    assert not sees_the_same(2, docker, proc, ours)
    (ours / "etc/docker").mkdir()
    assert sees_the_same(1, docker, proc, ours)
    assert not sees_the_same(2, docker, proc, ours)
    # Given to the container: the same after all.
    (theirs / "etc").rmdir()
    (theirs / "etc").symlink_to(ours / "etc")
    assert sees_the_same(2, docker, proc, ours)


def test_the_only_dockerd_outside_of_containers(tmp_path: Path) -> None:
    def process(number: int, name: str, numbers: str) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        (place / "comm").write_text(f"{name}\n")
        (place / "status").write_text(f"Name:\t{name}\nNSpid:\t{numbers}\n")

    process(5, "dockerd", "5\t1")
    process(7, "systemd", "7")
    assert only_dockerd(tmp_path) is None
    process(9, "dockerd", "9")
    assert only_dockerd(tmp_path) == 9
    process(11, "dockerd", "11")
    assert only_dockerd(tmp_path) is None
