"""The host that an archive is installed on: its engine, its docker command, and the places we may write to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Optional

from installer.host.docker.cli import DockerCLI
from installer.host.docker.engine import Engine
from installer.host.docker.remote import Ssh
from installer.host.kubectl import Kubectl
from installer.host.paths import Places
from installer.host.sudo import environment_of_invoker

# Puts a yes-or-no question to a person.
Ask = Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class Host:
    """The nouns that installing talks to.

    `ask` puts a yes-or-no question to the person who is there; None when nobody is.
    """

    engine: Engine
    cli: DockerCLI
    places: Places
    ask: Optional[Ask] = None
    ssh: Ssh = dataclasses.field(default_factory=Ssh)
    kubectl: Kubectl = dataclasses.field(default_factory=Kubectl)

    @classmethod
    def this(cls, environment: Mapping[str, str], ask: Optional[Ask]) -> Host:
        """Return the host this program runs on."""
        environment = environment_of_invoker(environment)
        cli = DockerCLI(environment)
        return cls(Engine(cli.endpoint()), cli, Places.of(environment), ask, Ssh(environment), Kubectl(environment))
