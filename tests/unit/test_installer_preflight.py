"""What installing finds before it touches anything, against an engine and a host that are made up."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from bundles.errors import HostError, Problem
from bundles.oci.platform import Platform
from bundles.registry.transport import Settings, Transport
from bundles.runtime import program
from installer import preflight
from installer.host.docker_engine import Container, EngineInfo
from installer.host.labels import ENVIRONMENT, LABEL_ADDRESS, LABEL_DATA, LABEL_ROLE, LABEL_WANTED
from installer.host.paths import Places
from installer.host.relay import Finished
from installer.model.address import Address
from installer.model.job import Options
from installer.model.step import Change
from installer.receipt.installed import Installed
from installer.registry.client import Registry
from installer.steps import buildx_plugin
from installer.steps.builder import Builder, BuildkitdConfig
from installer.steps.prune_registry import PruneImages
from installer.steps.registry_container import RegistryContainer


@dataclasses.dataclass
class Engine:
    """An engine with at most one container, which may publish the port that is asked for."""

    found: Optional[Container] = None
    holders: tuple[str, ...] = ()

    def container(self, name: str) -> Optional[Container]:
        return self.found

    def info(self) -> Any:
        return SimpleNamespace(has_selinux=False)

    def publishers(self, port: int) -> tuple[str, ...]:
        return self.holders


def places(root: Path) -> Places:
    return Places.of({"HOME": str(root / "home"), "BUNDLE_HOST": str(root)})


def registry_problems(root: Path, address: str, engine: Optional[Engine] = None) -> list[Problem]:
    job: Any = SimpleNamespace(address=Address.parse(address), data="volume")
    host: Any = SimpleNamespace(engine=engine or Engine(), places=places(root))
    unused: Any = None
    return list(RegistryContainer(job, host, unused).problems())


def registry_step(
    root: Path, engine: Optional[Engine] = None, *, address: str = "localhost:5000", data: str = "volume"
) -> RegistryContainer:
    tool = SimpleNamespace(name="registry:3", manifest=SimpleNamespace(digest="sha256:1"))
    job: Any = SimpleNamespace(address=Address.parse(address), data=data, tool=lambda role: tool)
    host: Any = SimpleNamespace(engine=engine or Engine(), places=places(root))
    unused: Any = None
    return RegistryContainer(job, host, unused)


@pytest.mark.parametrize("ip", ["127.0.1.1", "0.0.0.0"])
def test_a_name_that_means_this_host_alone_is_refused(ip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: ip)
    (problem,) = registry_problems(tmp_path, "office:5000")
    assert problem.message == f"`office` is {ip} here, which no other host and no builder reaches"
    assert problem.hint == "give the IP address: ip -brief address"


def test_a_number_that_means_every_address_is_refused(tmp_path: Path) -> None:
    (problem,) = registry_problems(tmp_path, "0:5000")
    assert "`0` is 0.0.0.0 here" in problem.message


def test_a_name_of_etc_hosts_is_refused_and_its_address_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "192.0.2.7")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n192.0.2.7 Office.corp office # the archive\n")
    for name in ("office", "office.corp"):
        (problem,) = registry_problems(tmp_path, f"{name}:5000")
        assert "/etc/hosts" in problem.message
        assert problem.hint == "give the IP address: --registry 192.0.2.7:5000"
    # One that DNS knows is looked at further: here, this host does not have that address.
    (problem,) = registry_problems(tmp_path, "archive:5000")
    assert problem.message == "this host has no address 192.0.2.7"


class CLI:
    """A docker command whose buildx is of that version."""

    is_installed = True

    def __init__(self, version: str) -> None:
        self._version = version

    def try_run(self, arguments: Sequence[str], stdin: str = "") -> Finished:
        assert list(arguments) == ["buildx", "version"]
        return Finished(0, f"github.com/docker/buildx v{self._version} 0123456\n", "")


def test_the_users_plugin_is_kept_over_several_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildx_plugin, "load", lambda *arguments: None)
    engine: Any = SimpleNamespace(read_file=lambda image, path: iter([b"ours"]), remove_image=lambda name: None)
    job: Any = SimpleNamespace(
        options=SimpleNamespace(system=False), tool=lambda role: SimpleNamespace(name="buildx:1")
    )
    # What is installed goes on saying that it is too old: it does not work.
    host: Any = SimpleNamespace(engine=engine, places=places(tmp_path), cli=CLI("0.10.0"))
    unused: Any = None
    step = buildx_plugin.BuildxPlugin(job, host, unused)
    plugin = host.places.buildx_plugin
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b"the user's")
    assert [change.action for change in step.look()] == ["copy", "install"]
    for _ in range(2):
        with pytest.raises(HostError, match="does not work"):
            step.apply(step.look())
        assert (plugin.read_bytes(), host.places.buildx_replaced.read_bytes()) == (b"ours", b"the user's")
    assert [change.action for change in step.look()] == ["install"]


def config_step(root: Path) -> BuildkitdConfig:
    job: Any = SimpleNamespace(address=Address.parse("localhost:5000"), builder="cross-builder", mirrors={})
    host: Any = SimpleNamespace(places=places(root))
    return BuildkitdConfig(job, host)


def test_somebody_elses_buildkitd_toml_is_not_written_over(tmp_path: Path) -> None:
    step = config_step(tmp_path)
    path = places(tmp_path).buildkitd_config("cross-builder")
    path.parent.mkdir(parents=True)
    path.write_text("[worker.oci]\n")
    (problem,) = step.problems()
    assert (problem.subject, problem.message) == (str(path), "it is not one that this program wrote")
    assert problem.hint == f"mv {path} {path}.old, or choose another name with --builder"
    # Ours may be as old as it likes.
    path.write_text("# Written by `bundle install`. BuildKit reads it.\n# mine\n")
    assert step.problems() == []
    path.unlink()
    assert step.problems() == []
    step.apply(step.look())
    assert step.problems() == []


def test_the_buildkitd_toml_of_our_builder_is_ours_whatever_became_of_it(tmp_path: Path) -> None:
    path = places(tmp_path).buildkitd_config("cross-builder")
    record = places(tmp_path).buildx_config / "instances" / "cross-builder"
    record.parent.mkdir(parents=True)
    node = {"Name": "cross-builder0", "DriverOpts": {f"env.{ENVIRONMENT}": "abc"}}
    record.write_text(json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": [node]}))
    path.write_text("[x]\n")
    assert config_step(tmp_path).problems() == []


def container(name: str, labels: Optional[dict[str, str]] = None) -> Container:
    return Container("id", name, "sha256:0", "running", labels or {}, {}, "always")


@pytest.fixture
def taken() -> Iterator[str]:
    """A loopback address whose port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_somebody_elses_registry_is_one_problem_and_what_is_said_can_be_typed(tmp_path: Path, taken: str) -> None:
    engine = Engine(container("registry"), ("registry",))
    (problem,) = registry_problems(tmp_path, taken, engine)
    assert problem.subject == "container `registry`"
    assert problem.hint == (
        "docker update --restart=no registry && docker stop registry && docker rename registry registry-old"
    )


def test_another_container_that_has_the_port_is_stopped_for_good(tmp_path: Path, taken: str) -> None:
    for found, count in ((None, 1), (container("registry"), 2)):
        problems = registry_problems(tmp_path, taken, Engine(found, ("other",)))
        assert len(problems) == count
        assert "the container `other`" in problems[-1].message
        assert str(problems[-1].hint).startswith("docker update --restart=no other && docker stop other; or choose")


def test_our_own_registry_is_in_nobodys_way_under_another_name_of_its_address(tmp_path: Path, taken: str) -> None:
    port = Address.parse(taken).port
    labels = {LABEL_ROLE: "registry", LABEL_ADDRESS: f"localhost:{port}"}
    assert registry_problems(tmp_path, taken, Engine(container("registry", labels), ("registry",))) == []
    # It listens on another address there, so that the holder of this one is somebody else.
    labels[LABEL_ADDRESS] = f"127.0.0.2:{port}"
    for holders, who in ((("registry",), "another process"), (("registry", "other"), "the container `other`")):
        (problem,) = registry_problems(tmp_path, taken, Engine(container("registry", labels), holders))
        assert problem.message == f"port {port} is taken by {who}"


def test_another_name_of_its_address_replaces_the_registry(tmp_path: Path) -> None:
    wanted = [
        registry_step(tmp_path, address=address)._wanted().labels[LABEL_WANTED]
        for address in ("localhost:5000", "127.0.0.1:5000")
    ]
    labels = {LABEL_ROLE: "registry", LABEL_DATA: "volume", LABEL_WANTED: wanted[0]}
    engine = Engine(container("registry", labels))
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


def test_a_data_directory_that_cannot_be_seen_is_passed_over(tmp_path: Path, unseen: Path) -> None:
    data = f"/{unseen.relative_to(tmp_path)}"
    step = registry_step(tmp_path, data=data)
    assert [problem for problem in step.problems() if "--data" in problem.subject] == []
    # It may be somebody's, who would lose it with an uninstallation if it counted as made for us.
    assert [change.action for change in step.look()] == ["start"]
    job: Any = SimpleNamespace(data=data, address=Address.parse("localhost:5000"))
    info = EngineInfo("29.0", Platform("linux", "amd64"), data, (), ())
    host: Any = SimpleNamespace(engine=Engine(), places=places(tmp_path))
    steps: Any = [
        SimpleNamespace(name=name, look=lambda: [Change("x", "y", "z", size=1)]) for name in ("images", "push")
    ]
    assert preflight._space_problems(job, info, host, steps) == []


@pytest.mark.parametrize(
    ("started", "called"),
    [
        ("/usb/offline.tar", "python3 /usb/offline.tar"),
        ("a stick/offline.tar.002", "python3 'a stick/offline.tar.002'"),
    ],
)
def test_next_steps_name_the_archive_as_it_was_called(
    started: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "running_archive", lambda: Path(started))
    monkeypatch.setattr(sys, "argv", [started, "prune"])
    unused: Any = None
    with Transport(Settings(insecure=frozenset({"localhost:1"}))) as transport:
        installed = Installed({}, unused, (), ())
        (problem,) = PruneImages(installed, Registry(transport, "localhost:1"), ()).problems()
    assert problem.hint == f"{called} doctor"
    manifest = SimpleNamespace(platforms=(Platform("linux", "amd64"),))
    archive: Any = SimpleNamespace(path=Path("a b.tar"), manifest=manifest)
    options = Options(platforms=(Platform("linux", "s390x"),))
    (problem,) = preflight._platform_problems(archive, options)
    assert problem.hint == f"{called} inspect 'a b.tar'"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("volume", "data in volume; the data is kept"),
        ("other", "data in other; what is in volume stays there and is no longer served"),
    ],
)
def test_replacing_the_registry_says_what_becomes_of_the_data(data: str, says: str, tmp_path: Path) -> None:
    labels = {
        LABEL_ROLE: "registry",
        LABEL_DATA: "volume",
        LABEL_WANTED: "what an older one wanted",
    }
    (change,) = registry_step(tmp_path, Engine(container("registry", labels)), data=data).look()
    assert (change.action, change.name) == ("replace", "registry")
    assert change.detail == f"registry:3 on 127.0.0.1:5000, {says}"


def test_nodes_that_a_user_added_to_the_builder_do_not_go_without_a_word(tmp_path: Path) -> None:
    record = places(tmp_path).buildx_config / "instances" / "cross-builder"
    record.parent.mkdir(parents=True)
    tool = SimpleNamespace(name="buildkit:1", manifest=SimpleNamespace(digest="sha256:1"))
    job: Any = SimpleNamespace(
        address=Address.parse("localhost:5000"),
        builder="cross-builder",
        mirrors={},
        platforms=("linux/arm64",),
        tool=lambda role: tool,
    )
    host: Any = SimpleNamespace(engine=Engine(), places=places(tmp_path))
    details = []
    for names in (("cross-builder0",), ("cross-builder0", "fast", "far")):
        nodes: list[dict[str, Any]] = [{"Name": name, "DriverOpts": {}} for name in names]
        nodes[0]["DriverOpts"] = {f"env.{ENVIRONMENT}": "what an older one wanted"}
        record.write_text(json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": nodes}))
        (change,) = Builder(job, host).look()
        assert (change.action, change.name) == ("recreate", "cross-builder")
        details.append(change.detail)
    kept = "buildkit:1 for linux/arm64; the build cache is kept"
    assert details[0] == kept
    assert details[1].startswith(f"{kept}; nodes that were added go: fast, far; ")
