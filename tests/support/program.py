"""The program: as a process of its own, or in this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from bundles.cli.app import run
from tests.support import ROOT


def bundle(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `bundle` in `cwd`, with nothing of the environment of the tests."""
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(cwd), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=60, **options
    )


def bundle_here(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it in this process: a fifth of a second sooner, for tests of what it does, not of how it starts and ends."""
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    environment = mock.patch.dict(os.environ, {"HOME": str(cwd), "PATH": "/usr/bin:/bin"}, clear=True)
    os.chdir(cwd)
    try:
        with environment, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*map(str, arguments)])
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(["bundle"], code, out.getvalue(), err.getvalue())
