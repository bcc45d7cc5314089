"""`bundle install` on an air-gapped host with a fault in the middle of one of its steps, then again until done: the
same state as that of an undisturbed install.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from tests.campaign.disks import Disk
from tests.campaign.push import incomplete_on_disk

KINDS = (
    "SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "registry stopped", "registry crashes", "Docker restarted",
    "disk full", "medium pulled", "two at once",
)  # fmt: skip
_ORDER = ("images", "registry", "push", "buildx", "configuration", "builder", "test build")
# How each may end, beside 0: too late, or the installation went on.
_CODES: dict[str, tuple[int, ...]] = {
    "SIGKILL": (-9, 137),
    "SIGTERM": (130, -15, 143),
    "SIGINT": (130, -2),
    "registry stopped": (1, 4, 5),
    "registry crashes": (1, 4, 5),
    "Docker restarted": (1, 4, 5),
    "disk full": (1, 5),
    "medium pulled": (3,),
    "two at once": (),
}
# What can go wrong only while the step needs it.
_STEPS: dict[str, tuple[str, ...]] = {
    "registry stopped": ("push", "builder", "test build"),
    "registry crashes": ("push", "builder", "test build"),
    "disk full": ("registry", "push"),
    "medium pulled": ("images", "registry", "push"),
}
_IMAGES = ("busybox:1.35", "debian:12", "python:3-slim")
_RESET = """
docker buildx rm cross-builder; docker rm -f $(docker ps -aq)
docker volume prune -af; docker rmi -f $(docker images -q)
rm -rf /root/.local /root/.docker /data/registry
"""
_DATA = "/data/registry"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run: what was done to it, its exit code, the step it was in, and what was wrong.

    `hit` says whether the installation still ran when the fault came.
    """

    kind: str
    code: int
    step: str
    hit: bool
    problems: tuple[str, ...]


class Campaign:
    """A host, an archive, and the state that an undisturbed install leaves. A context manager."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._stack = ExitStack()

    def __enter__(self) -> Campaign:
        from tests.testbed import ORIGIN, Host, start_origin

        start_origin()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        directory.chmod(0o755)
        self._stick = self._stack.enter_context(Disk(directory / "stick", 512 << 20))
        self._data = self._stack.enter_context(Disk(directory / "data", 512 << 20))
        # Emulation is the whole machine's, and others use it at the same time.
        command = ["create", *_IMAGES, f"--mirror=docker.io={ORIGIN}", "--split", "64MiB", "--without=binfmt"]
        command += ["--platform", "linux/amd64", "-o", str(self._stick.mount_point / "offline.tar"), "-q"]
        subprocess.run([sys.executable, "-c", "from bundles.cli.app import main; main()", *command], check=True)
        self._last = max(path.name for path in self._stick.mount_point.glob("offline.tar.0??"))
        self.host = self._stack.enter_context(Host(name="campaign"))
        self.host.mount_in(self._data.mount_point, "/data", readonly=False)
        self._put_in()
        process = self._start()
        self._timeline = self._watch(process)
        assert process.wait() == 0, self._log()
        self.expected = self._state()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, kind: str) -> Outcome:
        """Reset the host, one disturbed install, and its repetition."""
        self.host.run("sh", "-c", _RESET, check=False)
        if kind == "medium pulled":
            self._put_in()
        with _killed_on_error(self._start()) as process:
            self._wait_for(process, self.random.choice(_STEPS.get(kind, tuple(self._timeline))))
            hit, step = process.poll() is None, self._step()
            other = self._disturb(kind, process)
            code = process.wait()
        said = self._log()
        problems = [f"traceback: {said}"] if "Traceback" in said else []
        if code not in (0, *_CODES[kind]):
            problems.append(f"exit code {code}: {said}")
        if code == 3 and "/usb/offline.tar" not in said:
            problems.append(f"the error does not name the part: {said}")
        if other is not None and other.wait() not in (0, 1):
            problems.append(f"the second of two ended with {other.returncode}: {self._log('second')}")
        (self._data.mount_point / "filler").unlink(missing_ok=True)
        if kind == "medium pulled":
            self._put_in()
        problems += incomplete_on_disk(self.host.path(_DATA))
        again = self._start().wait()
        if again:
            problems.append(f"the second run ended with {again}: {self._log()}")
        problems += self._different()
        return Outcome(kind, code, step, hit, tuple(problems))

    def _disturb(self, kind: str, process: subprocess.Popen[str]) -> Optional[subprocess.Popen[str]]:
        """Do it; gives the second of two installs."""
        if kind.startswith("SIG"):
            process.send_signal(signal.Signals[kind])
        elif kind == "registry stopped":
            self.host.run("docker", "kill", "registry", check=False)
        elif kind == "registry crashes":
            # Not by Docker's own command, so that Docker starts it again.
            self.host.run("sh", "-c", "kill -KILL $(docker inspect -f '{{.State.Pid}}' registry)", check=False)
        elif kind == "Docker restarted":
            self.host.restart_docker()
        elif kind == "disk full":
            self._data.fill(self.random.randrange(1 << 20))
        elif kind == "medium pulled":
            self._stick.pull()
        else:
            return self._start("second")
        return None

    def _put_in(self) -> None:
        """Mount the stick anew, so that nothing of it is in the system's memory."""
        self.host.run("umount", "/usb", check=False)
        self._stick.put_back()
        self._stick.unmount()
        self._stick.mount("ro")
        self.host.mount_in(self._stick.mount_point, "/usb", readonly=True)

    def _start(self, name: str = "first") -> subprocess.Popen[str]:
        with self.host.path(f"/tmp/{name}.log").open("w") as log:
            command = ("python3", f"/usb/{self._last}", "install", "--data", _DATA)
            return self.host.popen(*command, stdout=log, stderr=log)

    def _watch(self, process: subprocess.Popen[str]) -> dict[str, float]:
        """How long each step of an undisturbed install takes, in seconds; "" is what comes before the first."""
        begun = {"": time.monotonic()}
        while process.poll() is None:
            for step in self._begun():
                begun.setdefault(step, time.monotonic())
            time.sleep(0.005)
        ends = [*list(begun.values())[1:], time.monotonic()]
        return {step: end - start for (step, start), end in zip(begun.items(), ends)}

    def _wait_for(self, process: subprocess.Popen[str], step: str) -> None:
        """Return at a random moment in the step."""
        while process.poll() is None and step and step not in self._begun():
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, self._timeline[step]))

    def _log(self, name: str = "first") -> str:
        return self.host.path(f"/tmp/{name}.log").read_text()[-1500:]

    def _step(self) -> str:
        """The step that the log tells of last."""
        return next(reversed(self._begun()), "")

    def _begun(self) -> list[str]:
        """The steps that the log tells of, as it does; some are done beside each other."""
        names = [line[:14].rstrip() for line in self._log().splitlines()]
        return [name for name in names if name in _ORDER]

    def _different(self) -> list[str]:
        """How the host's state differs from that after an undisturbed install."""
        state = self._state()
        return [
            f"{key}: {state.get(key)} instead of {value}"[:600]
            for key, value in self.expected.items()
            if state.get(key) != value
        ]

    def _state(self) -> dict[str, Any]:
        """What an install leaves: containers, images, volumes, files, the registry's data; nothing of times and ids."""

        def out(script: str) -> list[str]:
            return sorted(self.host.run("sh", "-c", script).stdout.splitlines())

        receipt = json.loads(self.host.path("/root/.local/state/bundle/receipt.json").read_text())
        data = self.host.path(_DATA)
        return {
            "containers": out("docker ps -a --format '{{.Names}} {{.Image}} {{.State}} {{.Ports}}'"),
            "images": out("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'"),
            "volumes": out("docker volume ls -q | sed -E 's/^[0-9a-f]{64}$/anonymous/'"),
            "builders": out("docker buildx ls --format '{{.Name}} {{.DriverEndpoint}} {{.Status}}'"),
            "files": out("cd /root; find .docker/cli-plugins .docker/buildx/*.toml /etc/docker .local -type f"),
            "receipt": {key: receipt[key] for key in ("bundle", "images", "registry", "builder")},
            "registry": {
                str(path.relative_to(data)): path.stat().st_size
                for path in data.rglob("*")
                if path.is_file() and "_uploads" not in path.parts and path.suffix != ".tmp"
            },
        }


@contextlib.contextmanager
def _killed_on_error(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A campaign that fails leaves no installation running."""
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures, as Markdown."""
    rows = ["| fault | runs | while it ran | exit codes | in the steps | wrong |", "|---|---|---|---|---|---|"]
    by_kind: dict[str, list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    for kind, group in by_kind.items():
        codes = collections.Counter(outcome.code for outcome in group)
        steps = collections.Counter(outcome.step or "checks" for outcome in group if outcome.hit)
        exits = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
        places = ", ".join(f"{count} {step}" for step, count in steps.most_common())
        hits = sum(outcome.hit for outcome in group)
        wrong = sum(bool(each.problems) for each in group)
        rows.append(f"| {kind} | {len(group)} | {hits} | {exits} | {places} | {wrong} |")
    return "\n".join(rows)
