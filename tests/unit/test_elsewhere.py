"""What runs on the machine with internet, as it runs on Windows and on macOS, as far as Linux can show that.

In processes of their own, whose Python has lost what it has on Linux alone (tests/support/elsewhere.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from bundles.cli.app import _COMMANDS
from bundles.errors import BundleError
from bundles.runtime.filesystem import open_locked
from bundles.runtime.system import system as own
from tests.support.elsewhere import bundle_elsewhere
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle, bundle_here

NAMES = {"windows": "Windows", "macos": "macOS"}


@pytest.fixture(params=["windows", "macos"])
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def create(system: str, hub: FakeRegistry, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = ("create", "debian:12", "--mirror", f"docker.io={hub.host}", *arguments)
    done: subprocess.CompletedProcess[str] = (
        bundle(*words, cwd=cwd) if system == "linux" else bundle_elsewhere(system, *words, cwd=cwd)
    )
    return done


def test_from_registry_to_registry(
    system: str, hub: FakeRegistry, fake: Callable[..., FakeRegistry], tmp_path: Path
) -> None:
    done = create(system, hub, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "offline.tar"
    assert json.loads(done.stdout)["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]
    assert create("linux", hub, tmp_path, "-o", "linux.tar").returncode == 0
    assert archive.read_bytes() == (tmp_path / "linux.tar").read_bytes()

    verified = bundle_elsewhere(system, "verify", "offline.tar", cwd=tmp_path)
    assert (verified.returncode, "every byte is right" in verified.stdout) == (0, True), verified.stderr
    inspected = bundle_elsewhere(system, "inspect", "offline.tar", "--html", "list.html", cwd=tmp_path)
    assert (inspected.returncode, "debian:12" in inspected.stdout) == (0, True), inspected.stderr
    assert "debian:12" in (tmp_path / "list.html").read_text(encoding="utf-8")

    site = fake()
    pushed = bundle_elsewhere(system, "push", "offline.tar", f"{site.host}/team", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    there, here = site.repositories["team/library/debian"], hub.repositories["library/debian"]
    assert there.tags["12"] == here.tags["12"]
    assert set(here.manifests) <= set(there.manifests)

    assert create(system, hub, tmp_path, "--recompress", "zstd", "-o", "zstd.tar").returncode == 0
    compared = bundle_elsewhere(system, "diff", "offline.tar", "zstd.tar", cwd=tmp_path)
    assert (compared.returncode, "moved      debian:12" in compared.stdout) == (0, True), compared.stderr
    assert not (tmp_path / "zstd.tar.spool").exists()


def test_an_archive_is_replaced_and_goes_on_after_a_failure(system: str, hub: FakeRegistry, tmp_path: Path) -> None:
    assert create(system, hub, tmp_path).returncode == 0
    last = [str(path) for path in hub.paths("GET", "/library/debian/blobs/")][-1].rpartition("/")[2]
    again = create(system, hub, tmp_path)
    assert (again.returncode, "nothing was written" in again.stderr) == (0, True), again.stderr
    # Another bundle of that name, in parts, whose first run fails.
    (tmp_path / "offline.tar").unlink()
    hub.fault("GET", last, times=-1, status=404)
    failed = create(system, hub, tmp_path, "--split", "4000MiB")
    assert (failed.returncode, "Traceback" in failed.stderr) == (5, False), failed.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["offline.tar.001.partial", "offline.tar.journal", "offline.tar.sha256"]
    hub.faults.clear()
    # What was left belongs to another bundle now, and is set aside while that is written.
    hub.tag("library/debian", "12", hub.index(hub.image("linux/amd64", seed="newer"), hub.image("linux/arm64", seed=1)))
    done = create(system, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]
    assert bundle("verify", "offline.tar", cwd=tmp_path).returncode == 0


def test_one_writes_an_archive(system: str, hub: FakeRegistry, tmp_path: Path) -> None:
    # The other one is this process, which has the lock of the journal.
    path = tmp_path / "offline.tar.journal"
    held = open_locked(path, lambda: own.open_file(path, os.O_RDWR | os.O_CREAT), BundleError("it is free"))
    done = create(system, hub, tmp_path)
    os.close(held)
    assert (done.returncode, "is being written by another `bundle create`" in done.stderr) == (1, True), done.stderr


def test_an_export(system: str, hub: FakeRegistry, tmp_path: Path) -> None:
    assert create(system, hub, tmp_path).returncode == 0
    command = ("export", "offline.tar", "debian:12", "--platform", "linux/amd64", "--to")
    assert bundle(*command, "docker-archive:here.tar", cwd=tmp_path).returncode == 0
    done = bundle_elsewhere(system, *command, "docker-archive:there.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there.tar").read_bytes() == (tmp_path / "here.tar").read_bytes()


def test_a_lock(system: str, hub: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "bundle.toml").write_bytes(
        f'images = ["debian:12"]\r\n[mirrors]\r\n"docker.io" = ["{hub.host}"]\r\n'.encode()
    )
    assert bundle("lock", cwd=tmp_path).returncode == 0
    expected = (tmp_path / "bundle.lock").read_bytes()
    (tmp_path / "bundle.lock").unlink()
    done = bundle_elsewhere(system, "lock", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle.lock").read_bytes() == expected


def test_completion(system: str, tmp_path: Path) -> None:
    done = bundle_elsewhere(system, "completion", "bash", cwd=tmp_path)
    assert (done.returncode, "_BUNDLE_COMPLETE" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_says_what_it_does(name: str, tmp_path: Path) -> None:
    done = bundle_elsewhere("windows", name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: bundle ")


@pytest.mark.parametrize("name", ["install", "record"])
def test_what_is_for_linux_says_so_at_once(system: str, name: str, tmp_path: Path) -> None:
    done = bundle_elsewhere(system, name, "--no-such-option", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: `{name}` runs on Linux, and this is {NAMES[system]}\n  next: ")


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_what_is_for_linux(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundles.cli.app.system.IS_HOST", False)
    done = bundle_here(name, "--no-such-option", cwd=tmp_path)
    anywhere = {"create", "lock", "verify", "inspect", "diff", "export", "push", "completion"}
    assert done.returncode == (2 if name in anywhere else 4), done.stderr


def test_names_that_windows_does_not_have(hub: FakeRegistry, tmp_path: Path) -> None:
    for name in ("con.tar", "off:line.tar"):
        done = create("windows", hub, tmp_path, "-o", name)
        assert (done.returncode, f"`{name}` cannot be written: Windows has" in done.stderr) == (2, True), done.stderr
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_letter_that_a_pipe_does_not_have(system: str, hub: FakeRegistry, tmp_path: Path) -> None:
    assert create(system, hub, tmp_path, "-o", "\u65e5\u672c.tar").returncode == 0
    done = bundle_elsewhere(system, "verify", "\u65e5\u672c.tar", cwd=tmp_path, PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stdout.startswith("\\u65e5\\u672c.tar: ")) == (0, True), done.stderr + done.stdout


def test_a_login_of_the_windows_home(fake: Callable[..., FakeRegistry], hub: FakeRegistry, tmp_path: Path) -> None:
    assert create("linux", hub, tmp_path).returncode == 0
    site = fake(auth="basic", anonymous_pull=False, users={"user": "secret"})
    (tmp_path / "user" / ".docker").mkdir(parents=True)
    logins = {"auths": {site.host: {"username": "user", "password": "secret"}}}
    (tmp_path / "user" / ".docker" / "config.json").write_text(json.dumps(logins))
    words = ("push", "offline.tar", f"{site.host}/team")
    assert bundle_elsewhere("windows", *words, cwd=tmp_path).returncode == 4
    done = bundle_elsewhere("windows", *words, cwd=tmp_path, USERPROFILE=str(tmp_path / "user"), HOME="/none")
    assert done.returncode == 0, done.stderr
