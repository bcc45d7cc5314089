"""Images that come from files: `oci:DIR[:TAG]` and its like, by the grammar of containers-transports(5)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import quote

# What each reads; the first three are called as skopeo and podman call them.
KINDS: Mapping[str, str] = {
    "oci": "the directory of an OCI image layout",
    "oci-archive": "an OCI image layout as a tar",
    "docker-archive": "what `docker save` writes",
    "hauler": "what `hauler store save` writes",
    "bundle": "an archive of `bundle create`",
}
# A drive is a part of the path: no TAG begins with a slash.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]", re.ASCII)
_PLATFORM = ",platform="
_ARCHITECTURES = frozenset(
    {"amd64", "386", "arm64", "arm", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"}
)
_TAGGED = re.compile(r".*(?::[^/]+|@.*)", re.ASCII)


@dataclasses.dataclass(frozen=True)
class FileRequest:
    """Images to take from a file or directory.

    Args:
        text: as people wrote it, without its platforms.
        kind: one of KINDS.
        path: where it is.
        choice: which image in it, as a name, a tag or `@` and a number; empty for all of them.
        name: what it is to be called; empty for the name that it has there.
        platforms: it must be there for these; empty for those of the bundle that it is there for.
    """

    text: str
    kind: str
    path: Path
    choice: str = ""
    name: str = ""
    platforms: tuple[Platform, ...] = ()

    @classmethod
    def parse(cls, text: str, directory: Path) -> Optional[FileRequest]:
        """Read `[NAME=]KIND:PATH[:CHOICE][,platform=P,P]`; None for what names no file.

        Args:
            text: what was written.
            directory: the one that a relative path is seen from.

        Raises:
            UsageError: it names a file, and something in it is wrong.
        """
        name, rest = "", text.strip()
        if rest.partition(":")[0] not in KINDS:
            name, equals, rest = rest.partition("=")
            if not equals or rest.partition(":")[0] not in KINDS:
                return None
        said, comma, platforms = rest.partition(_PLATFORM)
        kind, _, place = said.partition(":")
        drive = 2 if _DRIVE.match(place) else 0
        path, _, choice = place[drive:].partition(":")
        if not path:
            raise UsageError(f"`{text}` names no file: expected {kind}:PATH, {KINDS[kind]}")
        if "\0" in path:
            raise UsageError(f"`{text}` has a NUL byte in its path: expected {kind}:PATH, {KINDS[kind]}")
        before, _, behind = text.partition(",")
        if is_platform(behind.partition(",")[0]) and not (directory / path).exists():
            raise UsageError(f"`{text}` is not an image: expected {before}{_PLATFORM}{behind}")
        wanted = Platform.parse_list(platforms.replace(_PLATFORM, ","))
        if comma and not wanted:
            raise UsageError(f"`{text}` names no platform: expected such as {said},platform=linux/amd64")
        if name and Reference.parse(name).digest:
            raise UsageError(f"`{name}` has a digest: expected a name, with a tag or without")
        shown = f"{name}={said}" if name else said
        return cls(shown, kind, directory / (place[:drive] + path), choice, name, wanted)

    @property
    def takes_all(self) -> bool:
        """Whether all images of the file are wanted, under their own names."""
        return not self.choice and not self.name

    def typed(self, choice: str) -> str:
        """Return what names one image of it on a command line."""
        return quote(f"{self.kind}:{self.path}:{choice}")

    def named(self, tag: Optional[str]) -> Optional[Reference]:
        """Return what an image is to be called that has this tag in the file; None when nobody said."""
        if not self.name:
            return None
        given = Reference.parse(self.name)
        return given if tag is None or _TAGGED.fullmatch(self.name) else dataclasses.replace(given, tag=tag)


def is_platform(text: str) -> bool:
    """Tell whether a word is a platform, and not the name of an image: `linux/arm64`."""
    try:
        return "/" in text and Platform.parse(text).architecture in _ARCHITECTURES
    except UsageError:
        return False
