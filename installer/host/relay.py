"""What is done on the host when the installer itself is in a container: the other side is in install.sh.

A directory that both see has two pipes, `ask` and `answer`, and files. For each command the installer writes `command`
(shell words: `set -- 'docker' 'buildx' ...`) and `stdin`, and a line `run` to `ask`; the script runs it, leaves
`stdout` and `stderr`, and answers with a line that holds the exit code.

A directory can be given to a container only when it is there: the script makes those that are missing, and names them
in BUNDLE_MADE, a line each. And one that was given cannot be removed from in there: the script does it at its end.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from bundles.errors import HostError
from installer.host.docker.container import Outcome


class Relay:
    """The way to the host, through the directory that install.sh made. Commands are run one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, words: Sequence[str], stdin: str) -> Outcome:
        """Run a command on the host to its end, whatever its exit code.

        Raises:
            HostError: the script on the host has ended.
        """
        (self._directory / "command").write_text(f"set -- {shlex.join(words)}\n", encoding="utf-8")
        (self._directory / "stdin").write_text(stdin, encoding="utf-8")
        try:
            with (self._directory / "ask").open("w") as ask:
                ask.write("run\n")
            answer = (self._directory / "answer").read_text().strip()
            code = int(answer)
        except (OSError, ValueError):
            raise HostError(
                "install.sh, which runs commands on the host, has ended", hint="run the same command again; it goes on"
            ) from None
        return Outcome(code, self._read("stdout"), self._read("stderr"))

    def _read(self, name: str) -> str:
        return (self._directory / name).read_bytes().decode("utf-8", errors="replace")


def made_by_script() -> frozenset[Path]:
    """Return the directories that would be missing if the script had not made them; it removes what stays empty."""
    return frozenset(map(Path, os.environ.get("BUNDLE_MADE", "").splitlines()))


def remove_at_end(directories: Iterable[Path]) -> None:
    """Have the script remove directories, in this order, as far as they are empty; without it nothing happens."""
    relay = os.environ.get("BUNDLE_RELAY")
    if relay:
        text = "".join(f"{directory}\n" for directory in directories)
        (Path(relay) / "empty").write_text(text, encoding="utf-8")
