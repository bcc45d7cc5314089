"""Where images stand on the local registry, and which mirrors make an unmodified `FROM` find them there.

docker.io/library/debian:12   library/debian and the short alias debian
docker.io/moby/buildkit:x     moby/buildkit
ghcr.io/a/b:1                 ghcr.io/a/b
registry.corp:5001/a:1        registry.corp_5001/a
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bundles.oci.digest import Digest
from bundles.oci.reference import DOCKER_HUB, Reference
from installer.model.address import Address

_NOT_A_NAME = re.compile(r"[^a-z0-9.-]+")


def prefix(registry: str) -> str:
    """Return what the repositories of another registry begin with: its name, lower case, the port's colon as `_`."""
    return _NOT_A_NAME.sub("_", registry.lower()).strip("_")


def repositories(reference: Reference, address: Address) -> tuple[str, ...]:
    """Return the repositories that hold an image; the mirror looks in the first, the others are aliases for people."""
    if reference.registry == str(address):
        # An image that was named after this very registry goes where its name says.
        return (reference.repository,)
    if reference.registry != DOCKER_HUB:
        return (f"{prefix(reference.registry)}/{reference.repository}",)
    library, _, name = reference.repository.partition("/")
    return (reference.repository, name) if library == "library" and "/" not in name else (reference.repository,)


def full_names(reference: Reference, root: Digest, address: Address) -> tuple[str, ...]:
    """Return what `FROM` or `docker pull` can be given for an image on the local registry."""
    suffix = f":{reference.tag}" if reference.tag else f"@{root}"
    return tuple(f"{address}/{repository}{suffix}" for repository in repositories(reference, address))


def local_name(reference: Reference, root: Digest, address: Address) -> str:
    """Return the tag of an image that is loaded into Docker.

    Always one under the local registry's own name, so that no tag which the host's users have is ever moved. It is also
    the name buildx asks for, and the local image is what it falls back to when Docker cannot pull.
    """
    return f"{address}/{repositories(reference, address)[0]}:{reference.tag or 'bundle-' + root.short}"


def mirrors(references: Iterable[Reference], address: Address) -> dict[str, str]:
    """Map each source registry to its mirror, Docker Hub first and always there."""
    others = sorted({reference.registry for reference in references} - {DOCKER_HUB, str(address)})
    return {DOCKER_HUB: str(address), **{registry: f"{address}/{prefix(registry)}" for registry in others}}
