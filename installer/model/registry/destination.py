"""Where images go: the registry that is installed, or one that the site has, below a prefix of its own."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.oci.reference import Reference
from installer.model.registry.address import Address

_HINT = "give HOST[:PORT]/PROJECT, such as harbor.corp/team"
_PREFIX = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Destination:
    """A registry, and where in it. `str()` is what stands before a repository's name.

    Args:
        host: HOST or HOST:PORT.
        prefix: the project and what else comes before every name; empty for the registry as a whole.
        flat: names below the prefix have one component.
        aliases: images of Docker Hub's library have a short name, too.
        joined: another host, or `push`, brings images there; from here nothing is pushed.
    """

    host: str
    prefix: str = ""
    flat: bool = False
    aliases: bool = False
    joined: bool = False

    @classmethod
    def of(cls, address: Address) -> Destination:
        """Return the registry that is installed at `address`: all of it is for images."""
        return cls(str(address), aliases=True)

    @classmethod
    def parse(cls, text: str, *, flat: bool = False) -> Destination:
        """Read `HOST[:PORT][/PREFIX]`, as what stands before an image's name.

        Raises:
            UsageError: anything else.
        """
        given = text.strip().rstrip("/")
        if "://" in given or "@" in given:
            raise UsageError(
                f"`{given.rpartition('@')[2][:100]}` is no place for images: a name has no scheme and no login",
                hint=_HINT,
            )
        host, _, prefix = given.partition("/")
        if not any(sign in host for sign in ".:") and host != "localhost":
            raise UsageError(f"`{text[:100]}` names no registry", hint=_HINT)
        try:
            # The grammar of the host is that of references.
            Reference.parse(f"{host}/x")
        except UsageError:
            raise UsageError(
                f"`{host[:100]}` is no registry: expected HOST[:PORT], with a port from 1 to 65535", hint=_HINT
            ) from None
        if prefix and not _PREFIX.fullmatch(prefix):
            raise UsageError(
                f"`{prefix[:100]}` cannot come before names: expected lower-case letters, digits and . _ - / between",
                hint=_HINT,
            )
        return cls(host, prefix, flat)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Optional[Destination]:
        """Read what `to_json` gives, or null."""
        return None if value is None else cls(**value)

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix}" if self.prefix else self.host
