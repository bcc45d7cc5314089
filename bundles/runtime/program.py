"""This program: the archive it runs from, and how a person calls it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import bundles
from bundles.runtime.system import system


def running_archive() -> Optional[Path]:
    """Return the archive, or its last part, that this program was started from; None for an installed one."""
    place = Path(bundles.__file__).parent.parent
    return place if place.is_file() else None


def program_name() -> str:
    """Return how a person runs this program from the same directory."""
    if running_archive():
        return f"{system.PYTHON} {quote(sys.argv[0])}"
    # The second name is for those whose `bundle` is Ruby's; it stays what they are told to type.
    return "offline-bundle" if Path(sys.argv[0]).stem == "offline-bundle" else "bundle"


def quote(path: Path | str) -> str:
    """Return a path as one word of a command that a person types."""
    return system.quote(str(path))


def own_command(arguments: str) -> str:
    """Return how a person runs this program again with other arguments."""
    return f"{program_name()} {arguments}"


def archive_command(arguments: str) -> str:
    """Return how a person runs the program of an archive: of the one that runs, else of one that is to be named."""
    return own_command(arguments) if running_archive() else f"python3 ARCHIVE {arguments}"
