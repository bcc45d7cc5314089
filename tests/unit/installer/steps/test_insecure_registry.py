"""daemon.json as a link, in a container, and where it cannot be read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from bundles.oci.platform import Platform
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.address import Address
from installer.model.job import DesiredState
from installer.steps import insecure_registry
from installer.steps.insecure_registry import ForbidInsecureRegistry, InsecureRegistry
from tests.support.fake_engine import FakeEngine

ADDRESS = "192.168.10.10:5000"
AMD64 = Platform("linux", "amd64")


class Place:
    """A host with one dockerd, whose files are below a directory.

    It allows plain HTTP to what daemon.json says, as dockerd does after SIGHUP, or to what `allowed` says.
    """

    def __init__(self, root: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc, self.elsewhere = root / "etc/docker", root / "elsewhere"
        for directory in (self.etc, self.elsewhere, root / "proc/77"):
            directory.mkdir(parents=True)
        (root / "proc/77/comm").write_text("dockerd\n")
        (root / "proc/77/cmdline").write_text("dockerd\0")
        self.file = self.etc / "daemon.json"
        self.allowed: tuple[str, ...] | None = None
        self.engine = engine
        engine.insecure = self._insecure
        self.signals: list[int] = []
        monkeypatch.setattr(os, "kill", lambda pid, _: self.signals.append(pid))
        monkeypatch.setattr(insecure_registry, "_RELOAD_SECONDS", 0.0)
        self.places = Places(
            root / "docker", root / "buildx", root / "state", self.file, root / "docker.pid", root / "proc"
        )
        self.wanted = DesiredState(Address.parse(ADDRESS), "bundle-registry", "b", AMD64, (AMD64,), {}, {})

    def _insecure(self) -> tuple[str, ...]:
        if self.allowed is not None:
            return self.allowed
        value = json.loads(self.file.read_text()) if self.file.exists() else {}
        return tuple(value.get("insecure-registries", ()))

    def host(self, **changes: Any) -> Host:
        return Host(self.engine.engine, None, dataclasses.replace(self.places, **changes))  # type: ignore[arg-type]

    def allow(self, **changes: Any) -> InsecureRegistry:
        return InsecureRegistry(self.wanted, self.host(**changes))

    def forbid(self, *copies: Path, **changes: Any) -> ForbidInsecureRegistry:
        return ForbidInsecureRegistry(self.wanted, self.host(**changes), copies)


@pytest.fixture
def place(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, engine, monkeypatch)


def test_a_link_stays_one_and_its_target_is_written(place: Place) -> None:
    target = place.elsewhere / "real.json"
    target.write_text('{"debug": true}')
    place.file.symlink_to("../../elsewhere/real.json")
    step = place.allow()
    assert step.problems() == []
    step.apply(step.look())
    assert place.file.is_symlink()
    assert json.loads(target.read_text()) == {"debug": True, "insecure-registries": [ADDRESS]}
    back = place.forbid(place.elsewhere / "real.json.before-bundle")
    back.apply(back.look())
    assert place.file.is_symlink()
    assert target.read_text() == '{"debug": true}'


def test_in_a_container_a_link_to_elsewhere_is_refused(place: Place, tmp_path: Path) -> None:
    seen = tmp_path / "host"
    (seen / str(place.etc).lstrip("/")).mkdir(parents=True)
    place.file.symlink_to("/srv/not-in-this-container/daemon.json")
    (problem,) = place.allow(root=seen).problems()
    assert problem.message == "`/srv/not-in-this-container/daemon.json` cannot be reached from the container"
    assert problem.hint is not None
    assert "tee" not in problem.hint
    place.allowed = (ADDRESS,)
    assert [found.message for found in place.forbid(root=seen).problems()] == [problem.message]
    place.file.unlink()
    place.allowed = None
    assert place.allow(root=seen).problems() == []


def test_in_a_container_a_missing_directory_is_not_made(place: Place, tmp_path: Path) -> None:
    (problem,) = place.allow(root=tmp_path / "host").problems()
    assert problem.hint == f"sudo mkdir -p {place.etc}, then run this again"


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "daemon.json":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_what_cannot_be_read_is_never_written_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.file.write_text("{}")
    unreadable(monkeypatch)
    (problem,) = place.allow().problems()
    assert problem.hint == "run this with sudo"
    assert "cannot be read: permission denied" in problem.message


def test_a_file_that_cannot_be_read_matters_only_when_it_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.file.write_text("{}")
    unreadable(monkeypatch)
    place.allowed = (ADDRESS,)
    assert place.allow().problems() == []
    # Taking the entry away again needs it.
    assert [problem.hint for problem in place.forbid().problems()] == ["run this with sudo"]


def test_a_broken_file_is_said_when_docker_does_not_run(place: Place) -> None:
    place.engine.stop()
    place.file.write_text("{")
    (problem,) = place.allow().problems()
    assert "not valid JSON" in problem.message
    place.file.write_text("{}")
    with pytest.raises(HostError, match="not running"):
        place.allow().problems()


def test_the_commands_for_root_make_the_directory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insecure_registry, "is_writable", lambda _: False)
    place.etc.rmdir()
    (problem,) = place.allow().problems()
    assert problem.hint is not None
    assert problem.hint.startswith(f"sudo mkdir -p {place.etc} && printf ")
    place.etc.mkdir()
    (problem,) = place.allow().problems()
    assert problem.hint is not None
    assert problem.hint.startswith("printf ")


def test_the_commands_for_root_show_no_proxies(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insecure_registry, "is_writable", lambda _: False)
    place.file.write_text('{"proxies": {"http-proxy": "http://user:S3cret@proxy.corp:3128"}}')
    (problem,) = place.allow().problems()
    assert problem.hint is not None
    assert "S3cret" not in problem.hint
    assert problem.hint.startswith("run this with sudo; or add it to `insecure-registries` there, then: sudo kill -HUP")


@pytest.mark.parametrize("before", [None, '{"debug":  true}'])
def test_an_interrupted_uninstall_is_taken_up_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Ended while dockerd reads its settings: the file then has an empty list."""
    if before is not None:
        place.file.write_text(before)
    step = place.allow()
    step.apply(step.look())

    def interrupt(_: int, __: int) -> None:
        raise KeyboardInterrupt

    copies = [place.etc / "daemon.json.before-bundle"]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "kill", interrupt)
        # Past the questions: only telling dockerd is cut off.
        place.forbid(*copies).apply(())
    assert json.loads(place.file.read_text())["insecure-registries"] == []
    again = place.forbid(*copies)
    again.apply(again.look())
    assert again.look() == []
    assert (place.file.read_text() if place.file.exists() else None) == before


def test_an_empty_list_that_was_there_before_stays(place: Place) -> None:
    place.file.write_text('{"insecure-registries": []}')
    copy = place.etc / "daemon.json.before-bundle"
    copy.write_text('{"insecure-registries": []}')
    assert place.forbid(copy).look() == []


def test_rootless_docker_reads_another_file(place: Place, tmp_path: Path) -> None:
    place.engine.security = ("name=rootless",)
    place.file.write_text("{")
    place.allowed = ()
    for root in (Path("/"), tmp_path / "host"):
        (problem,) = place.allow(root=root).problems()
        assert problem.subject == "rootless Docker"
