"""The registry's container: what is in its way, when it is replaced, and what becomes of its data."""

from __future__ import annotations

import errno
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.errors import HostError, Problem
from bundles.oci.platform import Platform
from installer import preflight
from installer.host.docker.engine import EngineInfo
from installer.host.labels import LABEL_ADDRESS, LABEL_DATA, LABEL_ROLE, LABEL_WANTED
from installer.host.paths import Places
from installer.model.registry.access import PLAIN
from installer.model.registry.address import Address
from installer.model.step import Change
from installer.steps.registry.container import RegistryContainer
from tests.support.fake_engine import FakeEngine
from tests.support.tools import give, tool

REGISTRY = tool("registry:3")


def places(root: Path) -> Places:
    return Places.of({"HOME": str(root / "home"), "BUNDLE_HOST": str(root)})


def registry_problems(root: Path, address: str, engine: FakeEngine) -> list[Problem]:
    job: Any = SimpleNamespace(address=Address.parse(address), data="volume")
    host: Any = SimpleNamespace(engine=engine.engine, places=places(root))
    unused: Any = None
    return list(RegistryContainer(job, host, unused).problems())


def registry_step(
    root: Path, engine: FakeEngine, *, address: str = "localhost:5000", data: str = "volume"
) -> RegistryContainer:
    job: Any = SimpleNamespace(
        address=Address.parse(address), data=data, access=PLAIN, storage=None, tool=lambda role: REGISTRY
    )
    host: Any = SimpleNamespace(engine=engine.engine, places=places(root))
    unused: Any = None
    return RegistryContainer(job, host, unused)


@pytest.mark.parametrize("ip", ["127.0.1.1", "0.0.0.0"])
def test_a_name_that_means_this_host_alone_is_refused(
    ip: str, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: ip)
    (problem,) = registry_problems(tmp_path, "office:5000", engine)
    assert problem.message == f"`office` is {ip} here, which no other host and no builder reaches"
    assert problem.hint == "give the IP address: ip -brief address"


def test_a_number_that_means_every_address_is_refused(engine: FakeEngine, tmp_path: Path) -> None:
    (problem,) = registry_problems(tmp_path, "0:5000", engine)
    assert "`0` is 0.0.0.0 here" in problem.message


def test_a_name_of_etc_hosts_is_refused_and_its_address_is_given(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "192.0.2.7")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n192.0.2.7 Office.corp office # the archive\n")
    for name in ("office", "office.corp"):
        (problem,) = registry_problems(tmp_path, f"{name}:5000", engine)
        assert "/etc/hosts" in problem.message
        assert problem.hint == "give the IP address: --registry 192.0.2.7:5000"
    # One that DNS knows is looked at further: here, this host does not have that address.
    (problem,) = registry_problems(tmp_path, "archive:5000", engine)
    assert problem.message == "this host has no address 192.0.2.7"


@pytest.fixture
def taken() -> Iterator[str]:
    """A loopback address whose port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_somebody_elses_registry_is_one_problem_and_what_is_said_can_be_typed(
    engine: FakeEngine, tmp_path: Path, taken: str
) -> None:
    engine.add("registry", {}).ports = [("127.0.0.1", Address.parse(taken).port)]
    (problem,) = registry_problems(tmp_path, taken, engine)
    assert problem.subject == "container `registry`"
    assert problem.hint == (
        "docker update --restart=no registry && docker stop registry && docker rename registry registry-old"
    )


def test_another_container_that_has_the_port_is_stopped_for_good(
    engine: FakeEngine, tmp_path: Path, taken: str
) -> None:
    engine.add("other", {}).ports = [("0.0.0.0", Address.parse(taken).port)]
    for count in (1, 2):
        problems = registry_problems(tmp_path, taken, engine)
        assert len(problems) == count
        assert "the container `other`" in problems[-1].message
        assert str(problems[-1].hint).startswith("docker update --restart=no other && docker stop other; or choose")
        engine.add("registry", {})


def test_our_own_registry_is_in_nobodys_way_under_another_name_of_its_address(
    engine: FakeEngine, tmp_path: Path, taken: str
) -> None:
    port = Address.parse(taken).port
    labels = {LABEL_ROLE: "registry", LABEL_ADDRESS: f"localhost:{port}"}
    container = engine.add("registry", labels)
    container.ports = [("127.0.0.1", port)]
    assert registry_problems(tmp_path, taken, engine) == []
    # It listens on another address there, so that the holder of this one is somebody else.
    container.ports = [("127.0.0.2", port)]
    for who in ("another process", "the container `other`"):
        (problem,) = registry_problems(tmp_path, taken, engine)
        assert problem.message == f"port {port} is taken by {who}"
        engine.add("other", {}).ports = [("127.0.0.1", port)]


@pytest.fixture
def squatter() -> Iterator[int]:
    """A port of ::1 on which somebody listens, and nobody on 127.0.0.1."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        yield server.getsockname()[1]


def test_whoever_listens_on_the_other_address_of_localhost_is_named(
    engine: FakeEngine, tmp_path: Path, squatter: int
) -> None:
    """Also where our own registry runs, and Docker publishes on 127.0.0.1 only."""
    (tmp_path / "proc").symlink_to("/proc")
    user = pwd.getpwuid(os.getuid()).pw_name
    for _ in range(2):
        (problem,) = registry_problems(tmp_path, f"localhost:{squatter}", engine)
        assert problem.message.startswith(f"port {squatter} of ::1, which `localhost` is too, is taken by ")
        assert f"(process {os.getpid()}) of the user `{user}`" in problem.message
        engine.add("registry", {LABEL_ROLE: "registry"}).ports = [("127.0.0.1", squatter)]
    assert [
        problem.message for problem in registry_step(tmp_path, engine, address=f"localhost:{squatter}").held_by_others()
    ] == [problem.message]
    engine.containers["registry"].ports = [("127.0.0.1", squatter), ("::1", squatter)]
    assert registry_problems(tmp_path, f"localhost:{squatter}", engine) == []


def test_the_registry_is_published_on_both_addresses_of_localhost(engine: FakeEngine, tmp_path: Path) -> None:
    give(engine, REGISTRY)
    step = registry_step(tmp_path, engine)
    step._create(step._wanted())
    assert engine.containers["registry"].ports == [("127.0.0.1", 5000), ("::1", 5000)]
    assert step.notes() == []
    # Docker without its proxy publishes on one of them only.
    engine.containers["registry"].ports = [("127.0.0.1", 5000)]
    (note,) = step.notes()
    assert note.startswith("Docker does not publish on [::1]:5000")
    assert "--registry 127.0.0.1:5000" in note


def test_a_registry_that_cannot_be_published_on_both_is_on_the_first(engine: FakeEngine, tmp_path: Path) -> None:
    give(engine, REGISTRY)
    step = registry_step(tmp_path, engine)
    engine.refuse("POST /containers/registry/start", "cannot publish on ::1")
    engine.after("DELETE /containers/registry", engine.refused.clear)
    step._create(step._wanted())
    assert engine.containers["registry"].ports == [("127.0.0.1", 5000)]
    assert engine.containers["registry"].state == "running"


def test_an_image_that_took_the_name_is_not_started(engine: FakeEngine, tmp_path: Path) -> None:
    other = give(engine, REGISTRY, "sha256:" + "e" * 64)
    step = registry_step(tmp_path, engine)
    with pytest.raises(HostError) as caught:
        step._create(step._wanted())
    assert other in caught.value.message
    assert [each for each in engine.done if each.startswith("start")] == []
    assert engine.containers == {}
    # Docker still has the one that was installed, by its digest.
    engine.images[str(REGISTRY.config.digest)] = {}
    engine.ids[str(REGISTRY.config.digest)] = str(REGISTRY.config.digest)
    step._create(step._wanted())
    assert engine.containers["registry"].image == str(REGISTRY.config.digest)


def test_a_registry_of_another_image_is_replaced(engine: FakeEngine, tmp_path: Path) -> None:
    step = registry_step(tmp_path, engine)
    container = engine.add("registry", {LABEL_ROLE: "registry", LABEL_WANTED: step._wanted().labels[LABEL_WANTED]})
    container.image = str(REGISTRY.root)
    assert step.look() == []
    container.image = "sha256:" + "e" * 64
    (change,) = step.look()
    assert change.action == "replace"


def test_another_name_of_its_address_replaces_the_registry(engine: FakeEngine, tmp_path: Path) -> None:
    wanted = [
        registry_step(tmp_path, engine, address=address)._wanted().labels[LABEL_WANTED]
        for address in ("localhost:5000", "127.0.0.1:5000")
    ]
    labels = {LABEL_ROLE: "registry", LABEL_DATA: "volume", LABEL_WANTED: wanted[0]}
    engine.add("registry", labels).image = str(REGISTRY.config.digest)
    assert registry_step(tmp_path, engine, address="localhost:5000").look() == []
    (change,) = registry_step(tmp_path, engine, address="127.0.0.1:5000").look()
    assert (change.action, change.name) == ("replace", "registry")


@pytest.fixture
def unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory below one that this user may not search. Root may, so that the system call is told to refuse."""
    closed = tmp_path / "closed"
    closed.mkdir()
    stat, lstat = os.stat, os.lstat

    def refusing(real: Any) -> Any:
        def look(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path).startswith(f"{closed}/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        return look

    monkeypatch.setattr(os, "stat", refusing(stat))
    monkeypatch.setattr(os, "lstat", refusing(lstat))
    return closed / "data"


def test_a_data_directory_that_cannot_be_seen_is_passed_over(engine: FakeEngine, tmp_path: Path, unseen: Path) -> None:
    data = f"/{unseen.relative_to(tmp_path)}"
    step = registry_step(tmp_path, engine, data=data)
    assert [problem for problem in step.problems() if "--data" in problem.subject] == []
    # It may be somebody's, who would lose it with an uninstallation if it counted as made for us.
    assert [change.action for change in step.look()] == ["start"]
    job: Any = SimpleNamespace(data=data, address=Address.parse("localhost:5000"), site=None, storage=None)
    info = EngineInfo("29.0", Platform("linux", "amd64"), data, (), ())
    host: Any = SimpleNamespace(engine=engine.engine, places=places(tmp_path))
    big: Any = SimpleNamespace(look=lambda: [Change("x", "y", "z", size=1)])
    assert preflight.space_problems(job, info, host, [big], big) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("volume", "data in volume; the data is kept"),
        ("other", "data in other; what is in volume stays there and is no longer served"),
    ],
)
def test_replacing_the_registry_says_what_becomes_of_the_data(
    data: str, says: str, engine: FakeEngine, tmp_path: Path
) -> None:
    labels = {
        LABEL_ROLE: "registry",
        LABEL_DATA: "volume",
        LABEL_WANTED: "what an older one wanted",
    }
    engine.add("registry", labels)
    (change,) = registry_step(tmp_path, engine, data=data).look()
    assert (change.action, change.name) == ("replace", "registry")
    assert change.detail == f"localhost:5000/registry:3 on 127.0.0.1:5000 and [::1]:5000, {says}"
