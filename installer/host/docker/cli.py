"""The docker command, run with argument lists; and versions as it and the engine print them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from packaging.version import Version

from bundles.errors import BundleError, HostError, reason
from installer.host.docker.container import Outcome
from installer.host.docker.endpoint import EngineEndpoint
from installer.host.relay import Relay
from installer.host.sudo import hand_over

# The release alone: what follows it (`+dfsg1`, `-desktop.1`, `-rc1`) is the packager's, and no PEP 440 version.
_RELEASE = re.compile(r"\bv?(\d+\.\d+(?:\.\d+)*)", re.ASCII)


def version_of(text: str) -> Optional[Version]:
    """Return the first version in a text such as `github.com/docker/buildx v0.29.1 abc`; None when there is none."""
    match = _RELEASE.search(text)
    return Version(match.group(1)) if match else None


class CommandError(BundleError):
    """A docker command failed: the message has the exact command and what it wrote to stderr."""


class DockerCLI:
    """Runs `docker ...` with the environment of this program.

    Args:
        environment: the variables the command gets; DOCKER_HOST, DOCKER_CONTEXT and DOCKER_CONFIG among them. With
            BUNDLE_RELAY the command is run through that directory, see `installer.host.relay`.
    """

    def __init__(self, environment: Optional[Mapping[str, str]] = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        # Never ask, never advertise, and keep buildx from sending its traces anywhere.
        self._environment["DOCKER_CLI_HINTS"] = "false"
        relay = self._environment.get("BUNDLE_RELAY")
        config = Path(self._environment.get("DOCKER_CONFIG") or Path(self._environment.get("HOME") or "/") / ".docker")
        self._written = (config, Path(self._environment.get("BUILDX_CONFIG") or config / "buildx"))
        self._relay = Relay(Path(relay)) if relay else None
        # What the host's side of the relay needs to hear of variables.
        self._before: list[str] = []

    def with_variable(self, name: str, value: str) -> DockerCLI:
        """Return a docker command that gets one variable more."""
        other = DockerCLI({**self._environment, name: value})
        other._before = [*self._before, "env", f"{name}={value}"]
        return other

    @property
    def is_installed(self) -> bool:
        return self._relay is not None or shutil.which("docker", path=self._environment.get("PATH")) is not None

    def try_run(self, arguments: Sequence[str], stdin: str = "") -> Outcome:
        """Run a command to its end, whatever its exit code.

        Raises:
            HostError: there is no docker command.
        """
        began = time.time()
        try:
            return self._run(arguments, stdin)
        finally:
            hand_over(self._written, began)

    def _run(self, arguments: Sequence[str], stdin: str) -> Outcome:
        if self._relay is not None:
            return self._relay.run([*self._before, "docker", *arguments], stdin)
        try:
            done = subprocess.run(
                ["docker", *arguments],
                input=stdin,
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="replace",
                env=self._environment,
            )
        except OSError as error:
            raise HostError(f"the docker command cannot be run: {reason(error)}", hint="install docker-cli") from None
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run(self, arguments: Sequence[str], stdin: str = "") -> str:
        """Run a command and return what it printed.

        Raises:
            CommandError: its exit code is not 0.
        """
        done = self.try_run(arguments, stdin)
        if done.code != 0:
            command = shlex.join(["docker", *arguments])
            text = (done.stderr.strip() or done.stdout.strip())[-4000:]
            raise CommandError(f"exit code {done.code} from: {command}\n{text}")
        return done.stdout

    def endpoint(self) -> EngineEndpoint:
        """Find out which engine the docker command would use."""
        default_host = self._environment.get("DOCKER_HOST")
        if not self.is_installed:
            return EngineEndpoint(default_host) if default_host else EngineEndpoint()
        done = self.try_run(["context", "inspect"])
        if done.code != 0:
            raise HostError(f"the docker context cannot be used: {done.stderr.strip()}", hint="docker context ls")
        return EngineEndpoint.parse(done.stdout, default_host)


def buildx_version(cli: DockerCLI) -> Optional[Version]:
    """Return the version of the buildx plugin that docker uses, None without one."""
    done = cli.try_run(["buildx", "version"])
    return version_of(done.stdout) if done.code == 0 else None
