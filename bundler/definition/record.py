"""Reading a record, the directory that `bundle record` writes. docs/network.md has the format."""

from __future__ import annotations

from pathlib import Path

from bundles.archive.tape.record import FILE, Recorded
from bundles.errors import UsageError, reason

# The file that a recording appends to; while it is there, the record is not whole.
TAPE_FILE = "tape.jsonl"


def read_record(directory: Path) -> Recorded:
    """Read what a whole record says of itself.

    Raises:
        UsageError: there is none, or its recording did not end.
    """
    if (directory / TAPE_FILE).exists():
        raise UsageError(
            f"the record `{directory}` is not whole: its recording was interrupted",
            hint="run the same `bundle record` again; it goes on",
        )
    try:
        return Recorded.parse((directory / FILE).read_bytes())
    except OSError as error:
        raise UsageError(
            f"`{directory}` is not a record: {FILE} cannot be read ({reason(error)})",
            hint="make one: bundle record CONTEXT -o app.record",
        ) from None
