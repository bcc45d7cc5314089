"""How we recognise later what we made: the one place for every name that we leave on a host.

Containers and volumes carry labels. buildx keeps no labels, so a builder carries an environment variable, given as a
driver option: it stands both in buildx's own record of the builder and on the container of BuildKit. What carries no
mark is not ours, and is never touched.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

LABEL_ROLE = "offline-bundle.role"
LABEL_WANTED = "offline-bundle.wanted"
LABEL_ADDRESS = "offline-bundle.address"
LABEL_DATA = "offline-bundle.data"
LABEL_ENDPOINT = "offline-bundle.endpoint"
LABEL_ACCESS = "offline-bundle.access"
LABEL_ARCHITECTURES = "offline-bundle.architectures"
LABEL_PORT = "offline-bundle.port"
LABEL_OWNER = "offline-bundle.owner"
LABEL_PROGRAM = "offline-bundle.program"
ENVIRONMENT = "OFFLINE_BUNDLE"

REGISTRY_CONTAINER = "registry"
EMULATION_CONTAINER = "bundle-binfmt"
REPLAY_CONTAINER = "bundle-replay"
COPY_CONTAINER = "bundle-copy"
GARBAGE_CONTAINER = "bundle-garbage-collect"
# buildx names the container of a builder's node so, before the builder's name and the node's number.
BUILDER_PREFIX = "buildx_buildkit_"
# Those that are there for moments only; a killed run leaves them.
PASSING_CONTAINERS = (COPY_CONTAINER, GARBAGE_CONTAINER)
REGISTRY_VOLUME = "bundle-registry"
REGISTRY_DIRECTORY = "/var/lib/registry"


def builder_container(builder: str) -> str:
    """Return the name of the container of a builder's first node, the only one that is ours."""
    return f"{BUILDER_PREFIX}{builder}0"


def fingerprint(wanted: dict[str, Any]) -> str:
    """Return a short name for a wanted state: equal states have equal names."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
