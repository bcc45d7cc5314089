"""Versions as Docker and buildx print them: `28.5.2`, `20.10.24+dfsg1`, `github.com/docker/buildx v0.29.1 abc`."""

from __future__ import annotations

import re
from typing import Optional

from packaging.version import Version

# The release alone: what follows it (`+dfsg1`, `-desktop.1`, `-rc1`) is the packager's, and no PEP 440 version.
_RELEASE = re.compile(r"\bv?(\d+\.\d+(?:\.\d+)*)", re.ASCII)


def version_of(text: str) -> Optional[Version]:
    """Return the first version in `text`, or None when there is none."""
    match = _RELEASE.search(text)
    return Version(match.group(1)) if match else None
