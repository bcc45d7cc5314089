"""Platforms such as linux/arm64, normalised as containerd and Docker do (OCI image-spec image-index.md "platform")."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Optional

from bundles.errors import UsageError

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ARCHITECTURES = {
    "aarch64": ("arm64", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "openbsd", "netbsd", "solaris", "plan9", "wasi"})


@dataclasses.dataclass(frozen=True, order=True)
class Platform:
    """Operating system, architecture and variant, in containerd's normal form.

    arm64/v8 is arm64, amd64/v1 is amd64, arm without a variant is arm/v7, aarch64 is arm64. `str()` gives
    `os/architecture[/variant]`.
    """

    os: str
    architecture: str
    variant: str = ""

    def __post_init__(self) -> None:
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _ARCHITECTURES:
            architecture, implied = _ARCHITECTURES[architecture]
            variant = variant or implied
        if architecture == "arm":
            variant = "v" + (variant.lstrip("v") or "7")
        elif (architecture, variant) in (("arm64", "8"), ("arm64", "v8"), ("amd64", "v1")):
            variant = ""
        object.__setattr__(self, "os", self.os.lower())
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "variant", variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `linux/arm64`, `linux/arm/v7` or a bare architecture, which means linux.

        Raises:
            UsageError: anything else.
        """
        parts = text.strip().split("/")
        if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(f"`{text}` is not a platform: expected os/architecture[/variant], such as linux/arm64")
        if len(parts) == 1:
            if parts[0].lower() in _SYSTEMS:
                raise UsageError(f"`{text}` names no architecture: expected os/architecture, such as {text}/amd64")
            return cls("linux", parts[0])
        if parts[0].lower() not in _SYSTEMS:
            raise UsageError(f"`{text}` has no known operating system: expected one such as linux/{parts[-1]}")
        return cls(*parts)

    @classmethod
    def parse_list(cls, text: str) -> tuple[Platform, ...]:
        """Read a comma-separated list; order is kept, duplicates are dropped."""
        return tuple(dict.fromkeys(cls.parse(part) for part in text.split(",") if part.strip()))

    @classmethod
    def from_json(cls, value: Any) -> Optional[Platform]:
        """Read the `platform` of an index entry or image config; None when it names none, or unknown/unknown."""
        if not isinstance(value, dict):
            return None
        system, architecture, variant = (value.get(key) or "" for key in ("os", "architecture", "variant"))
        if not all(isinstance(part, str) for part in (system, architecture, variant)):
            return None
        if not system or not architecture or "unknown" in (system, architecture):
            return None
        return cls(system, architecture, variant)

    def to_json(self) -> dict[str, str]:
        """Return the `platform` object of an index entry."""
        value = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            value["variant"] = self.variant
        return value

    def best_of(self, offered: Sequence[Platform]) -> Optional[Platform]:
        """Choose what a machine of this platform would pull: the same, else the next lower arm variant.

        This is what containerd's `platforms.Only` chooses, so what is taken is what BuildKit would have taken.
        """
        if self in offered:
            return self
        if self.architecture == "arm" and self.variant[1:].isdigit():
            for level in range(int(self.variant[1:]) - 1, 4, -1):
                lower = Platform(self.os, "arm", f"v{level}")
                if lower in offered:
                    return lower
        return None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
