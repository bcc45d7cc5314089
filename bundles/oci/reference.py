"""Image references, by the grammar of github.com/distribution/reference, which Docker and BuildKit use."""

from __future__ import annotations

import dataclasses
import re
from typing import Optional

from bundles.errors import UsageError
from bundles.oci.digest import Digest

DOCKER_HUB = "docker.io"
# What else people and files call it.
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

_REGISTRY = re.compile(
    r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?",
    re.ASCII,
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def registry_name(text: str) -> str:
    """Return the name under which a registry is known here, of what people write: `https://INDEX.docker.io:443/v1/`.

    What stands in front of the host, and behind it, is left out, and so is the port that a registry has without saying;
    nothing is checked.
    """
    host = text.rpartition("://")[2].partition("/")[0].lower().removesuffix(":443")
    return DOCKER_HUB if host in _HUB_NAMES else host


def is_port(digits: str) -> bool:
    """Tell whether digits are a port that somebody can listen on."""
    return len(digits) <= 5 and 0 < int(digits) <= 65535


@dataclasses.dataclass(frozen=True, order=True)
class Reference:
    """Registry, repository, and a tag, a digest or both.

    `str()` is the full form (`docker.io/library/debian:12`), `familiar` the one people type (`debian:12`).
    """

    registry: str
    repository: str
    tag: Optional[str] = None
    digest: Optional[Digest] = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as Docker does: no registry means Docker Hub, no tag and no digest mean `latest`.

        Raises:
            UsageError: the text does not follow the grammar; the message says which part.
        """
        rest = text.strip()
        digest = None
        if "@" in rest:
            rest, _, digest_text = rest.partition("@")
            try:
                digest = Digest(digest_text)
            except UsageError as error:
                raise UsageError(f"`{text}` is not an image reference: {error.message}") from None
        tag = None
        head, colon, last = rest.rpartition(":")
        if colon and "/" not in last:
            rest, tag = head, last
            if not _TAG.fullmatch(tag):
                raise UsageError(f"`{text}` is not an image reference: `{tag}` is not a tag (letters, digits, _ . -)")
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            registry, repository = first, remainder
        else:
            registry, repository = DOCKER_HUB, rest
        if registry == "index.docker.io":
            registry = DOCKER_HUB
        if registry == DOCKER_HUB and repository and "/" not in repository:
            repository = "library/" + repository
        if not _REGISTRY.fullmatch(registry):
            raise UsageError(f"`{text}` is not an image reference: `{registry}` is not a registry host[:port]")
        if not is_port(registry.rpartition("]")[2].partition(":")[2] or "443"):
            raise UsageError(f"`{text}` is not an image reference: the port of `{registry}` is not from 1 to 65535")
        if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
            reason = "is empty" if not repository else "may only have lower-case letters, digits and . _ - / between"
            raise UsageError(f"`{text}` is not an image reference: the repository `{repository[:100]}` {reason}")
        if tag is None and digest is None:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Return registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """Return the shortest form that reads back to the same reference."""
        name = self.name
        if self.registry == DOCKER_HUB:
            official = self.repository.startswith("library/") and self.repository.count("/") == 1
            name = self.repository[8:] if official else self.repository
        return name + self._suffix

    @property
    def selector(self) -> str:
        """Return what the registry API takes after `/manifests/`: the digest when there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix
