"""What buildx has on record of a builder, and whose it is.

A builder is ours when its driver options carry our environment variable (see labels), or on Kubernetes our annotation.
Its value names the wanted state: image, configuration, options and platforms. So is a node of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from bundles.oci.platform import Platform
from installer.host.docker.cli import DockerCLI
from installer.host.files import read_json_file
from installer.host.host import Host
from installer.host.labels import ENVIRONMENT, LABEL_WANTED

DRIVER_MARK = f"env.{ENVIRONMENT}"
ANNOTATIONS = "annotations"
# Where buildx keeps its records, in its directory.
_INSTANCES = "instances"


@dataclasses.dataclass(frozen=True)
class StoredNode:
    """buildx's record of a node: where its Docker is, the platforms it is given, and our mark, or None."""

    name: str
    endpoint: str = ""
    platforms: tuple[Platform, ...] = ()
    mark: Optional[str] = None

    @classmethod
    def from_json(cls, value: Any) -> StoredNode:
        """Read what buildx has written, or somebody into its file."""
        value = value or {}
        platforms = map(Platform.from_json, value.get("Platforms") or ())
        return cls(
            str(value.get("Name", "")),
            str(value.get("Endpoint", "")),
            tuple(platform for platform in platforms if platform),
            _mark_of(value.get("DriverOpts") or {}),
        )


@dataclasses.dataclass(frozen=True)
class Instance:
    """buildx's record of a builder. The first node is this host's."""

    driver: str
    nodes: tuple[StoredNode, ...]

    @property
    def mark(self) -> Optional[str]:
        """Ours, or None when the builder is not."""
        return self.nodes[0].mark if self.nodes else None

    def node(self, name: str) -> Optional[StoredNode]:
        """Return the node of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def own_nodes(self) -> tuple[StoredNode, ...]:
        """The other machines that we gave it."""
        return tuple(node for node in self.nodes[1:] if node.mark)


def read_instance(host: Host, name: str) -> Optional[Instance]:
    """Return buildx's record of the builder of that name, None when it has none."""
    value = _record(host, name)
    if value is None:
        return None
    return Instance(str(value.get("Driver", "")), tuple(map(StoredNode.from_json, value.get("Nodes") or ())))


def _record(host: Host, name: str) -> Optional[dict[str, Any]]:
    return read_json_file(host.places.buildx_config / _INSTANCES / name)


def _mark_of(options: Mapping[str, Any]) -> Optional[str]:
    annotation = str(options.get(ANNOTATIONS, "")).partition("=")
    mark = options.get(DRIVER_MARK) or (annotation[2] if annotation[0] == LABEL_WANTED else None)
    return str(mark) if mark else None


def builder_mark(host: Host, name: str) -> Optional[str]:
    """Return the mark of the builder of that name, None when buildx has none, or one that is not ours."""
    instance = read_instance(host, name)
    return None if instance is None else instance.mark


@contextlib.contextmanager
def alone(host: Host, builder: str, node: str) -> Iterator[DockerCLI]:
    """Give a docker command for which the builder is this node of it alone: it does what else another would.

    buildx lets nobody choose a node: it is shown a record in which there is no other, for as long as this lasts.
    """
    record = _record(host, builder) or {}
    nodes = [{**stored, "Platforms": None} for stored in record.get("Nodes") or () if stored.get("Name") == node]
    with tempfile.TemporaryDirectory(prefix="bundle-buildx-") as directory:
        instances = Path(directory) / _INSTANCES
        instances.mkdir()
        (instances / builder).write_text(json.dumps({**record, "Nodes": nodes}), encoding="utf-8")
        yield host.cli.with_variable("BUILDX_CONFIG", directory)


def leave(host: Host, builder: str, node: str) -> None:
    """Take a node out of buildx's record of a builder. Its machine is not asked, and keeps what it has."""
    host.cli.run(["buildx", "create", "--leave", "--name", builder, "--node", node])
