"""What a bundle is, from its archive or from its bundle.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from bundles.digest import Digest
from bundles.errors import UsageError
from bundles.manifest import MAX_SIZE, Manifest
from bundles.reader import Archive


def read_json_start(path: Path) -> Optional[bytes]:
    """The file when it begins as JSON does, else None: then it is an archive, or nothing.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1)
            return first + file.read(MAX_SIZE) if first == b"{" else None
    except FileNotFoundError:
        return None  # perhaps an archive in parts
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None


def read_manifest(path: Path) -> tuple[Digest, Manifest]:
    """The digest and the manifest of a bundle.

    Raises:
        UsageError: it cannot be read.
        ArchiveError: it is neither an archive nor a bundle.json, or damaged.
    """
    data = read_json_start(path)
    if data is not None:
        return Digest.of(data), Manifest.parse(data)
    with Archive(path) as archive:
        return archive.digest, archive.manifest
