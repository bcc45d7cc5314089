"""The proof at the end: a real build for every platform, from an unmodified `FROM`, through the mirror.

With nodes there is one build for each platform, and buildx says which node did it; and one on each node that has no
builds as long as another has them.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Protocol

from bundles.archive.reader import Archive
from bundles.errors import BundleError, UsageError
from bundles.oci.image import parse_json, parse_manifest
from bundles.oci.platform import Platform
from installer.host.docker.cli import CommandError, DockerCLI
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER, fingerprint
from installer.model.job import Job
from installer.model.node import Node
from installer.model.selection import Selected
from installer.model.step import Change, Step
from installer.receipt.recorder import InstallRecorder
from installer.steps.builder.instance import alone

# Docker's config.json may have them, with passwords; buildx would put them into the history of the build.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY")
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "busybox"})


@dataclasses.dataclass(frozen=True)
class Trial:
    """One build: from `image` (None: from scratch) for `platforms`, with a RUN when the image has a shell.

    With `node` it is done there, and not where buildx would have it done.
    """

    image: Optional[Selected]
    platforms: tuple[Platform, ...]
    with_run: bool
    node: Optional[Node] = None

    @property
    def base(self) -> str:
        return self.image.image.reference.familiar if self.image else "scratch"

    def dockerfile(self, with_run: bool) -> str:
        lines = [f"FROM {self.base}", "COPY <<EOF /bundle-test", "built across the air gap", "EOF"]
        return "\n".join([*lines, *(["RUN test -s /bundle-test"] if with_run else [])]) + "\n"

    def __str__(self) -> str:
        how = "COPY and RUN" if self.with_run else "COPY, no RUN: it seems to have no shell"
        where = f"; on {self.node.address}" if self.node else ""
        return f"{', '.join(map(str, self.platforms))}: {how}{where}"


class TestedBuilder(Protocol):
    """A builder: its name, the name of its state, and the command that shows what it has to say."""

    @property
    def builder(self) -> str: ...

    @property
    def mark(self) -> str: ...

    @property
    def logs(self) -> str: ...


class SmokeTest(Step):
    """Builds on each builder, and leaves nothing behind but build cache.

    Done again whenever a step before it changed something, or the last one did not pass.
    """

    name = "test build"

    def __init__(self, job: Job, host: Host, builders: Sequence[TestedBuilder], recorder: InstallRecorder) -> None:
        self._job, self._host, self._builders, self._recorder = job, host, builders, recorder
        self._built: list[str] = []

    def look(self) -> Sequence[Change]:
        if self._recorder.receipt.test == self._key():
            return []
        return [
            Change("build", "test image", f"FROM {trial.base}", f"{trial}{self._where(builder)}")
            for builder, trial in self._plan()
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for builder, trial in self._plan():
            self._try(trial, builder)
        self._recorder.note_test(self._key())

    def notes(self) -> Sequence[str]:
        return self._built

    def _key(self) -> str:
        first, *others = [builder.mark for builder in self._builders]
        nodes = [[node.name, str(node.tool.manifest.digest)] for node in self._job.nodes]
        more = {**({"nodes": nodes} if nodes else {}), **({"others": others} if others else {})}
        return fingerprint({"bundle": str(self._job.archive.digest), "builder": first, **more})

    def _where(self, builder: TestedBuilder) -> str:
        return f"; on {builder.builder}" if self._builders[1:] else ""

    def _plan(self) -> Iterator[tuple[TestedBuilder, Trial]]:
        """Give every build."""
        trials = self._trials()
        for builder in self._builders:
            nodes = self._nodes_of(builder)
            if not nodes:
                yield from ((builder, trial) for trial in trials)
                continue
            each = [replace(trial, platforms=(platform,)) for trial in trials for platform in trial.platforms]
            yield from ((builder, trial) for trial in each)
            for node in nodes:
                if not self._job.platforms_of(node):
                    its = (trial for trial in each if trial.platforms[0].architecture == node.platform.architecture)
                    yield builder, replace(next(its), node=node)

    def _nodes_of(self, builder: TestedBuilder) -> Sequence[Node]:
        """Return the nodes that a builder has: only the first one has any."""
        return self._job.nodes if builder is self._builders[0] else ()

    def _trials(self) -> list[Trial]:
        """Choose as few builds as cover every platform, from images with a shell where there are such."""
        images = self._job.base_images()
        chosen: dict[tuple[Optional[Selected], bool], list[Platform]] = {}
        for platform in self._job.platforms:
            offers = [image for image in images if platform.best_of(image.platforms)]
            ranked = sorted(
                ((not has_shell(self._job.archive, image, platform), _size(image), n) for n, image in enumerate(offers))
            )
            key = (offers[ranked[0][2]], not ranked[0][0]) if ranked else (None, False)
            chosen.setdefault(key, []).append(platform)
        return [Trial(image, tuple(platforms), run) for (image, run), platforms in chosen.items()]

    def _try(self, trial: Trial, builder: TestedBuilder) -> None:
        try:
            self._build(trial, builder, trial.with_run)
        except CommandError as error:
            if trial.with_run and self._copy_works(trial, builder):
                message = f"FROM {trial.base} works, and RUN does not"
                hint = "is there emulation for what this host does not run? does `docker run --privileged` work?"
            else:
                message = f"a test build FROM {trial.base} failed"
                # buildx knows no other logins than Docker's.
                site = self._job.site
                more = f"docker login {site.host}" if site else f"docker logs {REGISTRY_CONTAINER}"
                hint = f"{builder.logs}; {more}"
            if self._job.address.is_name and not self._job.site:
                hint += f"; if `{self._job.address.host}` does not resolve: --registry with the IP address"
            node = trial.node or (self._job.node_for(trial.platforms[0]) if self._nodes_of(builder) else None)
            if node:
                message = f"on {node.address}: {message}"
                hint = f"{node.address.typed} docker logs {node.container}; does it reach {self._job.destination.host}?"
            platforms = ", ".join(map(str, trial.platforms))
            where = self._where(builder)
            raise BundleError(f"{message} ({platforms}{where})\n{error.message}", hint=hint) from None

    def _copy_works(self, trial: Trial, builder: TestedBuilder) -> bool:
        try:
            self._build(trial, builder, False)
        except CommandError:
            return False
        return True

    def _build(self, trial: Trial, builder: TestedBuilder, with_run: bool) -> None:
        if not self._nodes_of(builder):
            self._run(self._host.cli, trial, builder, with_run)
            return
        if trial.node:
            with alone(self._host, builder.builder, trial.node.name) as docker:
                self._run(docker, trial, builder, with_run)
            self._built.append(f"built for {trial.platforms[0]}, to try it: {trial.node.address}")
            return
        with tempfile.TemporaryDirectory(prefix="bundle-test-") as directory:
            metadata = Path(directory) / "metadata.json"
            self._run(self._host.cli, trial, builder, with_run, "--metadata-file", str(metadata))
            # The builder, the node and the build.
            name = str(json.loads(metadata.read_bytes()).get("buildx.build.ref", "")).split("/")[1:2]
        nodes = {node.name: str(node.address) for node in self._job.nodes}
        where = nodes.get(name[0], "this host") if name else "a node that buildx does not name"
        self._built.append(f"built for {trial.platforms[0]}: {where}")

    def _run(self, docker: DockerCLI, trial: Trial, builder: TestedBuilder, with_run: bool, *more: str) -> None:
        docker.run(
            [
                *("buildx", "build", "--builder", builder.builder),
                *("--platform", ",".join(map(str, trial.platforms))),
                *("--no-cache", "--pull", "--provenance=false", "--output", "type=cacheonly", "--progress", "plain"),
                *more,
                *(word for name in _PROXIES for word in ("--build-arg", f"{name}=")),
                "-",
            ],
            stdin=trial.dockerfile(with_run),
        )


def has_shell(archive: Archive, image: Selected, platform: Platform) -> bool:
    """Tell whether an image seems to have /bin/sh: it starts one by default, or one was used when it was built."""
    offered = [content.platform for content in image.image.platforms if content.platform]
    best = platform.best_of(offered)
    content = next(content for content in image.image.platforms if content.platform == best)
    try:
        config = parse_json(
            archive.read_document(parse_manifest(archive.read_document(content.manifest)).config), "the image config"
        )
        return _starts_shell(config.get("config") or {}) or _was_built_with_shell(config.get("history") or [])
    except (UsageError, AttributeError, TypeError):
        return False


def _starts_shell(config: dict[str, Any]) -> bool:
    commands = [config.get("Entrypoint") or [], config.get("Cmd") or [], config.get("Shell") or []]
    return any(command and posixpath.basename(str(command[0])) in _SHELLS for command in commands)


def _was_built_with_shell(history: Sequence[dict[str, Any]]) -> bool:
    commands = (str(entry.get("created_by", "")) for entry in history if not entry.get("empty_layer"))
    return any("/bin/sh -c" in command and "#(nop)" not in command for command in commands)


def _size(image: Selected) -> int:
    return sum(content.content_size for content in image.image.platforms)
