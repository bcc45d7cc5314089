"""What was made on the host: the list that a receipt keeps, and that uninstalling goes by."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from installer.host.files import missing_directories
from installer.host.paths import Places
from installer.model.step import Change

# What is gone by itself, lives inside the registry, or is another machine's, of which the receipt has a list.
_PASSING = frozenset(
    {"blobs", "test image", "tag", "digest", "restart policy", "daemon settings", "node", "node image", "platforms"}
)


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """Something that was made. A file has its digest, as it was written; `writing` until its step has ended."""

    kind: str
    name: str
    digest: Optional[str] = None
    writing: bool = False

    @classmethod
    def parse(cls, value: Any) -> LedgerEntry:
        """Read what `to_json` gives."""
        return cls(str(value["kind"]), str(value["name"]), value.get("digest"), value.get("writing") is True)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self.digest or (self.kind == "file" and not self.writing):
            value["digest"] = self.digest
        return {**value, "writing": True} if self.writing else value

    def with_digest(self) -> LedgerEntry:
        """Return the entry of a file with what it is now."""
        return LedgerEntry(self.kind, self.name, file_digest(Path(self.name)))


Ledger = tuple[LedgerEntry, ...]


def remember(made: Ledger, own_directories: Sequence[Path], changes: Sequence[Change], places: Places) -> Ledger:
    """Add what `changes` are about to make, and the directories that will be made on the way.

    Args:
        own_directories: those that this program made for its own state.
    """
    known = {(entry.kind, entry.name): entry for entry in made}

    def add(kind: str, name: str) -> None:
        known.setdefault((kind, name), LedgerEntry(kind, name))

    for directory in own_directories:
        add("directory", str(directory))
    for change in changes:
        parent = None
        if change.kind in ("file", "directory"):
            parent = Path(change.name).parent
        elif change.kind == "builder":
            parent = places.buildx_config
        elif change.kind == "insecure registry":
            parent = places.daemon_json.parent
        for directory in missing_directories(parent) if parent else ():
            add("directory", str(directory))
        if change.kind not in _PASSING:
            add(change.kind, change.name)
        if change.kind == "file":
            known["file", change.name] = dataclasses.replace(known["file", change.name], writing=True)
    return tuple(known.values())


def note_digests(made: Ledger, changes: Sequence[Change]) -> Ledger:
    """Note of the files that `changes` made what they are, so that it is seen later whether they still are."""
    files = {change.name for change in changes if change.kind == "file"}
    return tuple(entry.with_digest() if entry.kind == "file" and entry.name in files else entry for entry in made)


def note_interrupted(made: Ledger) -> Ledger:
    """Note the same, once everything is done, of files that a killed run had in place: no step ended with them."""
    return tuple(entry.with_digest() if entry.writing else entry for entry in made)


def file_digest(path: Path) -> Optional[str]:
    """Return the digest of a file, None when it is not there or cannot be read."""
    try:
        with path.open("rb") as stream:
            hasher = hashlib.sha256()
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                hasher.update(chunk)
    except OSError:
        return None
    return f"sha256:{hasher.hexdigest()}"
