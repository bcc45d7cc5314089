"""Platforms such as linux/arm64, normalised as containerd and Docker do (OCI image-spec image-index.md "platform")."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
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
_VERSION = re.compile(r"v(\d{1,2})(?:\.(\d))?", re.ASCII)
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

    def best_of(self, offered: Collection[Platform]) -> Optional[Platform]:
        """Choose what a machine of this platform would pull: the same, else the nearest that runs there, too.

        This is what containerd's `platforms.Only` chooses, so what is taken is what BuildKit would have taken.
        """
        return next((platform for platform in self._runs() if platform in offered), None)

    def _runs(self) -> Iterator[Platform]:
        """Give what a machine of this platform runs, the best first: containerd's `platformVector`."""
        yield self
        major, minor = _version(self.variant)
        if self.architecture == "amd64":
            yield from (Platform(self.os, "amd64", f"v{level}") for level in range(major - 1, 0, -1))
            yield Platform(self.os, "386")
        elif self.architecture == "arm":
            yield from (Platform(self.os, "arm", f"v{level}") for level in range(major - 1, 4, -1))
        elif self.architecture == "arm64":
            if major == 9:
                yield from (Platform(self.os, "arm64", _variant(9, level)) for level in range(minor - 1, -1, -1))
                # Armv9.0 came out of Armv8.5.
                major, minor = 8, minor + 6
            yield from (Platform(self.os, "arm64", _variant(8, level)) for level in range(minor - 1, -1, -1))
            narrow = Platform(self.os, "arm", self.variant if self.variant and "." not in self.variant else "v8")
            yield from narrow._runs()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _version(variant: str) -> tuple[int, int]:
    """Read `v8` and `v8.2`; 0 for any other text."""
    found = _VERSION.fullmatch(variant)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _variant(major: int, minor: int) -> str:
    return f"v{major}.{minor}" if minor else f"v{major}"
