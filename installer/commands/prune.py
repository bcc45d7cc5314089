"""`bundle prune`: images that earlier bundles brought and the current one does not list."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

import click

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli.output import Output, common_options
from bundles.errors import HostError
from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer import runner
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.model.selection import places
from installer.model.step import Step
from installer.receipt.installed import Brought, Installed
from installer.registry.client import Registry
from installer.registry.connection import local_transport
from installer.steps.prune_registry import CollectGarbage, PruneImages, freed_text
from installer.steps.push import Push
from installer.steps.toolchain_images import RemoveImages


@click.command()
@click.argument("archive", required=False, type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Say what would be removed, and touch nothing.")
@common_options
def prune(*, archive: Optional[Path], plan: bool, output: Output) -> None:
    """Remove images from the registry that earlier bundles brought and the installed one does not list.

    With ARCHIVE what that one lists stays instead. What was not installed by this program is never touched.
    """
    host = Host.this(os.environ, None)
    with contextlib.ExitStack() as stack:
        installed = Installed.read(host) if plan else stack.enter_context(Installed.locked(host))
        transport = stack.enter_context(local_transport(installed.wanted.address))
        registry = Registry(transport, str(installed.wanted.address))
        keep = _of_archive(archive, installed, registry) if archive else _of_receipt(installed)
        images = PruneImages(installed, registry, keep)
        garbage = CollectGarbage(installed, host, images, registry, bool(installed.document.get("garbage")))
        # What is garbage is seen before the images are gone, and said with them.
        loaded = RemoveImages(installed, host, [tool.name for tool in installed.wanted.tools.values()])
        steps: list[Step] = [images, garbage, loaded]
        runner.check(steps, host, yes=True)
        planned = runner.plan(steps)
        if plan:
            output.result({"steps": planned, "notes": list(images.notes())}, _text(planned, images.notes(), ""))
            return
        document = _perform(installed, host, images, garbage, output)
        document["steps"] += runner.perform([loaded], output.progress)
    output.result(document, _text(document["steps"], document["notes"], freed_text(document["freed"])))


def _perform(
    installed: Installed, host: Host, images: PruneImages, garbage: CollectGarbage, output: Output
) -> dict[str, Any]:
    due = garbage.look()
    steps = []
    if due:
        # Interrupted from here on, the next run collects what this one did not.
        installed.document["garbage"] = True
        installed.save(host)
    steps += runner.perform([images], output.progress)
    notes = list(images.notes())
    if due:
        output.progress.message(f"garbage: {due[0]}")
        garbage.apply(due)
        installed.document["garbage"] = False
        installed.document["brought"] = [entry.to_json() for entry in images.left]
        installed.save(host)
    steps.append({"step": garbage.name, "changed": bool(due), "changes": [change.to_json() for change in due]})
    return {"steps": steps, "notes": notes, "freed": garbage.freed if due else 0}


def _of_receipt(installed: Installed) -> list[Brought]:
    """What stays: what the receipt lists, which is there only when that installation ended."""
    if not installed.finished:
        raise HostError(
            "the last installation did not end, and the registry may still need what came before it",
            hint=f"python3 {shlex.quote(installed.archive)} upgrade, then prune",
        )
    names = {
        name[len(str(installed.wanted.address)) + 1 :]: {image.digest, digest}
        for image in installed.images
        for name, digest in image.served.items()
    }
    return [entry for entry in installed.brought if entry.digest in names.get(entry.name, ())]


def _of_archive(path: Path, installed: Installed, registry: Registry) -> list[Brought]:
    """What stays: what an archive lists. Unless the last installation ended, the registry is asked whether it has it
    all: else what still works would go, and what is to take its place is not there."""
    wanted = installed.wanted
    with Archive(path) as archive:
        check_documents(archive)
        chosen = tuple(map(Platform.parse, installed.document["builder"]["chosen"]))
        options = Options(registry=wanted.address, builder=wanted.builder, platforms=chosen)
        job = Job.of(archive, options, wanted.host_platform)
        roots = {place.name: place.image.root.digest for place in places(job.images)}
        if not installed.finished:
            registry.ping()
            if Push(archive, job.images, registry, Silent()).look():
                raise HostError(
                    f"the last installation did not end, and the registry does not have all that `{path}` lists",
                    hint=f"python3 {shlex.quote(str(path))} upgrade, then prune",
                )
    kept = [entry for entry in installed.brought if roots.get(entry.name) == entry.digest]
    if not kept and installed.brought:
        raise HostError(
            f"nothing that `{path}` lists was ever installed here, and everything would be removed",
            hint=f"python3 {shlex.quote(str(path))} upgrade",
        )
    return kept


def _text(steps: list[dict[str, Any]], notes: Any, end: str) -> str:
    if not any(step["changes"] for step in steps):
        return "\n".join([*(f"note: {note}" for note in notes), "nothing to do"])
    lines = runner.step_lines(steps, "nothing to do", sys.maxsize)
    return "\n".join([*lines, *(f"note: {note}" for note in notes), *([end] if end else [])])
