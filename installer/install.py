"""Archive -> registry, then a builder: looks at the host, does what is missing, says what was done."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Union

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.errors import DiskFullError, HostError, InterruptedByUser, NetworkError, UnavailableError, UnreachableError
from bundles.runtime.progress import Progress, Silent
from installer import preflight
from installer.host.files import read_optional, usable_size
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.model.selection import places
from installer.model.step import Step, StepResult
from installer.receipt.receipt import Receipt
from installer.receipt.recorder import InstallRecorder
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Beside, Runner, by_name
from installer.steps.builder.builder import Builder
from installer.steps.builder.buildkitd_config import BuildkitdConfig
from installer.steps.builder.node_check import with_nodes
from installer.steps.builder.nodes import Nodes
from installer.steps.buildx_plugin import BuildxPlugin
from installer.steps.emulation import Emulation
from installer.steps.kubernetes.access import ClusterAccess
from installer.steps.kubernetes.builder import ClusterBuilder, RemoveCluster
from installer.steps.kubernetes.check import ClusterCheck
from installer.steps.kubernetes.place import Place
from installer.steps.registry.authority import SiteAuthority
from installer.steps.registry.certificates import Certificates
from installer.steps.registry.check import DestinationCheck
from installer.steps.registry.container import FormerRegistry, RegistryContainer
from installer.steps.registry.held import HeldCheck
from installer.steps.registry.login import GivenAccess, docker_access
from installer.steps.registry.push import Push
from installer.steps.registry.storage import Storage, trouble, watch_of
from installer.steps.registry.tokens import TokenServer
from installer.steps.replay_container import ReplayContainer, with_replay
from installer.steps.smoke_test import SmokeTest
from installer.steps.toolchain_images import LoadImage


def install(archive: Archive, options: Options, host: Host, progress: Progress) -> Receipt:
    """Make the host what the archive and the options say, and keep a receipt there.

    Raises:
        ArchiveError: the archive is damaged; layers are checked while they are pushed.
        HostError: the host is not ready; nothing has been changed.
        BundleError: a step failed; what was done stays, and the next run goes on from there.
    """
    with _prepare(archive, options, host, progress, yes=options.yes) as run, run.recorder.locked():
        results = by_name(run.runner.perform())
        return run.recorder.finish(results, run.push.rebuilt)


def plan(archive: Archive, options: Options, host: Host) -> tuple[Job, Sequence[StepResult]]:
    """Return what `install` would do; nothing is touched.

    Raises:
        ArchiveError, HostError: as `install` does.
    """
    with _prepare(archive, options, host, Silent(), yes=True, touches=False) as run:
        return run.job, by_name(run.runner.plan(lambda _: run.recorder.note_test(None)))


@dataclasses.dataclass(frozen=True)
class _Run:
    job: Job
    runner: Runner
    recorder: InstallRecorder
    push: Union[Push, HeldCheck]


@contextlib.contextmanager
def _prepare(
    archive: Archive, options: Options, host: Host, progress: Progress, *, yes: bool, touches: bool = True
) -> Iterator[_Run]:
    """Settle what is to be done and check the host; the context ends the connections to the registry.

    With `touches` checks may write what they remove again.
    """
    check_documents(archive)
    settled, info, problems = preflight.settle(archive, options, host)
    job, of_nodes = with_nodes(with_replay(settled, host), host)
    with contextlib.ExitStack() as stack:
        transport = stack.enter_context(
            transport_to(_as_given(job), credential=options.credential, say=progress.message)
        )
        running = preflight.as_it_runs(job, host)
        # Until its container is made anew, the registry speaks as before.
        now = transport if running is None else stack.enter_context(transport_to(running, say=progress.message))
        registry = Registry(now, job.destination.host)
        certificates = Certificates(job, host)
        given = GivenAccess(job.options.authorities if options.ca_file else None, options.credential)
        recorder = InstallRecorder(job, host)
        roles = ["buildkit", *(["python"] if job.replay and settled.tool("python") else [])]
        images = [LoadImage(job, host, progress, role) for role in roles]
        push: Union[Push, HeldCheck] = Push(
            archive,
            job.images,
            registry,
            progress,
            is_outgoing=lambda: preflight.has_other_data(job, host) or _is_mistrusted(job, registry, certificates),
            is_ours=recorder.has_pushed,
            yes=options.yes,
            prefix=job.destination.prefix,
        )
        builder = Builder(job, host)
        if job.site:
            before: list[Step] = []
            if job.site.joined:
                push = HeldCheck(archive, job.images, job.site, registry)
                before = [push]
            else:
                repositories = list(dict.fromkeys(place.repository for place in places(job.images)))
                before = [DestinationCheck(job.site, registry, repositories, tls=job.access.tls)]
            before += [TokenServer(registry, host), SiteAuthority(job, host), FormerRegistry(host)]
            own: list[Step] = [] if isinstance(push, HeldCheck) else [push]
        else:
            storage = Storage(job, host, touches=touches)
            before = [LoadImage(job, host, progress, "registry"), *certificates.if_of_use(), *storage.if_of_use()]
            own = [RegistryContainer(job, host, registry, transport), push]
        # Docker's own settings for a registry of the site are the site's, until a host joins it.
        docker = [] if job.site and not job.site.joined else docker_access(job, host, recorder.receipt, given)
        kubernetes, remote = _of_cluster(job, host)
        steps: list[Union[Step, Beside]] = [
            *before,
            # While the registry is filled, Docker unpacks what the builder needs.
            Beside(
                own,
                [*images, BuildxPlugin(job, host, progress), Emulation(job, host, progress)],
                cancel=stack.close,
            ),
            # The replay service reads with the login that Docker has then.
            *(docker if job.site else []),
            ReplayContainer(job, host, progress, drops=recorder.had_replay),
            BuildkitdConfig(job, host),
            *([] if job.site else docker),
            builder,
            *Nodes(job, host, registry, builder, progress).if_of_use(),
            *kubernetes,
            SmokeTest(job, host, [builder, *remote], recorder),
        ]
        runner = Runner(steps, host.ask, progress, recorder)
        runner.check(
            yes=yes,
            problems=[*problems, *of_nodes],
            engine=info is not None,
            last=lambda: preflight.space_problems(job, info, host, [*before, *images], push) if info else [],
        )
        watch = watch_of(job, host.places, stack.close)
        try:
            with watch.watching() if watch else contextlib.nullcontext():
                yield _Run(job, runner, recorder, push)
        except UnavailableError as error:
            raise _explain(error, job, host) from None
        except InterruptedByUser:
            if watch is None or watch.lost is None:
                raise
            raise _lost(watch.lost) from None


def _of_cluster(job: Job, host: Host) -> tuple[list[Step], list[ClusterBuilder]]:
    """Return the steps of a builder on Kubernetes, or those that take one away; and the builder, where one is to be."""
    before = Receipt.known(host.places)
    if job.cluster is None:
        return [*RemoveCluster.all_of(before, host, data=False, files=True)] if before else [], []
    builder = ClusterBuilder(job, host)
    check = ClusterCheck(job, host, job.archive.path, before.state if before else None)
    return [check, ClusterAccess(job, host), BuildkitdConfig(Place.of(job, host).state, host), builder], [builder]


def _is_mistrusted(job: Job, registry: Registry, certificates: Certificates) -> bool:
    """Tell whether our own registry shows a certificate that is not good any more, and has another one soon."""
    if job.site or not job.access.tls:
        return False
    try:
        registry.ping()
    except UnreachableError:
        return False
    except NetworkError:
        return bool(certificates.look())
    return False


def _as_given(job: Job) -> Job:
    """Return the job with its CA where it is as long as nothing has been done: in the file that was given, in that of
    an installation before, or where everybody looks."""
    found, kept, given = job.options.authorities, job.access.authority, job.options.ca_file
    if found is None or (kept and not given and read_optional(Path(kept)) == found):
        return job
    return dataclasses.replace(job, access=dataclasses.replace(job.access, authority=str(given) if given else None))


def _lost(error: NetworkError) -> NetworkError:
    return NetworkError(
        f"{error.message}, and so the push was ended", hint=f"{error.hint}; then run this again, it goes on"
    )


def _explain(error: NetworkError, job: Job, host: Host) -> NetworkError | DiskFullError:
    """Say why the registry failed, where the host shows it: its disk is full, or its container has ended."""
    if job.site:
        return error
    with contextlib.suppress(HostError):
        info = host.engine.info()
        problem = trouble(job.storage, host.places) if job.storage else None
        if problem:
            return NetworkError(
                f"{problem.subject}: {problem.message}, and so the registry failed: {error.message}",
                hint=f"{problem.hint}; then run this again, it goes on",
                status=error.status,
            )
        free = None if job.storage else usable_size(host.places.seen(preflight.data_place(job, info)))
        if free is not None and free < 16 << 20:
            return DiskFullError(
                f"no space left for the registry's data in `{job.data}`: {error.message}",
                hint="make room (docker system df) and run this again; it goes on",
            )
        container = host.engine.container("registry")
        if container is None or not container.is_running:
            state = f"has ended ({container.state})" if container else "is gone"
            return NetworkError(
                f"the container `registry` {state}: {error.message}",
                hint="docker logs registry; then run this again, it goes on",
            )
    return error
