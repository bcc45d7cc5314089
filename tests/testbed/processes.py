"""Programs that go on after the command that started them, known by their recorded pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_dir
from .errors import CommandError

# Those that this very process started: kept, since a Popen that is let go while it runs warns.
_children: dict[int, subprocess.Popen[bytes]] = {}


def start_time(pid: int) -> str:
    """When process `pid` started, in the kernel's ticks; empty when there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program in the background. `<cache>/run/<name>.pid` holds its pid and start time, `<name>.log` its words."""

    name: str

    @property
    def log(self) -> Path:
        """The file that has the program's stdout and stderr."""
        return _run_dir() / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The pid of the running program; None when it does not run (a pid that another program got does not count)."""
        try:
            pid, started = self._record.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if start_time(int(pid)) == started else None

    def start(self, argv: list[str], env: dict[str, str], ready: Callable[[], bool], patience: float = 30) -> None:
        """Start `argv` with the environment `env` and wait until `ready()`; raises CommandError with its log."""
        with self.log.open("w") as log:
            process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        _children[process.pid] = process
        self._record.write_text(f"{process.pid} {start_time(process.pid)}\n")
        deadline = time.monotonic() + patience
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                outcome = "is not ready in time" if process.returncode is None else f"ended with {process.returncode}"
                self.stop()
                raise CommandError(argv, outcome, self.log.read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self) -> bool:
        """End the program if it runs; say whether it did."""
        pid = self.pid
        if pid is not None:
            _end(pid)
            if pid in _children:
                _children.pop(pid).wait()
        self._record.unlink(missing_ok=True)
        return pid is not None

    @property
    def _record(self) -> Path:
        return _run_dir() / f"{self.name}.pid"


def _end(pid: int) -> None:
    started = start_time(pid)
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while start_time(pid) == started:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return


def _run_dir() -> Path:
    directory = cache_dir() / "run"
    directory.mkdir(exist_ok=True)
    return directory
