"""Run a real registry (distribution) on a storage directory and a loopback port."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from . import gotools
from .errors import SetupError
from .processes import Daemon

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def start_registry(daemon: Daemon, storage: Path, port: int) -> None:
    """Serve `storage` at 127.0.0.1:`port` until `daemon.stop()`. Raises SetupError when the port is taken."""
    if answers(port):
        raise SetupError(f"another program already serves 127.0.0.1:{port}; end it, or find it with `ss -lptn`")
    config = daemon.log.with_suffix(".json")
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": False}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OTEL_TRACES_EXPORTER": "none", "HOME": "/"}
    argv = [str(gotools.REGISTRY.make()), "serve", str(config)]
    daemon.start(argv, environment, lambda: answers(port))


def answers(port: int) -> bool:
    """Whether a registry answers at 127.0.0.1:`port`."""
    try:
        with _open(f"http://127.0.0.1:{port}/v2/", {}) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def fetch_manifest(port: int, repository: str, reference: str) -> tuple[str, bytes]:
    """The digest and the raw bytes of a manifest in the registry at 127.0.0.1:`port`."""
    with _open(f"http://127.0.0.1:{port}/v2/{repository}/manifests/{reference}", {"Accept": ACCEPT}) as response:
        return response.headers["Docker-Content-Digest"], response.read()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _open(url: str, headers: dict[str, str]) -> Any:
    """Open a loopback address directly, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=10)
