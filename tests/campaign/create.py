"""`bundle create` with a fault at a random moment, then again until it is done: same bytes, little fetched twice."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from bundler.definition.spec import TOOLCHAIN
from tests.campaign.disks import Disk
from tests.campaign.wire import Wire
from tests.support.fake_registry import FakeRegistry
from tests.support.images import noise

SIZES = (14_000_000, 9_000_000, 6_000_000, 3_000_000, 900_000, 100_000, 1_000)
SPLIT = "12MiB"
KINDS = (
    "SIGKILL", "SIGKILL", "SIGKILL at the end", "SIGTERM", "SIGINT", "disk full", "power loss", "power loss",
    "cut connections", "429 and 503", "expired token", "wrong bytes", "wrong length", "mirror dies",
)  # fmt: skip
# What one interruption may cost: for each of 4 workers a line of the journal (1 MiB), a chunk and the sockets' buffers.
ALLOWANCE = 4 * ((1 << 20) + (1 << 20) + (256 << 10))
_MAIN = "from bundles.cli.app import main; main()"
_ROOT = Path(__file__).parent.parent.parent
_OVERHEAD = 300_000  # headers and manifests


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run: what was done to it, whether that ended it, bytes fetched more than once, and what was wrong."""

    kind: str
    split: bool
    ended: bool
    again: int
    problems: tuple[str, ...]


class Campaign:
    """A registry, an undisturbed result to compare with, and runs that are disturbed. A context manager."""

    def __init__(self, seed: int, directory: Optional[Path] = None) -> None:
        self.random = random.Random(seed)
        self._stack = ExitStack()
        self._directory = Path(directory or self._stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        self.registry = FakeRegistry(auth="bearer")
        layers = [noise(number, size) for number, size in enumerate(SIZES)]
        images = [
            self.registry.image(f"linux/{name}", layers[number::2]) for number, name in enumerate(("amd64", "arm64"))
        ]
        self.registry.tag("library/debian", "12", self.registry.index(*images))
        self.total = sum(SIZES)
        # The program that travels is this source: whoever edits it meanwhile would change the expected bytes.
        self._source = self._directory / "source"
        for package in ("bundles", "bundler", "installer"):
            shutil.copytree(_ROOT / package, self._source / package)
        self.duration = 0.0
        self.expected: dict[bool, str] = {}

    def __enter__(self) -> Campaign:
        self._stack.enter_context(self.registry)
        for split in (False, True):
            folder = self._directory / f"undisturbed-{split}"
            folder.mkdir()
            with Wire(self.registry.port) as wire:
                begun = time.monotonic()
                assert self._start(folder, [wire.host], split).wait() == 0, _log(folder)
                self.duration = time.monotonic() - begun
            self.expected[split] = _digest(folder)
        assert self.expected[True] == self.expected[False]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, kind: str) -> Outcome:
        """One disturbed run and its repetitions."""
        split = self.random.random() < 0.4
        folder = self._directory / uuid.uuid4().hex
        folder.mkdir()
        self.registry.faults.clear()
        try:
            with Wire(self.registry.port) as wire:
                if kind == "mirror dies":
                    return self._mirror(folder, wire, split)
                if kind in ("disk full", "power loss"):
                    with Disk(folder / "disk", 300 << 20) as disk:
                        fault = self._disk_full if kind == "disk full" else self._power_loss
                        return fault(folder, disk, wire, split)
                if kind.startswith("SIG"):
                    return self._killed(kind, folder, wire, split)
                return self._network(kind, folder, wire, split)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _killed(self, kind: str, folder: Path, wire: Wire, split: bool) -> Outcome:
        signals = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
        process = self._start(folder, [wire.host], split)
        if kind == "SIGKILL at the end":
            wire.at(self.total, lambda: _after(self.random.uniform(0, 0.1), process.kill))
        elif self.random.random() < 0.3:
            _after(
                self.random.uniform(0, self.duration), lambda: process.send_signal(signals.get(kind, signal.SIGKILL))
            )
        else:
            wire.at(self.random.randrange(self.total), lambda: process.send_signal(signals.get(kind, signal.SIGKILL)))
        code = process.wait()
        problems = _unfinished(folder) if code else []
        if kind in signals and code not in (0, 130, -signals[kind]):
            problems.append(f"exit code {code}: {_log(folder)}")
        return self._again(kind, folder, wire, split, code != 0, problems)

    def _disk_full(self, folder: Path, disk: Disk, wire: Wire, split: bool) -> Outcome:
        filled = threading.Event()

        def fill() -> None:
            disk.fill(self.random.randrange(3 << 20))
            filled.set()

        wire.at(self.random.randrange(self.total), fill)
        process = self._start(disk.mount_point, [wire.host], split, log=folder / "log")
        code = process.wait()
        problems = _unfinished(disk.mount_point) if code else []
        if code not in (0, 1) or (code and "no space left" not in _log(folder)):
            problems.append(f"exit code {code}: {_log(folder)}")
        # The run may be over before the disk is full.
        filled.wait(10)
        (disk.mount_point / "filler").unlink(missing_ok=True)
        return self._again("disk full", disk.mount_point, wire, split, code != 0, problems)

    def _power_loss(self, folder: Path, disk: Disk, wire: Wire, split: bool) -> Outcome:
        process = self._start(disk.mount_point, [wire.host], split, log=folder / "log")
        at_end = self.random.random() < 0.3

        def power_off() -> None:
            disk.lose_power()
            process.kill()

        if at_end:
            wire.at(self.total, lambda: _after(self.random.uniform(0, 0.15), power_off))
        else:
            wire.at(self.random.randrange(self.total), power_off)
        code = process.wait()
        time.sleep(0.02 if code else 0.5)
        disk.unmount()
        disk.mount()
        problems = _unfinished(disk.mount_point) if code else []
        # The machine starts anew: another boot id, which only this run sees.
        boot = folder / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        return self._again("power loss", disk.mount_point, wire, split, code != 0, problems, boot=boot)

    def _network(self, kind: str, folder: Path, wire: Wire, split: bool) -> Outcome:
        draw = self.random
        if kind == "cut connections":
            for _ in range(draw.randint(1, 6)):
                wire.at(draw.randrange(self.total), wire.cut)
        else:
            for _ in range(draw.randint(1, 4)):
                part = draw.choice(("/blobs/", "/blobs/", "/manifests/"))
                self.registry.fault("GET", part, **_fault(kind, draw, self.registry))
        process = self._start(folder, [wire.host], split)
        code = process.wait()
        problems = _unfinished(folder) if code else []
        if code not in (0, 5):
            problems.append(f"exit code {code}: {_log(folder)}")
        self.registry.faults.clear()
        return self._again(kind, folder, wire, split, code != 0, problems)

    def _mirror(self, folder: Path, wire: Wire, split: bool) -> Outcome:
        with Wire(self.registry.port) as dying:
            dying.at(self.random.randrange(self.total), dying.close)
            process = self._start(folder, [dying.host, wire.host], split)
            code = process.wait()
            problems = [] if code == 0 else [f"the other mirror did not take over: {_log(folder)}"]
            wire.served += dying.served
            return self._again("mirror dies", folder, wire, split, code != 0, problems)

    def _again(
        self,
        kind: str,
        folder: Path,
        wire: Wire,
        split: bool,
        ended: bool,
        problems: list[str],
        boot: Optional[Path] = None,
    ) -> Outcome:
        """Run until it is done, and compare."""
        if ended:
            log = folder.parent / "log-again"
            code = self._start(folder, [wire.host], split, log=log, boot=boot).wait()
            if code:
                problems.append(f"the second run ended with {code}: {log.read_text()[-600:]}")
        again = max(0, wire.served - self.total - 2 * _OVERHEAD)
        if kind in ("SIGKILL", "SIGTERM", "SIGINT", "disk full", "SIGKILL at the end") and again > ALLOWANCE:
            problems.append(f"{again} bytes were fetched again")
        try:
            if _digest(folder) != self.expected[split]:
                problems.append("the archive differs from that of an undisturbed run")
            if subprocess.run(["sha256sum", "--quiet", "-c", "offline.tar.sha256"], cwd=folder, check=False).returncode:
                problems.append("sha256sum -c fails")
        except OSError as error:
            problems.append(str(error))
        left = [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".journal"))]
        if left:
            problems.append(f"left behind: {left}")
        return Outcome(kind, split, ended, again, tuple(problems))

    def _start(
        self,
        folder: Path,
        hosts: Sequence[str],
        split: bool,
        *,
        log: Optional[Path] = None,
        boot: Optional[Path] = None,
    ) -> subprocess.Popen[bytes]:
        command: list[Any] = [sys.executable, "-c", _MAIN, "create", "debian:12", "-o", folder / "offline.tar", "-q"]
        command += [f"--mirror=docker.io={host}" for host in hosts]
        command += [f"--without={role}" for role in TOOLCHAIN]
        command += ["--split", SPLIT] if split else []
        if boot:
            place = "/proc/sys/kernel/random/boot_id"
            script = f'mount --bind "$0" {place} && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", script, boot, *command]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        with (log or folder / "log").open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=self._source)


def _fault(kind: str, draw: random.Random, registry: FakeRegistry) -> dict[str, Any]:
    if kind == "429 and 503":
        if draw.random() < 0.5:
            return {"status": 429, "headers": {"Retry-After": "1"}}
        return {"status": draw.choice((500, 502, 503, 504))}
    if kind == "expired token":
        return {"cut_after": draw.randrange(1, 900), "before": registry.expire_tokens}
    if kind == "wrong bytes":
        return {"corrupt": True}
    return draw.choice(
        ({"longer": 7}, {"shorter": 7}, {"no_length": True, "shorter": 3}, {"no_length": True, "longer": 3})
    )


def _after(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _unfinished(folder: Path) -> list[str]:
    """What is wrong with a directory in which a run was interrupted: a final name on a file that is not whole."""
    finals = [
        path for path in folder.iterdir() if path.name == "offline.tar" or path.suffix in (".001", ".002", ".003")
    ]
    problems = []
    for path in finals:
        lines = (folder / "offline.tar.sha256").read_text().splitlines()
        if f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" not in lines:
            problems.append(f"{path.name} has its final name and is not whole")
    return problems


def _digest(folder: Path) -> str:
    """The SHA-256 of the archive, or of its parts in a row."""
    parts = [folder / "offline.tar"] if (folder / "offline.tar").exists() else sorted(folder.glob("offline.tar.0??"))
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.read_bytes())
    return whole.hexdigest()


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-600:]


@contextmanager
def campaign(seed: int) -> Iterator[Campaign]:
    with Campaign(seed) as made:
        yield made


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures, as Markdown."""
    rows = ["| fault | runs | it ended the run | fetched again, median and most | wrong |", "|---|---|---|---|---|"]
    by_kind: dict[str, list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    for kind, group in by_kind.items():
        again = sorted(outcome.again for outcome in group)
        sizes = f"{again[len(again) // 2] / 1e6:.1f} MB, {again[-1] / 1e6:.1f} MB"
        ended = sum(outcome.ended for outcome in group)
        wrong = sum(bool(outcome.problems) for outcome in group)
        rows.append(f"| {kind} | {len(group)} | {ended} | {sizes} | {wrong} |")
    return "\n".join(rows)
