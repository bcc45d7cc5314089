"""What all tests share: a clean environment, fake registries, and real ones."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import hypothesis
import pytest

from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.registry.transport import Settings, Transport
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.real_registry import RealRegistry
from tests.support.stall import Stall

# A busy machine takes its time, for one example as for making it up.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure() -> None:
    """Ctrl-C as a terminal has it: a shell starts what runs in its background with SIGINT ignored, for good."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs a cluster is only run when that is asked for: `-m kubernetes`."""
    if "kubernetes" in config.option.markexpr:
        return
    apart = [item for item in items if item.get_closest_marker("kubernetes")]
    items[:] = [item for item in items if item not in apart]
    config.hook.pytest_deselected(items=apart)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The handlers that a command installs in this process end with the test: they count what came before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No proxy, no Docker setting and no login of the machine that runs the tests; some docker to type the name of."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("DOCKER_", "BUILDKIT_", "BUILDX_", "REGISTRY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    docker = tmp_path_factory.mktemp("bin") / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{docker.parent}")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that fails when told to."""
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A Docker Engine with nothing in it, that refuses when told to."""
    with FakeEngine() as fake:
        yield fake


@pytest.fixture
def hub(registry: FakeRegistry) -> FakeRegistry:
    """A Docker Hub with the toolchain and debian:12."""
    for name in ("library/registry:3", "moby/buildkit:buildx-stable-1", "docker/buildx-bin:latest",
                 "tonistiigi/binfmt:latest", "docker/dockerfile:1"):  # fmt: skip
        repository, _, tag = name.partition(":")
        registry.tag(repository, tag, registry.index(registry.image("linux/amd64", seed=name)))
    manifests = [registry.image(platform, seed="debian") for platform in ("linux/amd64", "linux/arm64")]
    registry.tag("library/debian", "12", registry.index(*manifests))
    return registry


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeRegistry]]:
    """Makes registries: `fake(auth="bearer")`. They end with the test."""
    made: list[FakeRegistry] = []

    def make(**options: Any) -> FakeRegistry:
        made.append(FakeRegistry(**options).__enter__())
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Transport]]:
    """Makes transports that wait for next to nothing before they try again: `connect(attempts=2)`."""
    made: list[Transport] = []

    def make(**settings: Any) -> Transport:
        made.append(Transport(Settings(**{"backoff": 0.001, "timeout": (5.0, 5.0), "attempts": 3, **settings})))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def document_reads(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """The digests of the documents that are read out of archives, as often as each is."""
    reads: list[Digest] = []
    read = Archive._document

    def counted(self: Archive, descriptor: Descriptor) -> bytes:
        reads.append(descriptor.digest)
        return read(self, descriptor)

    monkeypatch.setattr(Archive, "_document", counted)
    return reads


@pytest.fixture
def stall() -> Iterator[Stall]:
    """What makes requests wait, at the latest until the test ends."""
    stall = Stall()
    yield stall
    stall.release()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for 127.0.0.1 and for *.example names that `names` resolves."""
    return Certificate.make(tmp_path_factory.mktemp("tls"), "registry.example", "other.example")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve *.example to 127.0.0.1: hosts that are not this machine by their name, and so are not insecure."""
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".example") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("distribution3", marks=pytest.mark.e2e),
        pytest.param("distribution2", marks=pytest.mark.e2e),
    ]
)
def any_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry: the fake, and with -m e2e the real ones. `request.param` says which."""
    if request.param == "fake":
        with FakeRegistry() as fake:
            yield fake.host
        return
    with RealRegistry(request.param, tmp_path) as real:
        yield real.host
