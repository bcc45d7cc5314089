"""Run a command of the machine and fail with its own words."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import CommandError, SetupError


def run(
    *argv: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 1800,
) -> str:
    """Run `argv` to its end and return its stdout. `env` is added to the environment. Raises CommandError."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise SetupError(f"`{argv[0]}` is not installed ({error})") from error
    except subprocess.TimeoutExpired as error:
        output = error.stderr or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        raise CommandError(argv, f"did not end within {timeout:.0f} s", text) from error
    if done.returncode != 0:
        raise CommandError(argv, f"ended with status {done.returncode}", done.stderr or done.stdout)
    return done.stdout
