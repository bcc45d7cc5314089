"""What can go wrong while the testbed is made or used.

SetupError
 └── CommandError      a command failed; names the command and its stderr
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class SetupError(Exception):
    """The testbed cannot be made or used; the message says why and what to do."""


class CommandError(SetupError):
    """A command failed. The message has the whole command line and the end of its stderr."""

    def __init__(self, argv: Sequence[str], outcome: str, stderr: str) -> None:
        self.argv = list(argv)
        self.outcome = outcome
        self.stderr = stderr
        tail = "\n".join(stderr.strip().splitlines()[-25:]) or "(nothing on stderr)"
        super().__init__(f"`{shlex.join(self.argv)}` {outcome}:\n{tail}")
