"""Run a command and say what it cost: time, CPU, memory, bytes written, disk used on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

# Whatever runs longer has hung.
_PATIENCE = 900.0
_METER = Path(__file__).with_name("meter.py")
# How often the disk is looked at, in seconds: more often would show in the times.
_DISK_INTERVAL = 0.1


class Failed(Exception):
    """A command ended badly; the text is its command and the end of what it said."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one run cost, its children included.

    `seconds` is wall time, `cpu` user and system time. `memory` is the peak of the largest process, in bytes. `written`
    are the bytes that were dirtied in files on a disk. `disk` is the peak of what `watched` directories held.
    """

    seconds: float
    cpu: float
    memory: int
    written: int
    disk: int = 0

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            max(self.memory, other.memory),
            self.written + other.written,
            max(self.disk, other.disk),
        )


def median(samples: Sequence[Sample]) -> Sample:
    """Each quantity's median."""
    columns = zip(*(dataclasses.astuple(sample) for sample in samples))
    return Sample(*(type(column[0])(statistics.median(column)) for column in columns))


def measure(
    argv: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path | None = None, watched: Path | None = None
) -> Sample:
    """Run `argv` to its end.

    Raises:
        Failed: it ended with another status than 0, or not in time.
    """
    words = [str(word) for word in argv]
    environment = {**os.environ, **(env or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody who installs a program has that
    with tempfile.TemporaryFile() as output, Disk(watched) as disk:
        meter = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_METER), *words], env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=output, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            report, _ = meter.communicate(timeout=_PATIENCE)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(meter.pid, signal.SIGKILL)
            meter.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"`{' '.join(words)[:300]}` did not end within {_PATIENCE:.0f} s") from None
            raise
        cost = json.loads(report) if report else {"status": meter.returncode}
        if cost.pop("status"):
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-600:]
            raise Failed(f"`{' '.join(words)[:300]}` failed: {said}")
    return Sample(**cost, disk=disk.peak)


def in_rounds(
    count: int, runs: Mapping[str, Callable[[], Sample]], say: Callable[[str], None]
) -> tuple[dict[str, Sample], dict[str, str]]:
    """Run each of `runs` `count` times, in turn, so that a machine that drifts drifts for all of them.

    Gives the medians, and for what failed the reason: it is not tried again, and ends nothing else.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    failures: dict[str, str] = {}
    for number in range(count):
        for name, run in runs.items():
            if name in failures:
                continue
            try:
                sample = run()
            except (Failed, OSError, subprocess.SubprocessError) as error:
                failures[name] = str(error)
                say(f"  {number + 1}/{count} {name}: FAILED: {error}")
                continue
            samples[name].append(sample)
            say(f"  {number + 1}/{count} {name}: {sample.seconds:.2f} s, CPU {sample.cpu:.2f} s")
    return {name: median(each) for name, each in samples.items() if each}, failures


def used(directory: Path) -> int:
    """Bytes on the disk below a directory that may be changing."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118  called very often
    return total


class Disk:
    """The peak of what a directory holds while the context lasts."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def _watch(self) -> None:
        while self._directory:
            self.peak = max(self.peak, used(self._directory))
            if self._ended.wait(_DISK_INTERVAL):
                self.peak = max(self.peak, used(self._directory))
                return

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def megabytes(count: float) -> str:
    """Bytes as MB, in powers of 1000 as disks and links count."""
    return f"{count / 1e6:.0f}"


def total(values: Iterable[int]) -> int:
    """Their sum, never zero: it divides."""
    return sum(values) or 1
