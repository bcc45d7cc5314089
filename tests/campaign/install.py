"""`bundle install` on an air-gapped host with a fault at a random moment, then again until done: the same state."""

from __future__ import annotations

import collections
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from tests.campaign.push import incomplete_on_disk

KINDS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "registry killed", "Docker restarted", "two at once")
_RESET = """
docker buildx rm cross-builder; docker rm -f $(docker ps -aq)
docker volume rm bundle-registry; docker volume prune -af; docker rmi -f $(docker images -q)
rm -rf /root/.local /root/.docker
"""
_DATA = "/var/lib/docker/volumes/bundle-registry/_data"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run: what was done to it, its exit code, the step it had reached, and what was wrong."""

    kind: str
    code: int
    step: str
    problems: tuple[str, ...]


class Campaign:
    """A host, an archive, and the state that an undisturbed install leaves. A context manager."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._stack = ExitStack()

    def __enter__(self) -> Campaign:
        from tests.testbed import ORIGIN, Host, start_origin

        start_origin()
        media = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        media.chmod(0o755)
        # Emulation is the whole machine's, and others use it at the same time.
        command = ["create", "busybox:1.35", f"--mirror=docker.io={ORIGIN}", "--split", "64MiB", "--without=binfmt"]
        command += ["--platform", "linux/amd64"]
        command += ["-o", str(media / "offline.tar"), "-q"]
        subprocess.run([sys.executable, "-c", "from bundles.cli import main; main()", *command], check=True)
        self._last = max(path.name for path in media.glob("offline.tar.0??"))
        self.host = self._stack.enter_context(Host(name="campaign"))
        self.host.mount_in(media, "/usb", readonly=True)
        begun = time.monotonic()
        done = self._start().wait()
        assert done == 0, self._log()
        self.duration = time.monotonic() - begun
        self.expected = self._state()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, kind: str) -> Outcome:
        """Reset the host, one disturbed install, and its repetition."""
        self.host.run("sh", "-c", _RESET, check=False)
        process = self._start()
        time.sleep(self.random.uniform(0.3, self.duration))
        other: Optional[subprocess.Popen[str]] = None
        if kind in ("SIGKILL", "SIGTERM"):
            process.send_signal(signal.Signals[kind])
        elif kind == "registry killed":
            self.host.run("docker", "kill", "registry", check=False)
        elif kind == "Docker restarted":
            self.host.restart_docker()
        else:
            other = self._start("second")
        code = process.wait()
        step = self._step()
        problems = [f"traceback: {self._log()}"] if "Traceback" in self._log() else []
        allowed = {"SIGKILL": (0, -9, 137), "SIGTERM": (0, 130, -15, 143), "two at once": (0,)}
        if code not in allowed.get(kind, (0, 1, 4, 5)):
            problems.append(f"exit code {code}: {self._log()}")
        if other is not None and other.wait() not in (0, 1):
            problems.append(f"the second of two ended with {other.returncode}: {self._log('second')}")
        problems += incomplete_on_disk(self.host.path(_DATA))
        again = self._start().wait()
        if again:
            problems.append(f"the second run ended with {again}: {self._log()}")
        state = self._state()
        problems += [
            f"{key}: {state.get(key)} instead of {value}"[:600]
            for key, value in self.expected.items()
            if state.get(key) != value
        ]
        return Outcome(kind, code, step, tuple(problems))

    def _start(self, name: str = "first") -> subprocess.Popen[str]:
        with self.host.path(f"/tmp/{name}.log").open("w") as log:
            return self.host.popen("python3", f"/usb/{self._last}", "install", stdout=log, stderr=log)

    def _log(self, name: str = "first") -> str:
        return self.host.path(f"/tmp/{name}.log").read_text()[-1500:]

    def _step(self) -> str:
        lines = [line for line in self._log().splitlines() if ": " in line]
        return lines[-1].partition(":")[0] if lines else ""

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


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures, as Markdown."""
    rows = ["| fault | runs | exit codes | steps it came in | wrong |", "|---|---|---|---|---|"]
    by_kind: dict[str, list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    for kind, group in by_kind.items():
        codes = collections.Counter(outcome.code for outcome in group)
        steps = ", ".join(sorted({outcome.step for outcome in group}))
        exits = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
        rows.append(f"| {kind} | {len(group)} | {exits} | {steps} | {sum(bool(each.problems) for each in group)} |")
    return "\n".join(rows)
