"""The --help texts in docs/commands.md: `python3 -m tests.helptext` writes them anew, a test compares them."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from bundles.cli.app import bundle

DOCUMENT = Path(__file__).parent.parent / "docs" / "commands.md"
# A fenced block whose first line names the command.
_BLOCK = re.compile(r"```text\n\$ bundle (?:(?P<name>[a-z]+) )?--help\n(?P<text>.*?)```\n", re.DOTALL)
_WIDTH = 100


def help_text(name: str) -> str:
    """What `bundle NAME --help` says on a terminal of 100 columns."""
    arguments = [name, "--help"] if name else ["--help"]
    done = CliRunner().invoke(bundle, arguments, prog_name="bundle", terminal_width=_WIDTH)
    assert done.exit_code == 0, done.output
    return done.output


def blocks(text: str) -> dict[str, str]:
    """Command to the help text that a document shows; the empty name is `bundle` itself."""
    return {match["name"] or "": match["text"] for match in _BLOCK.finditer(text)}


def updated(text: str) -> str:
    """The document with the help texts of today."""

    def block(match: re.Match[str]) -> str:
        name = match["name"] or ""
        return f"```text\n$ bundle {name} --help\n{help_text(name)}```\n".replace("bundle  --", "bundle --")

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text()))
