"""What was made, as the receipt lists it."""

from __future__ import annotations

from pathlib import Path

from installer.model.step import Change
from installer.receipt import ledger


def test_what_was_made_is_listed_once_with_its_directories(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file"
    changes = [Change("write", "file", str(file)), Change("upload", "blobs", "3"), Change("push", "tag", "x:1")]
    made: ledger.Ledger = ()
    for _ in range(2):
        made = ledger.remember(made, (), changes, None)  # type: ignore[arg-type]  # no builder, no daemon.json
    assert [entry.to_json() for entry in made] == [
        {"kind": "directory", "name": str(tmp_path / "a")},
        {"kind": "directory", "name": str(tmp_path / "a" / "b")},
        {"kind": "file", "name": str(file), "writing": True},
    ]
    made = ledger.note_digests(made, changes)
    assert made[2].to_json() == {"kind": "file", "name": str(file), "digest": None}
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    made = ledger.note_digests(made, changes)
    assert made[2].digest == "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
