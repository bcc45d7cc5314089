"""Archive -> registry, then a builder: looks at the host, does what is missing, says what was done."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.errors import DiskFullError, HostError, NetworkError, UnavailableError
from bundles.runtime.progress import Progress, Silent
from installer import preflight
from installer.host.files import lock, usable_size
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.model.step import Change, Step, shortened
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.connection import local_transport
from installer.steps.builder import Builder, BuildkitdConfig
from installer.steps.buildx_plugin import BuildxPlugin
from installer.steps.emulation import Emulation
from installer.steps.insecure_registry import InsecureRegistry
from installer.steps.push import Push
from installer.steps.registry_container import RegistryContainer
from installer.steps.smoke_test import SmokeTest
from installer.steps.toolchain_images import LoadImages


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a step would do."""

    step: Step
    changes: Sequence[Change]


def install(archive: Archive, options: Options, host: Host, progress: Progress) -> Receipt:
    """Make the host what the archive and the options say, and keep a receipt there.

    Raises:
        ArchiveError: the archive is damaged; layers are checked while they are pushed.
        HostError: the host is not ready; nothing has been changed.
        BundleError: a step failed; what was done stays, and the next run goes on from there.
    """
    check_documents(archive)
    with _prepared(archive, options, host, progress, asking=True) as prepared, lock(host.places.state / "lock"):
        for step in prepared.steps:
            question = None if options.yes else step.question()
            if question and not (host.ask and host.ask(question)):
                raise HostError(f"not agreed to: {question}", hint="run this again with --yes, or use localhost:5000")
        receipt = prepared.receipt
        receipt.read()
        for step in prepared.steps:
            changes = step.look()
            for text in shortened(changes):
                progress.message(f"{step.name}: {text}")
            if changes:
                receipt.begin(changes)
                step.apply(changes)
            receipt.end(step, changes)
        receipt.finish(prepared.push.rebuilt)
        if receipt.is_due:
            receipt.save()
        return receipt


def plan(archive: Archive, options: Options, host: Host) -> tuple[Job, list[Planned]]:
    """What `install` would do; nothing is touched.

    Raises:
        ArchiveError, HostError: as `install` does.
    """
    check_documents(archive)
    with _prepared(archive, options, host, Silent(), asking=False) as prepared:
        planned = []
        for step in prepared.steps:
            planned.append(Planned(step, step.look()))
            if planned[-1].changes:
                # What changes voids the proof that builds work: the last step makes a new one.
                prepared.receipt.test = None
        return prepared.job, planned


@dataclasses.dataclass(frozen=True)
class _Prepared:
    job: Job
    steps: Sequence[Step]
    push: Push
    receipt: Receipt


@contextlib.contextmanager
def _prepared(archive: Archive, options: Options, host: Host, progress: Progress, asking: bool) -> Iterator[_Prepared]:
    """Settle what is to be done and check the host; the context ends the connections to the registry."""
    job, info, problems = preflight.settle(archive, options, host)
    with local_transport(job.address) as transport:
        registry = Registry(transport, str(job.address))
        receipt = Receipt(job, host)
        push = Push(archive, job.images, registry, progress, is_outgoing=lambda: preflight.has_other_data(job, host))
        builder = Builder(job, host)
        steps: list[Step] = [
            LoadImages(job, host, progress),
            RegistryContainer(job, host, registry),
            push,
            BuildxPlugin(job, host, progress),
            Emulation(job, host, progress),
            BuildkitdConfig(job, host),
            InsecureRegistry(job, host),
            builder,
            SmokeTest(job, host, builder, receipt),
        ]
        preflight.check(job, info, host, steps, problems=problems, asking=asking)
        try:
            yield _Prepared(job, steps, push, receipt)
        except UnavailableError as error:
            raise _explained(error, job, host) from None


def _explained(error: NetworkError, job: Job, host: Host) -> NetworkError | DiskFullError:
    """Why the registry failed, where the host shows it: its disk is full, or its container has ended."""
    with contextlib.suppress(HostError):
        info = host.engine.info()
        free = usable_size(host.places.seen(preflight.data_place(job, info)))
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
