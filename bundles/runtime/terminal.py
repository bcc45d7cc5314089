"""What may be written to a terminal: it must not take orders from what an archive or a registry says."""

from __future__ import annotations

import io
import sys


def settle_streams() -> None:
    """Let stdout and stderr take any text, whatever their encoding; files and pipes get the same bytes on each system.

    On Windows what is not a console may have cp1252, and each end of a line another letter.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", newline=None if stream.isatty() else "\n")


def printable(text: str) -> str:
    """Replace what moves the cursor, changes colours, reverses the direction or is no character by question marks."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def one_line(text: str) -> str:
    """Do the same to words that stand within a line: they do not begin another one, which might say anything."""
    return printable(text).replace("\n", "?")
