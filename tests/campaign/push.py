"""The push of an archive into a real registry, with a fault at a random moment, then again until it is done."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from bundler.definition.spec import TOOLCHAIN
from tests.campaign.disks import Disk
from tests.campaign.wire import Wire
from tests.support.fake_registry import FakeRegistry
from tests.support.images import noise

KINDS = ("SIGKILL", "SIGKILL", "SIGTERM", "registry killed", "disk full", "medium pulled")
_ROOT = Path(__file__).parent.parent.parent
_ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
# What `bundle install` does in its step "push", against a registry at argv[2].
_MAIN = """
import sys
from pathlib import Path
from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli import app
from bundles.registry.transport import Settings, Transport
from bundles.runtime.progress import Silent
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.registry.client import Registry
from installer.steps.registry.push import Push
import click

@click.command()
def push():
    settings = Settings(insecure=frozenset({sys.argv[2]}), timeout=(5.0, 60.0), attempts=4, backoff=0.1)
    with Archive(Path(sys.argv[1])) as archive, Transport(settings) as transport:
        check_documents(archive)
        images = select(archive, Destination.of(Address.parse(sys.argv[2])), ())
        step = Push(archive, images, Registry(transport, sys.argv[2]), Silent())
        changes = step.look()
        if changes:
            step.apply(changes)

app.bundle = push
app.bundle.main = lambda arguments, **options: click.Command.main(push, [], **options)
sys.exit(app.run([]))
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run: what was done to it, its exit code, whether it was cut into parts, and what was wrong."""

    kind: str
    code: int
    split: bool
    problems: tuple[str, ...]


def origin() -> FakeRegistry:
    """A registry with three images and some 20 MB of layers, shared ones among them."""
    registry = FakeRegistry()
    shared = noise("shared", 5_000_000)
    for name, seed in (("library/debian", 1), ("library/gcc", 2), ("team/app", 3)):
        images = [
            registry.image(f"linux/{platform}", [shared, noise(f"{seed}-{platform}", 1_700_000 * seed)])
            for platform in ("amd64", "arm64")
        ]
        registry.tag(name, "12", registry.index(*images))
    return registry


class Registry:
    """distribution 3 on a port of its own, which can be killed and come back with the same data."""

    def __init__(self, storage: Path, log: Path) -> None:
        from tests.testbed import gotools

        self._program = gotools.REGISTRY.make()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._log = log
        self._configuration = log.with_suffix(".json")
        self._configuration.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(storage)}},
                    "http": {"addr": f"127.0.0.1:{self.port}"},
                    "validation": {"manifests": {"indexes": {"platforms": "none"}}},
                }
            )
        )
        self.start()

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, "serve", self._configuration], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline and self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, path: str, method: str = "GET") -> Optional[tuple[str, bytes]]:
        """The digest and the content at a path below /v2/, None when there is none."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/{path}", headers={"Accept": _ACCEPT}, method=method
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
                return answer.headers.get("Docker-Content-Digest", ""), answer.read()
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
            return None


class Campaign:
    """An archive, whole and in parts, and what an undisturbed push makes of it. A context manager."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._stack = ExitStack()
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))

    def __enter__(self) -> Campaign:
        self._source = self._directory / "source"
        for package in ("bundles", "bundler", "installer"):
            shutil.copytree(_ROOT / package, self._source / package)
        self._media = self._directory / "usb"
        self._media.mkdir()
        with origin() as online:
            for name, split in (("offline.tar", []), ("parts.tar", ["--split", "8MB"])):
                command = [
                    "create",
                    "debian:12",
                    "gcc:12",
                    f"{online.host}/team/app:12",
                    "-o",
                    self._media / name,
                    "-q",
                ]
                command += [f"--mirror=docker.io={online.host}", *split]
                command += [f"--without={role}" for role in TOOLCHAIN]
                subprocess.run(
                    [sys.executable, "-c", "from bundles.cli.app import main; main()", *map(str, command)],
                    check=True,
                    cwd=self._source,
                )
            self.tags = [
                (place, "12", str(repository.tags["12"]))
                for name, repository in online.repositories.items()
                for place in _repositories(online.host, name)
            ]
        self.total = (self._media / "offline.tar").stat().st_size
        folder = self._directory / "undisturbed"
        folder.mkdir()
        registry = Registry(folder / "storage", folder / "log")
        try:
            with Wire(registry.port, both=True) as wire:
                assert self._push(folder, wire, self._media / "offline.tar").wait() == 0, _log(folder)
            self.expected = _state(folder / "storage")
            assert not self._incomplete(registry, all_of_them=True)
        finally:
            registry.kill()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, kind: str) -> Outcome:
        """One disturbed push and its repetition."""
        split = self.random.random() < 0.5
        folder = self._directory / uuid.uuid4().hex
        folder.mkdir()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            storage, media = folder / "storage", self._media
            filled = stack.enter_context(Disk(folder / "data", 200 << 20)) if kind == "disk full" else None
            pulled = stack.enter_context(Disk(folder / "stick", 120 << 20)) if kind == "medium pulled" else None
            if filled:
                storage = filled.mount_point / "storage"
            if pulled:
                shutil.copytree(self._media, pulled.mount_point, dirs_exist_ok=True)
                pulled.unmount()
                pulled.mount("ro")
                media = pulled.mount_point
            registry = Registry(storage, folder / "log-registry")
            stack.callback(registry.kill)
            wire = stack.enter_context(Wire(registry.port, both=True))
            archive = media / ("parts.tar.002" if split else "offline.tar")
            process = self._push(folder, wire, archive)
            self._disturb(kind, wire, process, registry, filled, pulled)
            code = process.wait()
            problems = _wrong_end(kind, code, folder, media)
            if registry.process.poll() is not None:
                registry.start()
            if filled:
                (filled.mount_point / "filler").unlink(missing_ok=True)
            if pulled:
                pulled.put_back()
            problems += self._incomplete(registry)
            again = self._push(folder, wire, archive).wait()
            if again:
                problems.append(f"the second run ended with {again}: {_log(folder)}")
            problems += self._incomplete(registry, all_of_them=True)
            different = sorted(set(_state(storage).items()) ^ set(self.expected.items()))
            if different:
                problems.append(f"the registry's data differ from those of an undisturbed push: {different[:6]}")
            return Outcome(kind, code, split, tuple(problems))

    def _disturb(
        self,
        kind: str,
        wire: Wire,
        process: subprocess.Popen[bytes],
        registry: Registry,
        filled: Optional[Disk],
        pulled: Optional[Disk],
    ) -> None:
        moment = self.random.randrange(self.total)
        if kind in ("SIGKILL", "SIGTERM"):
            wire.at(moment, lambda: process.send_signal(signal.Signals[kind]))
        elif kind == "registry killed":
            wire.at(moment, registry.kill)
        elif filled:
            wire.at(moment, lambda: filled.fill(self.random.randrange(1 << 20)))
        elif pulled:
            wire.at(moment, pulled.pull)

    def _incomplete(self, registry: Registry, all_of_them: bool = False) -> list[str]:
        """Tags that point at something that is not all there, or, when all must be there, are missing."""
        problems = []
        for repository, tag, digest in self.tags:
            found = registry.get(f"{repository}/manifests/{tag}")
            if found is None:
                problems += [f"{repository}:{tag} is missing"] if all_of_them else []
                continue
            if found[0] != digest:
                problems.append(f"{repository}:{tag} is {found[0]}")
            for child in json.loads(found[1])["manifests"]:
                manifest = registry.get(f"{repository}/manifests/{child['digest']}")
                if manifest is None:
                    problems.append(f"{repository}:{tag} lacks {child['digest']}")
                    continue
                value = json.loads(manifest[1])
                for blob in (value["config"], *value["layers"]):
                    if registry.get(f"{repository}/blobs/{blob['digest']}", "HEAD") is None:
                        problems.append(f"{repository}:{tag} lacks {blob['digest']}")
        return problems

    def _push(self, folder: Path, wire: Wire, archive: Path) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        with (folder / "log").open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-c", _MAIN, archive, wire.host],
                stdout=stream,
                stderr=stream,
                env=environment,
                cwd=self._source,
            )


def _repositories(online: str, name: str) -> list[str]:
    """Where an image of Docker Hub, or of that registry, is installed."""
    if name.startswith("library/"):
        return [name, name.removeprefix("library/")]
    return [f"{online.replace(':', '_')}/{name}"]


def _wrong_end(kind: str, code: int, folder: Path, media: Path) -> list[str]:
    expected: dict[str, tuple[int, ...]] = {
        "SIGKILL": (0, -signal.SIGKILL),
        "SIGTERM": (0, 130, -signal.SIGTERM),
        "registry killed": (0, 5),
        "disk full": (0, 1, 5),
        "medium pulled": (0, 3),
    }
    said = _log(folder)
    problems = [] if code in expected[kind] else [f"exit code {code}: {said}"]
    if code == 3 and (str(media) not in said or "cannot be read at byte" not in said):
        problems.append(f"the error does not name the file and the offset: {said}")
    if "Traceback" in said:
        problems.append(said)
    return problems


def _state(storage: Path) -> dict[str, Any]:
    """The files in a registry's storage with their sizes, but for what a killed registry leaves unfinished."""
    return {
        str(path.relative_to(storage)): path.stat().st_size
        for path in storage.rglob("*")
        if path.is_file() and "_uploads" not in path.parts and path.suffix != ".tmp"
    }


def incomplete_on_disk(storage: Path) -> list[str]:
    """Tags in a registry's storage that point at something of which a part is missing: links without their blobs.

    Children of an index that have no link are not counted: an index may be sparse.
    """
    root = storage / "docker/registry/v2"
    blobs = root / "blobs/sha256"

    def data(digest: str) -> Path:
        return blobs / digest[7:9] / digest[7:] / "data"

    problems = []
    for link in root.glob("repositories/**/_manifests/tags/*/current/link"):
        repository = link.parents[4]
        waiting = [link.read_text()]
        while waiting:
            digest = waiting.pop()
            if not data(digest).exists():
                problems.append(f"{link.parents[1]} lacks {digest}")
                continue
            value = json.loads(data(digest).read_bytes())
            for child in value.get("manifests", []):
                if (repository / "_manifests/revisions/sha256" / child["digest"][7:] / "link").exists():
                    waiting.append(child["digest"])
            for blob in (value["config"], *value["layers"]) if "layers" in value else ():
                there = data(blob["digest"]).exists() and data(blob["digest"]).stat().st_size == blob["size"]
                if not there or not (repository / "_layers/sha256" / blob["digest"][7:] / "link").exists():
                    problems.append(f"{link.parents[1]} lacks {blob['digest']}")
    return problems


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-1500:]


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures, as Markdown."""
    rows = ["| fault | runs | ended by it, with exit codes | wrong |", "|---|---|---|---|"]
    by_kind: dict[str, list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    for kind, group in by_kind.items():
        codes = collections.Counter(outcome.code for outcome in group if outcome.code)
        ended = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items())) or "none"
        rows.append(f"| {kind} | {len(group)} | {ended} | {sum(bool(each.problems) for each in group)} |")
    return "\n".join(rows)
