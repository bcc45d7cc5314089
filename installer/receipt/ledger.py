"""What was made on the host: the list that a receipt keeps, and that uninstalling goes by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from installer.host.files import missing_directories
from installer.host.host import Host
from installer.model.step import Change

# What is gone by itself, or lives inside the registry.
_PASSING = frozenset({"blobs", "test image", "tag", "digest", "restart policy"})


def remember(
    made: list[dict[str, Any]], own_directories: Sequence[Path], changes: Sequence[Change], host: Host
) -> None:
    """Add to `made` what `changes` are about to make, and the directories that will be made on the way.

    Args:
        own_directories: those that this program made for its own state.
    """
    known = {(entry.get("kind"), entry.get("name")): entry for entry in made}

    def add(kind: str, name: str) -> dict[str, Any]:
        if (kind, name) not in known:
            known[kind, name] = {"kind": kind, "name": name}
            made.append(known[kind, name])
        return known[kind, name]

    for directory in own_directories:
        add("directory", str(directory))
    for change in changes:
        parent = None
        if change.kind in ("file", "directory"):
            parent = Path(change.name).parent
        elif change.kind == "builder":
            parent = host.places.buildx_config
        elif change.kind == "insecure registry":
            parent = host.places.daemon_json.parent
        for directory in missing_directories(parent) if parent else ():
            add("directory", str(directory))
        if change.kind not in _PASSING:
            entry = add(change.kind, change.name)
            if change.kind == "file":
                entry["writing"] = True


def note_digests(made: Sequence[dict[str, Any]], changes: Sequence[Change]) -> None:
    """Note of the files that `changes` made what they are, so that it is seen later whether they still are."""
    files = {change.name for change in changes if change.kind == "file"}
    for entry in made:
        if entry.get("kind") == "file" and entry.get("name") in files:
            _note_digest(entry)


def note_interrupted(made: Sequence[dict[str, Any]]) -> None:
    """Note the same, once everything is done, of files that a killed run had in place: no step ended with them."""
    for entry in made:
        if entry.get("writing"):
            _note_digest(entry)


def _note_digest(entry: dict[str, Any]) -> None:
    entry.pop("writing", None)
    entry["digest"] = file_digest(Path(entry["name"]))


def file_digest(path: Path) -> Optional[str]:
    """The digest of a file, None when it is not there or cannot be read."""
    try:
        with path.open("rb") as stream:
            hasher = hashlib.sha256()
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                hasher.update(chunk)
    except OSError:
        return None
    return f"sha256:{hasher.hexdigest()}"
