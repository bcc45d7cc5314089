"""The command line as a program: exit codes, stdout, stderr, files."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle


def create(hub: FakeRegistry, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return bundle("create", "debian:12", "--mirror", f"docker.io={hub.host}", *arguments, cwd=cwd)


def test_create_verify_inspect(hub: FakeRegistry, tmp_path: Path) -> None:
    done = create(hub, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    archive = tmp_path / "offline.tar"
    data = archive.read_bytes()
    assert result["archive"] == str(archive)
    assert result["size"] == len(data)
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "offline.tar.sha256").read_text() == f"{result['sha256']}  offline.tar\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]
    verified = bundle("verify", archive, "--json", cwd=tmp_path)
    assert (verified.returncode, json.loads(verified.stdout)["digest"]) == (0, result["digest"])
    inspected = bundle("inspect", archive, "--json", cwd=tmp_path)
    manifest = json.loads(inspected.stdout)["manifest"]
    assert manifest["images"] == result["images"]
    assert [image["reference"] for image in manifest["images"]][-1] == "docker.io/library/debian:12"
    assert "debian:12" in bundle("inspect", archive, cwd=tmp_path).stdout


def test_the_archive_is_a_program(hub: FakeRegistry, tmp_path: Path) -> None:
    assert create(hub, tmp_path, "-o", "x.tar").returncode == 0
    clean = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-I", "-S", "x.tar"]
    done = subprocess.run(
        [*command, "inspect", "--json"], cwd=tmp_path, env=clean, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["archive"] == str(tmp_path / "x.tar")
    listed = subprocess.run(
        [*command, "--help"], cwd=tmp_path, env=clean, check=False, capture_output=True, text=True
    ).stdout
    assert "install" in listed
    assert "\n  create " not in listed
    with zipfile.ZipFile(tmp_path / "x.tar") as program:
        assert program.testzip() is None
        names = program.namelist()
    assert not [name for name in names if name.startswith("bundler/") or name.endswith((".so", ".pyc"))]


def test_plan_writes_nothing(hub: FakeRegistry, tmp_path: Path) -> None:
    done = create(hub, tmp_path, "--plan")
    assert done.returncode == 0
    assert "would download" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_two_runs_give_the_same_bytes(hub: FakeRegistry, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        assert create(hub, tmp_path, "-o", name, "--workers", "7" if name == "b.tar" else "1").returncode == 0
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_definition_file(hub: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "bundle.toml").write_text(
        f'name = "team"\nimages = ["debian:12"]\n[mirrors]\n"docker.io" = ["{hub.host}"]\n'
    )
    done = bundle("create", "-f", "bundle.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["archive"] == str(tmp_path / "team.tar")


def test_wrong_bytes_from_the_registry_leave_no_archive(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.fault("GET", "/blobs/", times=-1, corrupt=True)
    done = create(hub, tmp_path)
    assert done.returncode == 5
    assert not (tmp_path / "offline.tar").exists()


def test_a_broken_download_goes_on_in_the_next_run(hub: FakeRegistry, tmp_path: Path) -> None:
    fresh = create(hub, tmp_path, "-o", "fresh.tar")
    assert fresh.returncode == 0
    layers = [str(path) for path in hub.paths("GET", "/library/debian/blobs/")]
    hub.fault("GET", layers[-1].rpartition("/")[2], times=-1, status=404)
    failed = create(hub, tmp_path)
    assert failed.returncode == 5
    assert "sha256:" in failed.stderr
    assert (tmp_path / "offline.tar.partial").exists()
    hub.faults.clear()
    assert create(hub, tmp_path).returncode == 0
    assert (tmp_path / "offline.tar").read_bytes() == (tmp_path / "fresh.tar").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["create"], 2, "nothing to bundle: no image is named"),
        (["create", "De bian"], 2, "`De bian` is not an image reference"),
        (["create", "debian:12", "--platform", "linux"], 2, "names no architecture"),
        (["create", "debian:12", "--mirror", "docker.io"], 2, "is not of the form KEY=VALUE"),
        (["create", "debian:12", "--without", "kernel"], 2, "`kernel` is not a part of the toolchain"),
        (["create", "debian:12", "--without", "buildx,binfmt"], 2, "command with --without buildx --without binfmt\n"),
        (["create", "debian:12", "--without", "python", "--with-python"], 2, "--with-python do not go together"),
        (["create", "debian:12", "--without", "scanner", "--with-scanner"], 2, "--with-scanner do not go together"),
        (
            ["create", "debian:12", "--toolchain", "registry=registry:2", "--without", "registry"],
            2,
            "--without registry and --toolchain registry=registry:2 do not go together\n  next: leave one out\n",
        ),
        (
            ["create", "docker://debian:12"],
            2,
            "is not a registry host[:port]\n  next: an image has no scheme: debian:12",
        ),
        (["create", "-f", "missing.toml"], 2, "`missing.toml` cannot be read: no such file"),
        (["create", "debian:12", "--bogus"], 2, "no such option"),
        (["completion"], 2, "'{bash|zsh|fish}'. choose from: bash, zsh, fish\n  next: bundle completion --help\n"),
        (["frobnicate"], 2, "there is no command `frobnicate`"),
        (["verify"], 2, "missing argument ARCHIVE"),
        (["verify", "missing.tar"], 2, "`missing.tar` is not there"),
        (["inspect", "/etc/hostname"], 3, "is not a bundle"),
        (["install", "missing.tar"], 2, "`missing.tar` is not there"),
    ],
)
def test_exit_codes(hub: FakeRegistry, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    if arguments[0] == "create":
        arguments = [*arguments, "--mirror", f"docker.io={hub.host}"]
    done = bundle(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    if code:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")


def test_errors_as_json(tmp_path: Path) -> None:
    (tmp_path / "other.tar").write_bytes(b"x" * 5000)
    done = bundle("verify", "other.tar", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exitCode"], error["kind"]) == (3, 3, "NotABundleError")


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)],
    ids=["Ctrl-C", "SIGTERM", "both", "twice"],
)
def test_interrupted(hub: FakeRegistry, tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    hub.fault("GET", "/library/debian/blobs/", times=-1, drip=0.2)
    # Where the machine is busy, what is sent at once comes far apart.
    program = "from bundles.runtime import signals; signals._TOGETHER = 60; from bundles.cli.app import main; main()"
    command = [sys.executable, "-c", program, "create", "debian:12", "--mirror", f"docker.io={hub.host}"]
    command += ["--log-file", "log"]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "offline.tar.partial").exists():
        time.sleep(0.02)
    for number in numbers:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    # One end, whatever came behind the first signal.
    what = "ended by SIGTERM" if numbers == (signal.SIGTERM,) else "interrupted"
    assert stderr.endswith(f"error: {what}\n  next: run the same command again; it goes on\n")
    assert stderr.count("error") == 1
    assert (tmp_path / "log").read_text().endswith(f" error: {what}\n")
    assert not (tmp_path / "offline.tar").exists()


def test_quiet_and_log_file(hub: FakeRegistry, tmp_path: Path) -> None:
    done = create(hub, tmp_path, "-q", "--log-file", "log")
    assert (done.returncode, done.stderr) == (0, "")
    assert "resolving 7 images" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_reader_that_goes_away(hub: FakeRegistry, tmp_path: Path) -> None:
    assert create(hub, tmp_path).returncode == 0
    script = f"{sys.executable} offline.tar inspect --json | head -c 10"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
