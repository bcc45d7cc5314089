"""What was made, as the receipt lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from installer.model.step import Change
from installer.receipt import ledger


def test_what_was_made_is_listed_once_with_its_directories(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = []
    file = tmp_path / "a" / "b" / "file"
    changes = [Change("write", "file", str(file)), Change("upload", "blobs", "3"), Change("push", "tag", "x:1")]
    for _ in range(2):
        ledger.remember(entries, (), changes, None)  # type: ignore[arg-type]  # no builder, no daemon.json
    assert [(entry["kind"], Path(entry["name"]).name) for entry in entries] == [
        ("directory", "a"),
        ("directory", "b"),
        ("file", "file"),
    ]
    ledger.note_digests(entries, changes)
    assert entries[2]["digest"] is None
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    ledger.note_digests(entries, changes)
    assert entries[2]["digest"] == "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
