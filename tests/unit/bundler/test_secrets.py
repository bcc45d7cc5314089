"""Planted passwords, tokens and signed addresses are nowhere in what create leaves behind or says."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from bundler.definition.spec import TOOLCHAIN
from bundles.oci.digest import Digest
from tests.support.fake_registry import FakeRegistry
from tests.support.images import noise

PASSWORD = "Planted-Passw0rd-81b7"
PROXY_PASSWORD = "Planted-Pr0xy-55aa"
SIGNATURE = "X-Amz-Signature=planted5ignature2c9e"
LAYER = str(Digest.of(noise(0, 3_000_000)))
COMMAND = [sys.executable, "-c", "from bundles.cli.app import main; main()", "create"]
WITHOUT = [f"--without={role}" for role in TOOLCHAIN]


@pytest.fixture
def online(fake: Callable[..., FakeRegistry]) -> FakeRegistry:
    """A registry with logins whose blobs are behind signed addresses of another host."""
    registry = fake(auth="bearer", users={"robot": PASSWORD}, anonymous_pull=False)
    layers = [noise(number, 3_000_000) for number in range(2)]
    registry.tag("team/app", "1", registry.index(registry.image("linux/amd64", layers)))
    storage = fake()
    for digest, data in registry.content.items():
        storage.add("x", data)
        storage.repository("team/app").blobs.add(digest)
    for digest in registry.repositories["team/app"].blobs:
        signed = f"{storage.url}/v2/team/app/blobs/{digest}?{SIGNATURE}"
        registry.fault("GET", f"/blobs/{digest}", times=-1, redirect=signed)
    registry.storage = storage  # type: ignore[attr-defined]
    return registry


def create(registry: FakeRegistry, folder: Path) -> tuple[int, str, list[bytes]]:
    """Run it as a user would; gives the exit code, all that was said, and the command lines seen meanwhile."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    login = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
    (home / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DOCKER_CONFIG": str(home),
        "HTTP_PROXY": f"http://user:{PROXY_PASSWORD}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    command = [*COMMAND, f"{registry.host}/team/app:1", "--platform", "linux/amd64", *WITHOUT]
    command += ["-o", str(folder / "offline.tar"), "--log-file", str(folder / "log"), "--json"]
    seen: list[bytes] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:

        def watch() -> None:
            while process.poll() is None:
                for place in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        seen.append(place.read_bytes())
                    except OSError:
                        continue
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        said = process.communicate()[0].decode()
        watcher.join()
    return process.returncode, said, seen


def secrets(registry: FakeRegistry) -> list[bytes]:
    login = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
    words = [PASSWORD, PROXY_PASSWORD, login, login.rstrip("="), SIGNATURE, SIGNATURE.partition("=")[2]]
    assert registry.tokens
    return [word.encode() for word in (*words, *registry.tokens)]


def check(registry: FakeRegistry, folder: Path, said: str, seen: list[bytes]) -> None:
    files: dict[str, bytes] = {str(path): path.read_bytes() for path in folder.iterdir() if path.is_file()}
    places = {**files, "what was said": said.encode(), "the process list": b"\n".join(seen)}
    assert len(files) >= 2
    for secret in secrets(registry):
        assert [name for name, data in places.items() if secret in data] == []


def test_after_success(online: FakeRegistry, tmp_path: Path) -> None:
    code, said, seen = create(online, tmp_path)
    assert code == 0, said
    assert any(b"/team/app:1" in line for line in seen)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    check(online, tmp_path, said, seen)


@pytest.mark.parametrize(
    "fault",
    [{"status": 403, "body": b"<Error>denied</Error>"}, {"status": 500}, {"close": True}, {"cut_after": 90_000}],
    ids=["forbidden", "error", "closed", "cut"],
)
def test_after_a_failure_behind_a_signed_address(online: FakeRegistry, tmp_path: Path, fault: dict[str, Any]) -> None:
    storage = online.storage  # type: ignore[attr-defined]
    storage.fault("GET", LAYER, times=1, **fault)
    storage.fault("GET", LAYER, times=-1, status=403)
    code, said, seen = create(online, tmp_path)
    assert code == 5, said
    check(online, tmp_path, said, seen)


def test_the_journal_is_for_its_owner_only(online: FakeRegistry, tmp_path: Path) -> None:
    storage = online.storage  # type: ignore[attr-defined]
    storage.fault("GET", LAYER, times=1, cut_after=2_500_000)
    storage.fault("GET", LAYER, times=-1, status=403)
    code, said, seen = create(online, tmp_path)
    assert code == 5, said
    journal = tmp_path / "offline.tar.journal"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert b"written sha256:" in journal.read_bytes()
    check(online, tmp_path, said, seen)
