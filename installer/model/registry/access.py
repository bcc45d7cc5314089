"""How a registry is spoken to: plain HTTP, or TLS, and whose certificates and login."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional


@dataclasses.dataclass(frozen=True)
class Access:
    """A way to a registry.

    Args:
        tls: whether it speaks TLS; else plain HTTP.
        authority: the absolute path of a PEM file on this host: its certificates are trusted besides the system's.
        password: the absolute path of the file with the password of the user that our own registry has; None where it
            wants no login, or one that `docker login` or podman keeps.
    """

    tls: bool = False
    authority: Optional[str] = None
    password: Optional[str] = None

    def to_json(self) -> dict[str, Any]:
        return {"tls": self.tls, "ca": self.authority, "password": self.password}

    @classmethod
    def from_json(cls, value: Any) -> Access:
        """Read what `to_json` gives, within a larger object; what came before there was TLS is plain HTTP."""
        authority, password = value.get("ca"), value.get("password")
        return cls(value.get("tls") is True, authority and str(authority), password and str(password))


PLAIN = Access()
# The one user that our own registry knows.
USER = "bundle"
