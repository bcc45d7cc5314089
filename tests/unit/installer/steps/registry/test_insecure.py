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
from installer.model.registry.address import Address
from installer.receipt.ledger import remember
from installer.steps.registry import insecure
from installer.steps.registry.insecure import ForbidInsecureRegistry, InsecureRegistry
from tests.support.fake_engine import FakeEngine
from tests.support.states import desired

ADDRESS = "192.168.10.10:5000"
AMD64 = Platform("linux", "amd64")


class Place:
    """A host with one dockerd, the process of the fake engine, whose files are below a directory.

    It allows plain HTTP to what daemon.json says, as dockerd does after SIGHUP, or to what `allowed` says.
    """

    def __init__(self, root: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc, self.elsewhere = root / "etc/docker", root / "elsewhere"
        self.process = root / "proc" / str(os.getpid())
        for directory in (self.etc, self.elsewhere, self.process):
            directory.mkdir(parents=True)
        (self.process / "comm").write_text("dockerd\n")
        (self.process / "cmdline").write_text("dockerd\0")
        self.sees("/")
        self.file = self.etc / "daemon.json"
        self.allowed: tuple[str, ...] | None = None
        self.engine = engine
        engine.insecure = self._insecure
        self.signals: list[int] = []
        monkeypatch.setattr(os, "kill", lambda pid, _: self.signals.append(pid))
        monkeypatch.setattr(insecure, "_RELOAD_SECONDS", 0.0)
        self.places = Places(root / "docker", root / "buildx", root / "state", self.file, root / "proc")
        self.wanted = desired(Address.parse(ADDRESS))

    def sees(self, root: str | Path) -> None:
        """Have dockerd see that directory as its root."""
        (self.process / "root").unlink(missing_ok=True)
        (self.process / "root").symlink_to(root)

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
    place.sees(seen)
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
    (tmp_path / "host").mkdir()
    place.sees(tmp_path / "host")
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
    monkeypatch.setattr(insecure, "is_writable", lambda _: False)
    place.etc.rmdir()
    (problem,) = place.allow().problems()
    assert problem.hint is not None
    assert problem.hint.startswith(f"sudo mkdir -p {place.etc} && printf ")
    place.etc.mkdir()
    (problem,) = place.allow().problems()
    assert problem.hint is not None
    assert problem.hint.startswith("printf ")


def test_the_commands_for_root_show_no_proxies(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insecure, "is_writable", lambda _: False)
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

    copies = [place.etc / "daemon.json.before-bundle"] if before is not None else []
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


@pytest.mark.parametrize(
    "settings",
    [
        {"log-driver": "splunk", "log-opts": {"splunk-token": "S3cret"}},
        {"registry-mirrors": ["https://user:S3cret@mirror.corp"]},
        {"debug": True, "default-ulimits": {"x": {"Name": "S3cret"}}},
    ],
)
def test_the_commands_for_root_show_nothing_that_may_be_secret(
    place: Place, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insecure, "is_writable", lambda _: False)
    place.file.write_text(json.dumps(settings))
    (problem,) = place.allow().problems()
    assert "S3cret" not in str(problem)
    assert str(problem.hint).startswith("run this with sudo; or add it to `insecure-registries` there, then: sudo ")


def test_an_entry_that_was_written_by_hand_is_not_ours(place: Place) -> None:
    """The daemon has not read it yet: it is told, and the file is nobody's but the person's who wrote it."""
    text = json.dumps({"insecure-registries": [ADDRESS]})
    place.file.write_text(text)
    place.allowed = ()
    step = place.allow()
    changes = step.look()
    assert [(change.action, change.kind) for change in changes] == [("reload", "daemon settings")]
    assert str(step.question()).startswith("have Docker read ")
    place.allowed = None
    step.apply(changes)
    assert place.signals[-1] == os.getpid()
    assert place.file.read_text() == text
    assert remember((), (), changes, place.places) == ()


def test_a_file_whose_copy_has_gone_is_not_deleted(place: Place) -> None:
    place.file.write_text("{}")
    step = place.allow()
    step.apply(step.look())
    copy = place.etc / "daemon.json.before-bundle"
    copy.unlink()
    back = place.forbid(copy)
    back.apply(back.look())
    assert json.loads(place.file.read_text()) == {}


def test_a_dockerd_that_is_not_the_engine_is_told_nothing(place: Place, tmp_path: Path) -> None:
    """The first in the table is one of another container."""
    other = tmp_path / "proc" / "1"
    other.mkdir()
    (other / "comm").write_text("dockerd\n")
    (other / "cmdline").write_text(f"dockerd\0--config-file={tmp_path / 'other.json'}\0")
    step = place.allow()
    step.apply(step.look())
    assert set(place.signals) == {os.getpid()}
    assert json.loads(place.file.read_text()) == {"insecure-registries": [ADDRESS]}
    # Nor when the engine cannot be found out.
    (place.process / "comm").write_text("python3\n")
    place.file.unlink()
    place.signals.clear()
    place.allowed = ()
    (problem,) = place.allow().problems()
    assert "dockerd cannot be told" in problem.message
    assert str(problem.hint).endswith("&& sudo systemctl reload docker")
    with pytest.raises(HostError, match="cannot be seen which process"):
        place.allow().apply(())
    assert place.signals == []


def test_the_settings_of_an_engine_in_a_container_are_not_written_here(place: Place, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / str(place.etc).lstrip("/")).mkdir(parents=True)
    place.sees(inside)
    (problem,) = place.allow().problems()
    assert problem.message == f"the engine, process {os.getpid()}, has another file there: it is in a container"
    assert str(problem.hint).endswith(f"sudo kill -HUP {os.getpid()}")
    assert not place.file.exists()
