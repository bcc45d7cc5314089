"""Containers of moments: what a killed run has left goes, what is somebody else's stays."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from docker.errors import NotFound

from bundles.errors import DiskFullError, HostError
from bundles.oci.platform import Platform
from installer.host.docker_engine import (
    Container,
    Endpoint,
    Engine,
    Outcome,
)
from installer.host.host import Host
from installer.model.address import Address
from installer.model.job import Wanted
from installer.receipt.installed import Installed
from installer.steps.prune_registry import CollectGarbage

GARBAGE = "bundle-garbage-collect"


class Docker:
    """As much of docker-py's client as is needed to run a container; what is done is in `done`."""

    def __init__(self, *left: tuple[str, dict[str, str]]) -> None:
        self.containers = dict(left)
        self.done: list[str] = []

    def inspect_container(self, name: str) -> Any:
        if name not in self.containers:
            raise NotFound("no such container")
        labels = self.containers[name]
        return {
            "Id": name,
            "Name": f"/{name}",
            "Image": "",
            "State": {"Status": "exited"},
            "Config": {"Labels": labels},
        }

    def create_host_config(self, **_: Any) -> Any:
        return {}

    def create_container(self, *, name: str, labels: dict[str, str], **_: Any) -> Any:
        if name in self.containers:
            raise NotFound("conflict: the name is in use")
        self.containers[name] = labels
        self.done.append("create")
        return {"Id": name}

    def stop(self, name: str, timeout: int) -> None:
        pass

    def start(self, name: str) -> None:
        self.done.append("start")

    def wait(self, name: str) -> Any:
        return {"StatusCode": 0}

    def logs(self, name: str, **_: Any) -> bytes:
        return b""

    def remove_container(self, name: str, **_: Any) -> None:
        del self.containers[name]
        self.done.append("remove")


def engine_of(docker: Any) -> Engine:
    engine = Engine(Endpoint())
    engine._connected = docker
    return engine


def test_one_that_a_killed_run_left_is_replaced() -> None:
    docker = Docker((GARBAGE, {"offline-bundle.role": "garbage"}))
    outcome = engine_of(docker).run("image", [], name=GARBAGE, labels={"offline-bundle.role": "garbage"})
    assert (outcome.code, docker.done, docker.containers) == (0, ["remove", "create", "start", "remove"], {})


def test_one_without_our_mark_stays() -> None:
    docker = Docker((GARBAGE, {}))
    with pytest.raises(HostError, match="the name is in use"):
        engine_of(docker).run("image", [], name=GARBAGE)
    assert (docker.done, list(docker.containers)) == ([], [GARBAGE])


def test_what_is_not_to_start_is_removed() -> None:
    docker = Docker()

    def ready() -> None:
        assert docker.containers == {GARBAGE: {"offline-bundle.role": "garbage"}}
        raise HostError("not now")

    with pytest.raises(HostError, match="not now"):
        engine_of(docker).run("image", [], name=GARBAGE, labels={"offline-bundle.role": "garbage"}, ready=ready)
    assert (docker.done, docker.containers) == (["create", "remove"], {})


class Saying:
    """A client that says this of the engine, and this while an image is loaded."""

    def __init__(self, info: Any = None, events: Sequence[Any] = ()) -> None:
        self.info = lambda: info
        self.load_image = lambda _: iter(events)


SYSTEM = {"Address": "/run/containerd/containerd.sock", "Namespaces": {"Containers": "moby"}}
OWN = {"Address": "/var/run/docker/containerd/containerd.sock"}
SNAPSHOTTER = [["driver-type", "io.containerd.snapshotter.v1"]]
OVERLAY2 = [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]


@pytest.mark.parametrize(
    ("status", "containerd", "place"),
    [
        (SNAPSHOTTER, SYSTEM, "/var/lib/containerd"),
        (SNAPSHOTTER, OWN, "/srv/docker"),
        # Before API 1.46 the engine does not say; containerd itself is there with the classic store, too.
        (SNAPSHOTTER, None, "/srv/docker"),
        (OVERLAY2, SYSTEM, "/srv/docker"),
        (None, None, "/srv/docker"),
    ],
)
def test_where_images_take_their_space(status: Any, containerd: Any, place: str) -> None:
    says = {"DockerRootDir": "/srv/docker", "DriverStatus": status, "Containerd": containerd}
    info = engine_of(Saying(says)).info()
    assert (info.root, info.image_root) == ("/srv/docker", place)


def test_an_image_that_could_not_be_unpacked_is_not_loaded() -> None:
    name = "docker.io/library/registry:3"
    failed = f"Error unpacking image {name}: failed to extract layer: write /a: no space left on device\n"
    engine = engine_of(Saying(events=[{"stream": f"Loaded image: {name}\n"}, {"stream": failed}]))
    with pytest.raises(DiskFullError, match="write /a"):
        engine.load(iter([b""]))
    engine_of(Saying(events=[{"stream": f"Loaded image: {name}\n"}])).load(iter([b""]))


@pytest.mark.parametrize("wrap", [lambda items: {"Volumes": items}, lambda items: {"VolumeUsage": {"Items": items}}])
def test_the_size_of_a_volume_is_read_as_old_and_new_engines_give_it(wrap: Any) -> None:
    items = [
        {"Name": "a", "UsageData": {"RefCount": 1, "Size": 4096}},
        {"Name": "unknown", "UsageData": {"RefCount": 0, "Size": -1}},
    ]
    answer = SimpleNamespace(raise_for_status=lambda: None, json=lambda: wrap(items))

    def get(url: str, params: dict[str, str]) -> Any:
        # Docker 29 names the volumes only when it is asked to be verbose.
        assert (url, params["verbose"]) == ("http://docker/v1.52/system/df", "1")
        return answer

    engine = engine_of(SimpleNamespace(base_url="http://docker", api_version="1.52", get=get))
    assert [engine.data_size(name) for name in ("a", "unknown", "b")] == [4096, None, None]


class Busy:
    """An engine on which somebody starts the registry as soon as it was stopped."""

    state = "running"

    def container(self, name: str) -> Container:
        return Container("1", name, "sha256:1", self.state, {"offline-bundle.role": "registry"}, {})

    def image_start(self, name: str) -> tuple[list[str], list[str]]:
        return [], ["serve", "/etc/config.yml"]

    def data_size(self, data: str) -> Optional[int]:
        return None

    def stop_container(self, name: str) -> None:
        pass

    def start_container(self, name: str) -> None:
        pass

    def run(self, image: str, arguments: Sequence[str], *, labels: Any, ready: Any, **_: Any) -> Outcome:
        assert labels == {"offline-bundle.role": "garbage"}
        ready()
        return Outcome(0, "", "")


@pytest.mark.parametrize("state", ["running", "exited"])
def test_garbage_is_not_collected_while_the_registry_runs(state: str) -> None:
    engine = Busy()
    engine.state = state
    amd64 = Platform("linux", "amd64")
    wanted = Wanted(Address.parse("localhost:5000"), "bundle-registry", "x", amd64, (amd64,), {}, {})
    registry: Any = SimpleNamespace(ping=lambda: None)
    host: Any = Host(engine, None, None)  # type: ignore[arg-type]
    step = CollectGarbage(Installed({}, wanted, (), ()), host, None, registry, True)  # type: ignore[arg-type]
    if state == "running":
        with pytest.raises(HostError, match="started by somebody else"):
            step.apply(())
    else:
        step.apply(())
        assert step.freed is None
