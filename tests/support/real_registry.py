"""Registries as they are released: distribution 3 and 2.8.3, from the testbed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


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
            command = [str(registry_program(self._name)), "serve", str(path)]
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


def registry_program(name: str) -> Path:
    """Return the registry's program, made when the testbed has not made it yet."""
    from tests.testbed import debian, gotools

    return {"distribution3": gotools.REGISTRY, "distribution2": debian.OLD_REGISTRY}[name].make()
