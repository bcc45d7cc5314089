"""Where images stand on a registry, and which mirrors make an unmodified `FROM` find them there.

                             on our own registry        below harbor.corp/team     with --flat
docker.io/library/debian:12  library/debian and debian  team/library/debian        team/debian
docker.io/moby/buildkit:x    moby/buildkit              team/moby/buildkit         team/moby_buildkit
ghcr.io/a/b:1                ghcr.io/a/b                team/ghcr.io/a/b           team/ghcr.io_a_b
registry.corp:5001/a:1       registry.corp_5001/a       team/registry.corp_5001/a  team/registry.corp_5001_a

A mirror puts its path before the whole name, and nothing else: flat names have none, and must stand in the Dockerfile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bundles.oci.digest import Digest
from bundles.oci.reference import DOCKER_HUB, Reference
from installer.model.registry.destination import Destination

_NOT_A_NAME = re.compile(r"[^a-z0-9.-]+")


def prefix(registry: str) -> str:
    """Return what the repositories of another registry begin with: its name, lower case, the port's colon as `_`."""
    return _NOT_A_NAME.sub("_", registry.lower()).strip("_")


def repositories(reference: Reference, destination: Destination) -> tuple[str, ...]:
    """Return the repositories that hold an image; the mirror looks in the first, the others are aliases for people."""
    names = _names(reference, destination)
    if destination.flat:
        names = (names[-1].replace("/", "_"),)
    below = f"{destination.prefix}/" if destination.prefix else ""
    return tuple(name if below and name.startswith(below) else f"{below}{name}" for name in names)


def _names(reference: Reference, destination: Destination) -> tuple[str, ...]:
    """Return the names of an image without the prefix."""
    if reference.registry == destination.host:
        # An image that was named after this very registry goes where its name says.
        return (reference.repository,)
    if reference.registry != DOCKER_HUB:
        return (f"{prefix(reference.registry)}/{reference.repository}",)
    library, _, name = reference.repository.partition("/")
    if library == "library" and "/" not in name and (destination.aliases or destination.flat):
        return (reference.repository, name)
    return (reference.repository,)


def full_names(reference: Reference, root: Digest, destination: Destination) -> tuple[str, ...]:
    """Return what `FROM` or `docker pull` can be given for an image on the registry."""
    suffix = f":{reference.tag}" if reference.tag else f"@{root}"
    return tuple(f"{destination.host}/{name}{suffix}" for name in repositories(reference, destination))


def local_name(reference: Reference, root: Digest, destination: Destination) -> str:
    """Return the tag of an image that is loaded into Docker.

    Always one under the registry's own name, so that no tag which the host's users have is ever moved. It is also
    the name buildx asks for, and the local image is what it falls back to when Docker cannot pull.
    """
    tag = reference.tag or f"bundle-{root.short}"
    return f"{destination.host}/{repositories(reference, destination)[0]}:{tag}"


def mirrors(references: Iterable[Reference], destination: Destination) -> dict[str, str]:
    """Map each source registry to its mirror, Docker Hub first and always there; none for flat names."""
    if destination.flat:
        return {}
    others = sorted({reference.registry for reference in references} - {DOCKER_HUB, destination.host})
    return {
        DOCKER_HUB: str(destination),
        **{registry: f"{destination}/{prefix(registry)}" for registry in others},
    }
