"""Dockerfiles -> record: builds are run once, and all that they take from the network is kept.

result = record([Build("app", Path("app"), platforms=platforms)], Path("app.record"), "app", Options(), progress)
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from bundler.definition.build import Build, not_here
from bundler.definition.spec import TOOLCHAIN
from bundler.recording.builder import BuilderSettings, TemporaryBuilder, remove_leftovers
from bundler.recording.cache_registry import CacheRegistry
from bundler.recording.command import command
from bundler.recording.directory import RecordDirectory
from bundler.recording.docker import Docker
from bundler.recording.provenance import Materials, materials, united
from bundler.recording.recorder import Recorder
from bundles.archive.manifest import check_name
from bundles.archive.tape.answer import Tape
from bundles.archive.tape.record import Recorded, RecordedBuild, RecordedStep
from bundles.archive.tape.url import normalise, shown
from bundles.dockerfile.steps import Step, steps
from bundles.errors import BundleError, Problem, UsageError
from bundles.proxy.certificates import Authority
from bundles.proxy.listener import listen
from bundles.proxy.server import ProxyServer
from bundles.registry.connections import Connections
from bundles.registry.proxies import Proxies
from bundles.registry.transport import Settings
from bundles.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Options:
    """How builds are recorded.

    Args:
        buildkit: the image of BuildKit.
        mirrors: a registry -> the hosts that are asked in its stead.
        network: what the command line says of registries: its CA and hosts without TLS are the recorder's, too.
        steps: RUN steps go through the recorder; without it only their results are kept, as cache.
        quiet: the build shows no progress.
    """

    buildkit: str = TOOLCHAIN["buildkit"]
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    network: Settings = dataclasses.field(default_factory=Settings)
    steps: bool = True
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of it. `size` is that of the contents on the tape, `cache_size` that of the cache."""

    recorded: Recorded
    answers: int
    size: int
    cache_size: int


def record(builds: Sequence[Build], path: Path, name: str, options: Options, progress: Progress) -> Result:
    """Build with a BuildKit of its own, one after the other, and write one record; an interrupted one is gone on with.

    Raises:
        HostError: Docker or buildx is not there, or not fit for it.
        BundleError: a build failed.
        UsageError: the record cannot be written there, or a context is no directory.
    """
    check_name(name)
    _check(builds)
    docker = Docker()
    remove_leftovers(docker)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(RecordDirectory(path))
        if len(directory.tape):
            progress.message(f"going on with {len(directory.tape)} answers of a recording that was interrupted")
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-record-")))
        recorder = Recorder(directory, stack.enter_context(_network(options.network)))
        authority = Authority(private / "ca")
        server = stack.enter_context(ProxyServer(listen(0), authority, recorder))
        caches = stack.enter_context(CacheRegistry(directory))
        settings = BuilderSettings(
            options.buildkit,
            f"http://{docker.way_here}:{server.port}",
            authority.certificate,
            options.steps,
            options.mirrors,
            options.network.insecure,
            f"{docker.way_here}:{caches.port}",
        )
        progress.message(f"starting {options.buildkit}")
        builder = stack.enter_context(TemporaryBuilder(docker, settings, private))
        described: list[RecordedBuild] = []
        unknown: list[str] = []
        taken: list[Materials] = []
        metadata = private / "metadata.json"
        for number, build in enumerate(builds, 1):
            if len(builds) > 1:
                progress.message(f"build {number} of {len(builds)}: {build.name}")
            described.append(_described(build, unknown))
            cache = caches.reference(docker.way_here, build.name)
            arguments = command(build, builder.name, cache, metadata, options.quiet)
            code = docker.show(arguments, build.bake.directory if build.bake else None)
            if code:
                raise _failure(code, recorder, build if len(builds) > 1 else None, path if directory.replaces else None)
            taken.append(materials(metadata.read_bytes()))
        found = united(taken)
        notes = (*recorder.notes(), *_missing(found, directory.tape), *_several(found), *unknown)
        platforms = tuple(dict.fromkeys(platform for build in builds for platform in build.platforms))
        recorded = Recorded(name, builder.version, platforms, found.images, notes, tuple(described))
        with ThreadPoolExecutor(1, "builder") as aside:
            # Docker takes a second or two to remove it, and nothing more is wanted of it.
            removal = aside.submit(builder.close)
            cache_size = directory.finish(recorded)
            removal.result()
        size = sum(content.size for content in directory.tape.contents)
        return Result(recorded, len(directory.tape), size, cache_size)


def _described(build: Build, unknown: list[str]) -> RecordedBuild:
    """Return what a record says of a build; what it cannot say is added to `unknown`."""
    found: tuple[Step, ...] = ()
    try:
        found = steps(build.text(), build.label, build.platforms, build.known_arguments, build.target)
    except UsageError as error:
        unknown.append(f"the steps of the build {build.name} are not known: {error.message}")
    recorded = tuple(RecordedStep(step.step, step.chain) for step in found)
    return RecordedBuild(build.name, build.label, build.target, build.platforms, recorded)


@contextlib.contextmanager
def _network(settings: Settings) -> Iterator[Connections]:
    proxies = Proxies(settings.direct)
    network = Connections(settings.insecure, settings.ca_file, settings.certs_d, settings.timeout, proxies)
    try:
        yield network
    finally:
        network.close()


def _missing(found: Materials, tape: Tape) -> Iterator[str]:
    """Compare what the build says that it downloaded with what is on the tape."""
    answers = defaultdict(list)
    for answer in tape:
        answers[answer.url].append(answer)
    for name, digest in found.downloads:
        # A download that was redirected has the first address and what came from the last one.
        waiting, seen = [normalise(name)], set[str]()
        while waiting and waiting[0] not in seen:
            seen.add(waiting[0])
            same = answers[waiting.pop()]
            if any(answer.content and answer.content.digest == digest for answer in same):
                break
            waiting = [answer.headers["location"] for answer in same if "location" in answer.headers][:1]
        else:
            yield f"{normalise(name)} was downloaded, and what came is not on the tape"
    for other in found.others:
        yield f"{shown(other)} is not recorded: only images and downloads are"


def _several(found: Materials) -> Iterator[str]:
    """Name the images that stood for more than one digest: the tag moved, or Dockerfiles pin different ones."""
    digests = Counter(image.reference for image in found.images)
    for reference, count in digests.items():
        if count > 1:
            yield f"{reference.familiar} is in these builds with {count} different digests"


def _check(builds: Sequence[Build]) -> None:
    away = [(build.name, error) for build in builds if (error := _what_is_missing(build))]
    if len(away) == 1:
        raise away[0][1]
    if away:
        problems = [error.as_problem(name) for name, error in away]
        raise UsageError(f"{len(away)} builds have no directory or no Dockerfile here", problems=problems)


def _what_is_missing(build: Build) -> Optional[UsageError]:
    if not build.context.is_dir():
        return not_here(build.context)
    file = build.file
    # BuildKit takes one whose name is in lower case, too.
    if file is None or file.is_file() or file.with_name(file.name.lower()).is_file():
        return None
    return UsageError(f"`{file}` is not there", hint=None if build.bake else "name the Dockerfile with -f FILE")


def _failure(code: int, recorder: Recorder, build: Optional[Build], before: Optional[Path]) -> BundleError:
    problems = [Problem("request", failure) for failure in recorder.failures()]
    which = f"the build `{build.name}`" if build else "the build"
    return BundleError(
        f"{which} failed (exit code {code}); what it fetched is kept, and the next run goes on with it"
        + (f"; the record in `{before}` is as it was" if before else ""),
        hint="see its output above; where a step does not trust a certificate, docs/network.md says what to do, "
        "and --cache-only records without going between",
        problems=problems,
    )
