"""Dockerfile -> record: a build is run once, and all that it takes from the network is kept.

result = record(Build("app", platforms), Path("app.record"), Options(), progress)
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bundler.definition.spec import TOOLCHAIN
from bundler.recording.builder import BuilderSettings, TemporaryBuilder, remove_leftovers
from bundler.recording.directory import RecordDirectory
from bundler.recording.docker import Docker
from bundler.recording.provenance import Materials, materials
from bundler.recording.recorder import Recorder
from bundles.archive.manifest import check_name
from bundles.archive.tape.answer import Tape
from bundles.archive.tape.record import Recorded
from bundles.archive.tape.url import normalise
from bundles.errors import BundleError, Problem, UsageError
from bundles.oci.platform import Platform
from bundles.proxy.certificates import Authority
from bundles.proxy.server import ProxyServer
from bundles.registry.connections import Connections
from bundles.registry.proxies import Proxies
from bundles.registry.transport import Settings
from bundles.runtime.progress import Progress

_CACHE = "type=local,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd"


@dataclasses.dataclass(frozen=True)
class Build:
    """A build as `docker buildx build` takes it.

    Args:
        context: the directory.
        platforms: to build for.
        arguments: its other options, such as `--target` and `--build-arg`.
    """

    context: str
    platforms: Sequence[Platform]
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not Path(self.context).is_dir():
            raise UsageError(
                f"`{self.context}` is not a directory here: a build from elsewhere is not recorded",
                hint="fetch it, and name the directory that has the Dockerfile: bundle record app/",
            )


@dataclasses.dataclass(frozen=True)
class Options:
    """How a build is recorded.

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


def record(build: Build, path: Path, name: str, options: Options, progress: Progress) -> Result:
    """Build with a BuildKit of its own, and write a record; an interrupted one is gone on with.

    Raises:
        HostError: Docker or buildx is not there, or not fit for it.
        BundleError: the build failed.
        UsageError: the record cannot be written there.
    """
    check_name(name)
    docker = Docker()
    remove_leftovers(docker)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(RecordDirectory(path))
        if len(directory.tape):
            progress.message(f"going on with {len(directory.tape)} answers of a recording that was interrupted")
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-record-")))
        recorder = Recorder(directory, stack.enter_context(_network(options.network)))
        authority = Authority(private / "ca")
        server = stack.enter_context(ProxyServer(0, authority, recorder))
        settings = BuilderSettings(
            options.buildkit,
            f"http://{docker.way_here}:{server.port}",
            authority.certificate,
            options.steps,
            options.mirrors,
            options.network.insecure,
        )
        progress.message(f"starting {options.buildkit}")
        builder = stack.enter_context(TemporaryBuilder(docker, settings, private))
        metadata = private / "metadata.json"
        arguments = ["buildx", "build", "--builder", builder.name, "--metadata-file", str(metadata)]
        arguments += ["--cache-to", f"{_CACHE},{_field(f'dest={directory.cache}')}"]
        arguments += ["--platform", ",".join(map(str, build.platforms)), *build.arguments]
        arguments += ["--progress", "quiet"] if options.quiet else []
        code = docker.show([*arguments, build.context])
        if code:
            raise _failure(code, recorder)
        found = materials(metadata.read_bytes())
        notes = (*recorder.notes(), *_missing(found, directory.tape))
        recorded = Recorded(name, builder.version, tuple(build.platforms), found.images, notes)
        cache_size = directory.finish(recorded)
        size = sum(content.size for content in directory.tape.contents)
        return Result(recorded, len(directory.tape), size, cache_size)


def _field(text: str) -> str:
    """Return one field of an option of buildx, which is a line of CSV."""
    return '"' + text.replace('"', '""') + '"' if set(text) & {",", '"'} else text


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
        yield f"{other} is not recorded: only images and downloads are"


def _failure(code: int, recorder: Recorder) -> BundleError:
    problems = [Problem("request", failure) for failure in recorder.failures()]
    return BundleError(
        f"the build failed (exit code {code}); what it fetched is kept, and the next run goes on with it",
        hint="see its output above; where a step does not trust a certificate, docs/network.md says what to do, "
        "and --cache-only records without going between",
        problems=problems,
    )
