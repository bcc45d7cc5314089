"""Where on a host the files are that installing reads and writes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

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
    proc: Path = Path("/proc")
    root: Path = Path("/")
    certs_d: Path = Path("/etc/docker/certs.d")

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Places:
        """Return the places that the environment names, by the rules of Docker, buildx and XDG."""
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
        """Return where an absolute path of the host can be looked at."""
        return self.root / path.relative_to("/")

    def named(self, place: Path) -> Path:
        """Return the host's name of a place that was looked at: the reverse of `seen`."""
        return Path("/") / place.relative_to(self.root)

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
        """The plugin that was too old."""
        return self.state / "docker-buildx.replaced"

    def buildkitd_config(self, builder: str) -> Path:
        return self.docker_config / "buildx" / f"buildkitd.{builder}.toml"

    def kubeconfig(self, builder: str) -> Path:
        """The kubeconfig of a builder on Kubernetes: with one context, and its login."""
        return self.state / f"kubeconfig.{builder}.json"

    @property
    def cluster_key(self) -> Path:
        """What only this installation knows: it tells ours in a cluster from what others made there."""
        return self.state / "cluster.key"

    @property
    def replay(self) -> Path:
        """The directory with the CA of the replay service: ca.key, ca.pem."""
        return self.state / "replay"

    @property
    def registry(self) -> Path:
        """The directory with the certificates of the registry: ca.pem; and of our own the keys and the password."""
        return self.state / "registry"

    @property
    def authority(self) -> Path:
        """The CA of our own registry."""
        return self.registry / "ca.pem"

    @property
    def site_authority(self) -> Path:
        """The CA of the registry of a site: our own may still serve others with its own."""
        return self.registry / "site.pem"

    @property
    def storage_authority(self) -> Path:
        """The CA of the S3 storage in which our own registry keeps its data."""
        return self.registry / "s3-ca.pem"

    @property
    def password(self) -> Path:
        """The password of the user that our own registry has."""
        return self.registry / "password"

    @property
    def binfmt(self) -> Path:
        return self.proc / "sys/fs/binfmt_misc"


def is_in_hosts(name: str, places: Places) -> bool:
    """Tell whether the host's /etc/hosts says what a name means, which no container reads that has its own network."""
    try:
        table = places.seen(Path("/etc/hosts")).read_text(errors="replace")
    except OSError:
        return False
    return any(name in line.partition("#")[0].lower().split()[1:] for line in table.splitlines())
