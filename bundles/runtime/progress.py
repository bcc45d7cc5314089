"""What a long command says while it works: bars on a terminal, plain lines elsewhere, nothing with --quiet.

Everything goes to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import abc
import contextlib
import datetime
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Optional, TextIO

from bundles.runtime.closeable import Closeable
from bundles.runtime.sizes import human_size
from bundles.runtime.terminal import printable

# A plain line at most this often, in seconds, so that a log of a long job stays readable.
_LINE_INTERVAL = 5.0


class Task(Closeable):
    """Bytes on their way. A context manager; `advance` may be called from several threads.

    with progress.task("download", total) as task:
        task.advance(len(chunk))
    """

    @abc.abstractmethod
    def advance(self, count: int) -> None:
        """Count bytes that are safe; a negative count takes back what a failed attempt had counted."""

    def close(self) -> None:
        """End the task, done or not."""


class Progress(abc.ABC):
    """Where a command tells people what it does."""

    @abc.abstractmethod
    def message(self, text: str) -> None:
        """Say one line to people."""

    @abc.abstractmethod
    def task(self, label: str, total: int) -> Task:
        """Begin to move `total` bytes."""

    @contextlib.contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Say what is being done within the context, and when that has ended well how long it took."""
        begun = time.monotonic()
        self.message(f"{name:<14} {text}")
        yield
        self.message(f"{name:<14} done, {time.monotonic() - begun:.1f} s")


class _SilentTask(Task):
    def advance(self, count: int) -> None:
        pass


class Silent(Progress):
    """Says nothing: --quiet, and tests."""

    def message(self, text: str) -> None:
        pass

    def task(self, label: str, total: int) -> Task:
        return _SilentTask()


class _LineTask(Task):
    def __init__(self, progress: Lines, label: str, total: int) -> None:
        self._progress, self._label, self._total = progress, label, total
        self._lock = threading.Lock()
        self._done = 0
        self._begun = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._said < _LINE_INTERVAL:
                return
            self._said = now
            done = self._done
        rate = human_size(done / (now - self._begun))
        share = 100 * done // self._total if self._total else 100
        self._progress.message(f"{self._label}: {share} % of {human_size(self._total)}, {rate}/s")


class Lines(Progress):
    """Plain lines on stderr, for logs and pipes."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr

    def message(self, text: str) -> None:
        # In one piece: steps and tasks speak from several threads.
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    def task(self, label: str, total: int) -> Task:
        return _LineTask(self, label, total)


class _BarTask(Task):
    def __init__(self, label: str, total: int) -> None:
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total,
            desc=printable(label),
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            dynamic_ncols=True,
        )

    def advance(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class Bars(Progress):
    """tqdm bars on stderr, for a terminal."""

    def message(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)

    def task(self, label: str, total: int) -> Task:
        return _BarTask(label, total)

    @contextlib.contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Show a line that gives way to one with the time."""
        from tqdm import tqdm

        begun, end = time.monotonic(), "failed after "
        line = printable(f"{name:<14} {text}")
        # What is wider than the terminal could not be taken back.
        short = line[: shutil.get_terminal_size().columns - 1]
        try:
            with tqdm(bar_format="{desc}", desc=short, leave=False):
                yield
            end = ""
        finally:
            self.message(f"{line}  {end}{time.monotonic() - begun:.1f} s")


class _TimedLines(Lines):
    def message(self, text: str) -> None:
        super().message(f"{datetime.datetime.now().isoformat(timespec='seconds')} {text}")


class ProgressLog(Progress):
    """Another progress whose messages are also appended to a log, each line with its time."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress, self._log = progress, _TimedLines(stream)

    def message(self, text: str) -> None:
        self._log.message(text)
        self._progress.message(text)

    def task(self, label: str, total: int) -> Task:
        self._log.message(f"{label}: {human_size(total)}")
        return self._progress.task(label, total)

    @contextlib.contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        with self._log.step(name, text), self._progress.step(name, text):
            yield


def for_stderr(quiet: bool) -> Progress:
    """Choose what fits stderr: bars on a terminal, lines elsewhere, silence when asked for."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
