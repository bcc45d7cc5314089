"""The program as it runs on another system: `python -m tests.support.elsewhere windows create ...`.

What Python lacks there is gone for the modules of this project, and only for them: the standard library has found out
where it is. In the place of `bundles/runtime/posix.py` stands `windows.py`, over tests/support/fake_windows.py.
"""

from __future__ import annotations

import builtins
import fcntl
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, fake_windows, windows_names

_OURS = ("bundles", "bundler", "installer")
# Of what Linux has and the modules here might ask for.
_NOT_ON_MACOS = frozenset(
    """
    O_DIRECT O_PATH O_TMPFILE copy_file_range eventfd fdatasync getrandom memfd_create pidfd_open pipe2 posix_fadvise
    posix_fallocate preadv pwritev sched_getaffinity splice
    """.split()  # noqa: SIM905
)


def bundle_elsewhere(system: str, *arguments: object, cwd: Path, **environment: str) -> Any:
    """Run `bundle` in `cwd`, as it is on `windows` or `macos`."""
    command = [sys.executable, "-m", "tests.support.elsewhere", system, *map(str, arguments)]
    known = {"PYTHONPATH": str(ROOT), "HOME": str(cwd), "USERPROFILE": str(cwd), "PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, cwd=cwd, env=known, check=False, capture_output=True, text=True, timeout=60)


def _without(module: types.ModuleType, kept: frozenset[str], **values: object) -> types.ModuleType:
    less = types.ModuleType(module.__name__)
    for name in dir(module):
        if name in kept or name.startswith("_"):
            setattr(less, name, getattr(module, name))
    less.__dict__.update(values)
    return less


def _show(modules: Mapping[str, types.ModuleType], missing: frozenset[str]) -> None:
    """Let our modules import these in the place of those of that name, and not import what is missing."""
    real = builtins.__import__

    def found(name: str, globals: Any = None, *rest: Any, **named: Any) -> types.ModuleType:  # its own words
        if str((globals or {}).get("__name__")).partition(".")[0] in _OURS:
            if name in missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in modules:
                return modules[name]
        return real(name, globals, *rest, **named)

    builtins.__import__ = found


def _be_windows() -> None:
    fake_windows.install(pytest.MonkeyPatch())
    _show(
        {
            "os": _without(os, windows_names.OS, name="nt"),
            "signal": _without(signal, windows_names.SIGNAL),
        },
        windows_names.MISSING,
    )


def _be_macos() -> None:
    # 51 is none of Linux's: it says so, as macOS does for a drive of the network.
    fcntl.F_FULLFSYNC = 51  # type: ignore[attr-defined]
    _show({"os": _without(os, frozenset(dir(os)) - _NOT_ON_MACOS)}, frozenset())
    platform, sys.platform = sys.platform, "darwin"
    from bundles.runtime import posix

    sys.platform = platform
    posix._BOOT_ID = Path("/nowhere")


if __name__ == "__main__":
    system = sys.argv.pop(1)
    {"windows": _be_windows, "macos": _be_macos}[system]()
    from bundles.cli.start import main

    main()
