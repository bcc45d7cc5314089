"""Containers of moments: what a killed run has left goes, what is somebody else's stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.errors import DiskFullError, HostError
from installer.host.docker.container import NewContainer
from installer.host.docker.endpoint import EngineEndpoint
from installer.host.docker.engine import Engine
from tests.support.fake_engine import FakeEngine

GARBAGE = "bundle-garbage-collect"
MARK = {"offline-bundle.role": "garbage"}


def test_one_that_a_killed_run_left_is_replaced(engine: FakeEngine) -> None:
    engine.add(GARBAGE, MARK)
    engine.exit_code = 3
    assert engine.engine.run("image", [], name=GARBAGE, labels=MARK).code == 3
    assert [each.partition(" ")[0] for each in engine.done] == ["stop", "remove", "create", "start", "remove"]
    assert engine.containers == {}


def test_one_without_our_mark_stays(engine: FakeEngine) -> None:
    engine.add(GARBAGE, {})
    with pytest.raises(HostError, match="the name is in use"):
        engine.engine.run("image", [], name=GARBAGE)
    assert (engine.done, list(engine.containers)) == ([], [GARBAGE])


def test_what_is_not_to_start_is_removed(engine: FakeEngine) -> None:
    def ready() -> None:
        (container,) = engine.containers.values()
        assert (container.state, container.labels) == ("created", MARK)
        raise HostError("not now")

    with pytest.raises(HostError, match="not now"):
        engine.engine.run("image", [], name=GARBAGE, labels=MARK, ready=ready)
    assert (engine.done, engine.containers) == ([f"create {GARBAGE}", f"remove {GARBAGE}"], {})


def engine_of(client: Any) -> Engine:
    engine = Engine(EngineEndpoint())
    engine._connected = client
    return engine


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
    assert [engine.volume_size(name) for name in ("a", "unknown", "b")] == [4096, None, None]


def test_a_file_of_an_image_that_nobody_reads_to_its_end_is_no_longer_sent(engine: FakeEngine) -> None:
    """Docker 26.1 does not remove a container from which a file is on its way, and nobody reads it."""
    engine.images["image"] = {"/buildx": bytes(8 << 20)}
    pieces = engine.engine.read_file("image", "/buildx")
    assert next(pieces) == bytes(1 << 20)
    with pytest.raises(DiskFullError, match="no room"):
        pieces.throw(DiskFullError("no room"))  # type: ignore[attr-defined]
    assert engine.containers == {}
    assert sum(map(len, engine.engine.read_file("image", "/buildx"))) == 8 << 20
    with pytest.raises(HostError, match="refused to read `/other` from `image`: Could not find the file /other"):
        next(engine.engine.read_file("image", "/other"))
    assert engine.containers == {}


def test_a_file_of_an_image_is_looked_for_without_being_sent(engine: FakeEngine) -> None:
    """Docker 26.1 does not remove a container from which a file is on its way, and nobody reads it."""
    engine.images["image"] = {"/bin/qemu": b"x"}
    engine.refuse("GET /containers/bundle-copy/archive", "it would be sent")
    assert [engine.engine.has_file("image", path) for path in ("/bin/qemu", "/bin/other")] == [True, False]
    assert engine.containers == {}


@pytest.mark.parametrize("security", [(), ("name=userns",)])
@pytest.mark.parametrize(
    ("what", "shares"),
    [
        ({}, False),
        ({"binds": ("volume:/data",)}, False),
        ({"binds": ("/srv/registry:/data",)}, True),
        ({"privileged": True}, True),
        ({"network": "host"}, True),
    ],
)
def test_what_shares_with_the_host_has_its_users(
    engine: FakeEngine, security: Sequence[str], what: Mapping[str, Any], shares: bool
) -> None:
    """Docker refuses privileged containers and those in the host's network where it maps users to others."""
    engine.security = security
    engine.images["image"] = {}
    engine.engine.create_container(NewContainer("x", "image", {}, **what), lambda _: True)
    host = engine.created["x"]["HostConfig"]
    assert (host.get("UsernsMode") or "") == ("host" if security and shares else "")


@pytest.mark.parametrize("privileged", [False, True])
def test_what_runs_privileged_has_the_hosts_users(engine: FakeEngine, privileged: bool) -> None:
    engine.security = ("name=userns",)
    engine.engine.run("image", [], privileged=privileged, name="x")
    assert (engine.created["x"]["HostConfig"].get("UsernsMode") or "") == ("host" if privileged else "")
