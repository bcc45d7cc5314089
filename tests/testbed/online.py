"""The machine with internet: an engine in this machine's own network, and the docker command that speaks to it."""

from __future__ import annotations

import os
from pathlib import Path

from . import debian
from .host import Host
from .origin import ADDRESS


def online_engine(name: str = "online") -> Host:
    """Return a host, to be started, whose Docker Engine uses this machine's network and pulls from the origin.

    It touches no rules of this machine's firewall.
    """
    config = {
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "registry-mirrors": [f"http://{ADDRESS}"],
    }
    return Host(name=name, online=True, daemon_config=config)


def docker_environment(host: Host, directory: Path) -> dict[str, str]:
    """Return the environment in which `docker` is that of the testbed, with buildx, and speaks to the host's engine.

    What buildx keeps is in `directory`.
    """
    plugins = directory / "docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-buildx").symlink_to(debian.BUILDX.make())
    return {
        **os.environ,
        "PATH": f"{debian.DOCKER.make().parent}:{os.environ['PATH']}",
        "DOCKER_HOST": f"unix://{host.path('/run/docker.sock')}",
        "DOCKER_CONFIG": str(directory / "docker"),
    }
