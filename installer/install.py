"""Archive -> registry, then a builder: looks at the host, does what is missing, says what was done."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

from bundles.errors import DiskFullError, HostError, NetworkError, UnavailableError
from bundles.progress import Progress, Silent
from bundles.reader import Archive
from bundles.transport import Settings, Transport
from installer import preflight
from installer.binfmt import Emulation
from installer.builder import Builder, BuildkitdConfig
from installer.buildx import BuildxPlugin
from installer.container import RegistryContainer
from installer.daemon import InsecureRegistry
from installer.files import lock, usable_size
from installer.host import Host
from installer.images import LoadImages
from installer.job import Job, Options
from installer.push import Push
from installer.receipt import Receipt
from installer.registry import Registry
from installer.smoke import SmokeTest
from installer.step import Change, Step, shortened


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
    archive.check_documents()
    with lock(host.places.state / "lock"), _prepared(archive, options, host, progress, asking=True) as prepared:
        for step in prepared.steps:
            question = None if options.yes else step.question()
            if question and not (host.ask and host.ask(question)):
                raise HostError(f"not agreed to: {question}", hint="run this again with --yes, or use localhost:5000")
        receipt = prepared.receipt
        for step in prepared.steps:
            changes = step.look()
            for text in shortened(changes):
                progress.message(f"{step.name}: {text}")
            if changes:
                receipt.begin(changes)
                step.apply(changes)
            receipt.end(step, changes)
        receipt.finish(prepared.push.rebuilt)
        if receipt.changed or not host.places.receipt.exists():
            receipt.save()
        return receipt


def plan(archive: Archive, options: Options, host: Host) -> tuple[Job, list[Planned]]:
    """What `install` would do; nothing is touched.

    Raises:
        ArchiveError, HostError: as `install` does.
    """
    archive.check_documents()
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
    # A local registry answers at once or not at all, over plain HTTP.
    settings = Settings(insecure=frozenset({str(job.address)}), timeout=(5.0, 300.0), attempts=4, backoff=0.2)
    _bypass_proxies(job)
    with Transport(settings) as transport:
        registry = Registry(transport, str(job.address))
        receipt = Receipt(job, host)
        push = Push(archive, job.images, registry, progress)
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


def _bypass_proxies(job: Job) -> None:
    """Keep proxies of the environment out of the way to the registry: it is on this very host."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if job.address.host not in hosts:
            os.environ[name] = ",".join([*hosts, job.address.host])


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
            state = container.state if container else "gone"
            return NetworkError(
                f"the container `registry` is {state}: {error.message}\n{host.engine.logs('registry')}".strip(),
                hint="docker logs registry; then run this again, it goes on",
            )
    return error
