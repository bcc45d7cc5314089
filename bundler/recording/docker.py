"""The docker command with buildx, on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from bundles.errors import HostError
from bundles.registry.urls import is_loopback

_LIST = ("buildx", "ls", "--format", "{{.Name}}")
# Seconds that a build has to end in after it was told to.
_PATIENCE = 20
# What has buildx leave out of the provenance, or of the metadata, what says which images a build took.
_SPOILING = ("BUILDX_METADATA_PROVENANCE", "BUILDX_NO_DEFAULT_ATTESTATIONS")


class Docker:
    """Runs `docker ...`. `builders` are the names of buildx's builders when it begins.

    Raises:
        HostError: there is no docker command, no buildx, no engine that answers, or it is another machine's.
    """

    def __init__(self) -> None:
        if shutil.which("docker") is None:
            raise HostError("there is no `docker` command here, and a build is recorded with it", hint=_INSTALL)
        listed = self._call(_LIST)
        if listed.returncode and self._call(["buildx", "version"]).returncode:
            raise HostError("`docker buildx` is not installed here, and a build is recorded with it", hint=_INSTALL)
        self.builders = (listed.stdout if listed.returncode == 0 else self.run(_LIST)).split()
        endpoint = os.environ.get("DOCKER_HOST") or self.run(
            ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        )
        endpoint = endpoint.strip()
        parts = urlsplit(endpoint)
        if parts.scheme not in ("unix", "npipe") and not is_loopback(parts.hostname or ""):
            raise HostError(
                f"docker uses the engine of another machine, `{endpoint}`, which cannot reach the recorder here",
                hint="run `bundle record` on that machine, or choose an engine here: docker context use default",
            )
        done = self._call(["info", "--format", "{{.OperatingSystem}}"])
        if done.returncode or not done.stdout.strip():
            words = done.stderr.strip() or "it says nothing of itself"
            raise HostError(f"the Docker Engine does not answer: {words}", hint="start it, and see: docker info")
        # Docker Desktop runs builds in a virtual machine, which has a name for this one.
        self.way_here = "host.docker.internal" if "Docker Desktop" in done.stdout else "127.0.0.1"

    def _call(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "DOCKER_CLI_HINTS": "false"},
        )

    def run(self, arguments: Sequence[str]) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            HostError: it failed.
        """
        done = self._call(arguments)
        if done.returncode:
            text = (done.stderr.strip() or done.stdout.strip())[-4000:]
            raise HostError(f"exit code {done.returncode} from: {shlex.join(['docker', *arguments])}\n{text}")
        return done.stdout

    def show(self, arguments: Sequence[str], directory: Optional[Path] = None) -> int:
        """Run a command whose progress goes to stderr, and return its exit code; when interrupted, it ends first.

        Args:
            arguments: of docker.
            directory: to run it in; the working directory.
        """
        # What a Bake file may read was asked for by whoever named the file here.
        environment = {**os.environ, "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
        for name in _SPOILING:
            environment.pop(name, None)
        if directory:
            environment["PWD"] = str(directory.absolute())
        process = subprocess.Popen(
            ["docker", *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd=directory, env=environment
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


_INSTALL = "install Docker with its buildx plugin (docker-ce and docker-buildx-plugin, or Docker Desktop)"
