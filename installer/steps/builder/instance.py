"""What buildx has on record of a builder, and whose it is.

A builder is ours when its driver options carry our environment variable (see labels), or on Kubernetes our annotation.
Its value names the wanted state: image, configuration, options and platforms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from installer.host.files import read_json_file
from installer.host.host import Host
from installer.host.labels import ENVIRONMENT, LABEL_WANTED

DRIVER_MARK = f"env.{ENVIRONMENT}"
ANNOTATIONS = "annotations"


@dataclasses.dataclass(frozen=True)
class Instance:
    """buildx's record of a builder. `mark` is ours, or None when the builder is not; `nodes` are the nodes' names."""

    driver: str
    nodes: tuple[str, ...]
    mark: Optional[str]


def read_instance(host: Host, name: str) -> Optional[Instance]:
    """Return buildx's record of the builder of that name, None when it has none."""
    value = read_json_file(host.places.buildx_config / "instances" / name)
    if value is None:
        return None
    nodes = value.get("Nodes") or []
    options = [(node or {}).get("DriverOpts") or {} for node in nodes]
    mark = _mark_of(options[0]) if options else None
    names = tuple(str((node or {}).get("Name", "")) for node in nodes)
    return Instance(str(value.get("Driver", "")), names, mark)


def _mark_of(options: Mapping[str, Any]) -> Optional[str]:
    annotation = str(options.get(ANNOTATIONS, "")).partition("=")
    mark = options.get(DRIVER_MARK) or (annotation[2] if annotation[0] == LABEL_WANTED else None)
    return str(mark) if mark else None


def builder_mark(host: Host, name: str) -> Optional[str]:
    """Return the mark of the builder of that name, None when buildx has none, or one that is not ours."""
    instance = read_instance(host, name)
    return None if instance is None else instance.mark
