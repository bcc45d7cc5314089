"""`bundle prune`: images that earlier bundles brought and the current one does not list."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Optional

import click

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli.output import Output, common_options
from bundles.errors import HostError
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Silent
from bundles.runtime.sizes import human_size
from installer.host.host import Host
from installer.model.job import DesiredState, Job, Options
from installer.model.selection import places
from installer.model.step import Change, Step, StepResult
from installer.receipt.receipt import PushedName, Receipt
from installer.receipt.recorder import Recorder
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Runner, plan_lines, to_json
from installer.steps.registry.prune import CollectGarbage, PruneImages
from installer.steps.registry.push import Push
from installer.steps.replay_container import ReplayContainer
from installer.steps.toolchain_images import RemoveImages


@click.command()
@click.argument("archive", required=False, type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Remove also what bundles of other names brought.")
@click.option("--plan", is_flag=True, help="Say what would be removed, and touch nothing.")
@click.option(
    "--others-stopped",
    is_flag=True,
    help="With the data in a bucket: no registry of another host that serves it runs, or there is none.",
)
@common_options
def prune(*, archive: Optional[Path], every: bool, plan: bool, others_stopped: bool, output: Output) -> None:
    """Remove images from the registry that earlier versions of the installed bundle brought and it does not list.

    With ARCHIVE what that one lists stays instead. Bundles of other names, installed beside it, stay without --all.
    In a registry of the site that deletes tags and manifests; it has its own way to collect what nothing refers to.
    What was not installed by this program is never touched.
    """
    host = Host.this(os.environ, None)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Archive(archive)) if archive else None
        receipt = Receipt.read(host) if plan else stack.enter_context(Receipt.locked(host))
        transport = stack.enter_context(transport_to(receipt.state))
        registry = Registry(transport, receipt.state.destination.host)
        name, keep = _of_archive(opened, receipt, registry) if opened else _of_receipt(receipt)
        others = () if every else _of_others(receipt, {name, receipt.bundle.name}, keep)
        keep += others
        images = PruneImages(receipt, registry, keep)
        site = receipt.state.site
        # A registry of the site collects its garbage itself.
        garbage = (
            None
            if site
            else CollectGarbage(receipt, host, images, registry, receipt.garbage, alone=plan or others_stopped)
        )
        current = receipt.state.tools.values()
        loaded = RemoveImages(receipt, host, [name for tool in current for name in (tool.name, tool.pinned)])
        left = _left(receipt, images)
        replay = ReplayContainer(left, host, output.progress)
        # That of another user answers from other tapes.
        service = [replay] if left != receipt.state and not replay.other_owner() else []
        recorder = _Recorder(receipt, host, images, garbage, left)
        steps = [images, *([garbage] if garbage else []), loaded, *service]
        runner = Runner(steps, host.ask, output.progress, recorder)
        runner.check(yes=True)
        results = runner.plan()
        lines = plan_lines(results)
        document = to_json(results)
        notes = [*document["notes"], *_apart(others)]
        if not plan:
            # By the plan: what is garbage is seen before the images are gone.
            results = runner.perform(results)
            freed = None if garbage is None else garbage.freed if results[1].changes else 0
            document = {**to_json(results), "freed": freed}
            notes = [*document["notes"], *_apart(others)]
            lines = [f"pruned: {human_size(freed)} are free again" if freed else "pruned"]
        if site and results[0].changes:
            notes.append(f"what nothing refers to any more is freed when {site.host} collects its garbage")
    if not any(result.changes for result in results):
        lines = ["nothing to do"]
    output.result({**document, "notes": notes}, "\n".join([*(f"note: {note}" for note in notes), *lines]))


def _left(receipt: Receipt, images: PruneImages) -> DesiredState:
    """Return what is to be on the host afterwards: nothing is replayed from tapes that go."""
    replay = receipt.state.replay
    if replay is None:
        return receipt.state
    going = {entry.digest for entry in receipt.brought} - {entry.digest for entry in images.left}
    tapes = tuple(tape for tape in replay.tapes if going.isdisjoint(tape.manifests))
    return dataclasses.replace(receipt.state, replay=dataclasses.replace(replay, tapes=tapes))


def _of_others(receipt: Receipt, names: AbstractSet[str], keep: Sequence[PushedName]) -> list[PushedName]:
    """Return what else stays: what bundles brought that have none of these names."""
    return [entry for entry in receipt.brought if entry.bundle not in names and entry not in keep]


def _apart(others: Sequence[PushedName]) -> list[str]:
    return [
        f"what the bundle `{name}` brought stays ({sum(entry.bundle == name for entry in others)} names): it was "
        f"installed beside this one; {own_command('prune --all')} removes it"
        for name in sorted({entry.bundle for entry in others})
    ]


class _Recorder(Recorder):
    """Remembers that there is garbage as long as there may be some, and what of what was pushed is left."""

    def __init__(
        self, receipt: Receipt, host: Host, images: PruneImages, garbage: Optional[CollectGarbage], left: DesiredState
    ) -> None:
        super().__init__(receipt, host)
        self._images, self._garbage, self._left = images, garbage, left

    def begin(self, step: Step, changes: Sequence[Change]) -> None:
        """Have the next run collect what this one does not, when it is interrupted from here on."""
        if self._garbage and step in (self._images, self._garbage):
            self._save(garbage=True)

    def end(self, result: StepResult) -> None:
        last = self._garbage or self._images
        if result.changes and result.step == last.name:
            garbage = self.receipt.garbage if self._garbage is None else False
            self._save(garbage=garbage, brought=tuple(self._images.left), state=self._left)


def _of_receipt(receipt: Receipt) -> tuple[str, list[PushedName]]:
    """Return the bundle's name and what stays: what the receipt lists, which is there only when that installation
    ended."""
    if not receipt.finished:
        raise HostError(
            "the last installation did not end, and the registry may still need what came before it",
            hint=f"python3 {quote(receipt.bundle.archive)} upgrade, then prune",
        )
    names = {
        name[len(receipt.state.destination.host) + 1 :]: {image.digest, digest}
        for image in receipt.images
        for name, digest in image.served.items()
    }
    return receipt.bundle.name, [entry for entry in receipt.brought if entry.digest in names.get(str(entry), ())]


def _of_archive(archive: Archive, receipt: Receipt, registry: Registry) -> tuple[str, list[PushedName]]:
    """Return an archive's name and what stays: what it lists.

    Unless the last installation ended, the registry is asked whether it has it all: else what still works would go, and
    what is to take its place is not there.
    """
    state, path = receipt.state, archive.path
    check_documents(archive)
    options = Options(
        registry=state.address,
        builder=state.builder,
        platforms=receipt.chosen,
        site=state.site,
        access=state.access,
    )
    job = Job.of(archive, options, state.host_platform)
    roots = {place.name: place.image.root.digest for place in places(job.images)}
    if not receipt.finished:
        registry.ping()
        if Push(archive, job.images, registry, Silent()).look():
            raise HostError(
                f"the last installation did not end, and the registry does not have all that `{path}` lists",
                hint=f"python3 {quote(path)} upgrade, then prune",
            )
    kept = [entry for entry in receipt.brought if roots.get(str(entry)) == entry.digest]
    if not kept and receipt.brought:
        raise HostError(
            f"nothing that `{path}` lists was ever installed here, and everything would be removed",
            hint=f"python3 {quote(path)} upgrade",
        )
    return archive.manifest.name, kept
