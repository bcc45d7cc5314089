"""The program as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import ROOT


def bundle(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `bundle` in `cwd`, with nothing of the environment of the tests."""
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(cwd), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=60, **options
    )
