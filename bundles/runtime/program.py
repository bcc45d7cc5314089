"""This program: the archive it runs from, and how a person calls it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Optional

import bundles


def running_archive() -> Optional[Path]:
    """Return the archive, or its last part, that this program was started from; None for an installed one."""
    place = Path(bundles.__file__).parent.parent
    return place if place.is_file() else None


def program_name() -> str:
    """Return how a person runs this program from the same directory."""
    return f"python3 {shlex.quote(sys.argv[0])}" if running_archive() else "bundle"


def own_command(arguments: str) -> str:
    """Return how a person runs this program again with other arguments."""
    return f"{program_name()} {arguments}"
