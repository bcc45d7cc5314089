"""Digests of content, per OCI image-spec v1.1 descriptor.md "Digests"."""

from __future__ import annotations

import dataclasses
import hashlib
import re

from bundles.errors import UsageError

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclasses.dataclass(frozen=True, order=True)
class Digest:
    """A checked `sha256:<64 lower-case hex digits>`; safe as a path component, whatever its origin.

    Only sha256 is accepted: every registry and image tool computes it, and sha512 is optional in the specification.

    Raises:
        UsageError: the text is not such a digest.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _SHA256.fullmatch(self.text):
            raise UsageError(f"`{str(self.text)[:100]}` is not a digest: expected sha256: and 64 lower-case hex digits")

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """Return the 64 hex digits without the algorithm."""
        return self.text[7:]

    @property
    def short(self) -> str:
        """Return the first 12 hex digits, for people."""
        return self.hex[:12]

    @property
    def blob_path(self) -> str:
        """Return where an OCI image layout keeps this content: `blobs/sha256/<hex>`."""
        return "blobs/sha256/" + self.hex

    def __str__(self) -> str:
        return self.text
