"""What all tests share: a clean environment, fake registries, and real ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from bundles.registry.transport import Settings, Transport
from tests.fake_registry import Certificate, FakeRegistry


def pytest_configure() -> None:
    """Ctrl-C as a terminal has it: a shell starts what runs in its background with SIGINT ignored, for good."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No proxy, no Docker setting and no login of the machine that runs the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("DOCKER_", "BUILDKIT_", "BUILDX_", "REGISTRY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that fails when told to."""
    with FakeRegistry() as fake:
        yield fake


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


class RealRegistry:
    """Run distribution 3 or 2.8.3 on an ephemeral port of 127.0.0.1, with its storage in `directory`.

    with RealRegistry("distribution3", tmp_path) as real:
        ...  # real.host
    """

    def __init__(self, name: str, directory: Path) -> None:
        self._name, self._directory = name, directory
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{listener.getsockname()[1]}"

    def __enter__(self) -> RealRegistry:
        # No `http.debug`: distribution 3's own configuration would listen on :5001.
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._directory / "storage")}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if self._name == "distribution3":
            configuration["validation"] = {"manifests": {"indexes": {"platforms": "none"}}}
        path = self._directory / "registry.json"
        path.write_text(json.dumps(configuration))
        environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
        with self._log.open("ab") as log:
            command = [str(_program(self._name)), "serve", str(path)]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        """End it at once, as a crash would, and start it again at the same address."""
        self.__exit__()
        self.__enter__()

    @property
    def _log(self) -> Path:
        return self._directory / "registry.log"

    def _wait(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 20
        while True:
            try:
                opener.open(f"http://{self.host}/v2/", timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self._log.read_text()) from None
                time.sleep(0.05)


def _program(name: str) -> Path:
    """The registry's program, made when the testbed has not made it yet."""
    if name == "distribution3":
        from tests.testbed import gotools

        return gotools.REGISTRY.make()
    from tests.testbed import debian

    return debian.OLD_REGISTRY.make() / "docker-registry"
