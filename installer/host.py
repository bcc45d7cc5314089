"""The host that an archive is installed on: its engine, its docker command, and the places we may write to."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError
from installer.dockercli import DockerCLI
from installer.engine import Engine
from installer.files import read_optional
from installer.invoker import environment_of_invoker

# The file name by which docker finds the plugin.
PLUGIN = "docker-buildx"


@dataclasses.dataclass(frozen=True)
class Places:
    """The files that belong to the user who runs this, and the system's own that Docker reads.

    `docker_config` is Docker's directory (~/.docker), `buildx_config` that of buildx, `state` ours. `root` is where the
    whole host can be looked at: elsewhere than / when this program runs in a container (BUNDLE_HOST, see install.sh).
    """

    docker_config: Path
    buildx_config: Path
    state: Path
    daemon_json: Path = Path("/etc/docker/daemon.json")
    daemon_pid: Path = Path("/var/run/docker.pid")
    proc: Path = Path("/proc")
    root: Path = Path("/")

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Places:
        """The places that the environment names, by the rules of Docker, buildx and XDG."""
        home = Path(environment.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111  works without HOME
        docker_config = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
        state = Path(environment.get("XDG_STATE_HOME") or home / ".local/state")
        root = Path(environment.get("BUNDLE_HOST") or "/")
        return cls(
            docker_config=docker_config,
            buildx_config=Path(environment.get("BUILDX_CONFIG") or docker_config / "buildx"),
            state=state / "bundle",
            proc=root / "proc",
            root=root,
        )

    def seen(self, path: Path) -> Path:
        """Where an absolute path of the host can be looked at."""
        return self.root / path.relative_to("/")

    @property
    def receipt(self) -> Path:
        return self.state / "receipt.json"

    @property
    def buildx_plugin(self) -> Path:
        return self.docker_config / "cli-plugins" / PLUGIN

    @property
    def system_plugin(self) -> Path:
        """The plugin for every user of this host; docker looks into the user's own directory first."""
        return Path("/usr/local/lib/docker/cli-plugins/docker-buildx")

    @property
    def buildx_replaced(self) -> Path:
        """Where a plugin that was too old is kept."""
        return self.state / "docker-buildx.replaced"

    def buildkitd_config(self, builder: str) -> Path:
        return self.docker_config / "buildx" / f"buildkitd.{builder}.toml"

    @property
    def binfmt(self) -> Path:
        return self.proc / "sys/fs/binfmt_misc"


@dataclasses.dataclass(frozen=True)
class Host:
    """The nouns that installing talks to.

    `ask` puts a yes-or-no question to the person who is there; None when nobody is.
    """

    engine: Engine
    cli: DockerCLI
    places: Places
    ask: Optional[Callable[[str], bool]] = None

    @classmethod
    def this(cls, environment: Mapping[str, str], ask: Optional[Callable[[str], bool]]) -> Host:
        """The host this program runs on."""
        environment = environment_of_invoker(environment)
        cli = DockerCLI(environment)
        return cls(Engine(cli.endpoint()), cli, Places.of(environment), ask)


def read_json_file(path: Path) -> Optional[dict[str, Any]]:
    """A JSON object that another program keeps on the host; None when the file is not there.

    Raises:
        HostError: it cannot be read, or is not a JSON object.
    """
    data = read_optional(path)
    if data is None:
        return None
    try:
        value = json.loads(data) if data.strip() else {}
    except ValueError as error:
        hint = f"python3 -m json.tool {shlex.quote(str(path))}"
        raise HostError(f"`{path}` is not valid JSON: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise HostError(f"`{path}` is not a JSON object")
    return value
