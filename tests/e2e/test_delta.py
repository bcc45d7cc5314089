"""A chain of deltas on an air-gapped host: whole archive, delta on it, delta on what the host itself says it has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

DOCKERFILE = "FROM gcc:12 AS build\nFROM debian:12\nCOPY --from=build /usr/bin/gcc /gcc\n"


@pytest.fixture(autouse=True)
def emulation_as_it_was() -> Iterator[None]:
    """An installer registers emulators in the machine's kernel; the test leaves it as it was."""
    from tests.testbed import binfmt_restore, binfmt_state

    before = binfmt_state()
    yield
    binfmt_restore(before)


def create(directory: Path, *arguments: str) -> dict[str, Any]:
    from tests.testbed import ORIGIN

    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", "create", "--json"]
    done = subprocess.run(
        [*command, "--mirror", f"docker.io={ORIGIN}", *arguments], cwd=directory, check=True, stdout=subprocess.PIPE
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def install(host: Any, archive: str, *options: str) -> tuple[int, Any]:
    done = host.run("python3", archive, "install", "--json", *options, check=False, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def installed(host: Any, archive: str) -> Any:
    code, document = install(host, archive)
    assert code == 0, document
    return document


def state(host: Any) -> str:
    return str(
        host.run(
            "sh", "-c", "docker ps -aq --no-trunc; docker images -q | sort; docker volume ls -q; ls -A /root"
        ).stdout
    )


def test_a_chain_of_deltas(tmp_path: Path) -> None:
    from tests.testbed import Host, start_origin

    start_origin()
    tmp_path.chmod(0o755)
    full = create(tmp_path, "debian:12", "-o", "full.tar")
    first = create(tmp_path, "debian:12", "gcc:12", "--base", "full.tar", "-o", "first.tar")
    assert first["delta"]["bases"] == [{"name": "offline", "digest": full["digest"]}]
    whole = create(tmp_path, "debian:12", "gcc:12", "--plan")
    assert first["delta"]["requiredSize"] > 100_000_000
    assert first["downloadSize"] + first["delta"]["requiredSize"] == whole["downloadSize"]
    with Host(suite="sid", name="delta") as host:
        host.mount_in(tmp_path, "/usb", readonly=False)
        before = state(host)
        code, document = install(host, "/usb/first.tar")
        assert code == 4
        assert any("leaves layers to `offline` " + full["digest"] in each["message"]
                   for each in document["error"]["problems"])  # fmt: skip
        assert state(host) == before

        installed(host, "/usb/full.tar")
        code, plan = install(host, "/usb/first.tar", "--plan")
        assert code == 0
        receipt = installed(host, "/usb/first.tar")
        pushed = next(step for step in receipt["steps"] if step["step"] == "push")
        assert pushed == next({**step, "changed": True} for step in plan["steps"] if step["step"] == "push")
        host.run("docker", "buildx", "build", "--platform", "linux/amd64,linux/arm64", "-t", "localhost:5000/app:1",
                 "--push", "-", input=DOCKERFILE)  # fmt: skip

        host.run("python3", "/usb/first.tar", "want", "-o", "/usb/want.json")
        second = create(tmp_path, "debian:12", "gcc:12", "busybox:1.35", "--base", "want.json", "-o", "second.tar")
        busybox = sum(each["contentSize"] for image in second["images"] for each in image["platforms"]
                      if image["reference"].endswith("busybox:1.35"))  # fmt: skip
        assert second["downloadSize"] <= busybox
        installed(host, "/usb/second.tar")
        assert installed(host, "/usb/second.tar")["changed"] is False
        said = host.run("docker", "run", "--rm", "localhost:5000/busybox:1.35", "echo", "here").stdout
        assert said == "here\n"

        # What the registry lost is named, and nothing is changed.
        host.run("docker", "exec", "registry", "sh", "-c", "rm -rf /var/lib/registry/docker/registry/v2/repositories/*")
        host.run("docker", "restart", "registry")
        before = state(host)
        code, document = install(host, "/usb/second.tar")
        assert code == 4
        assert "want" not in document
        assert any("used by gcc:12" in each["subject"] for each in document["error"]["problems"])
        assert state(host) == before
