"""`bundle lock`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundler.commands.options import Registries, reading_options, registry_options
from bundler.definition.file_request import FileRequest
from bundler.definition.load import define
from bundler.definition.spec import Compression, Definition
from bundler.planning.files import from_files
from bundler.planning.lockfile import Lock, lock_command, lock_path, read_lock, renew
from bundler.planning.records import with_layouts
from bundler.sources.files.kinds import Opener, Reading
from bundler.sources.registry import RegistrySource
from bundler.sources.spool import Spool
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.filesystem import write_whole
from bundles.runtime.program import quote
from bundles.runtime.sizes import human_size


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option(
    "-f", "--file", "definition", type=click.Path(path_type=Path), default=Path("bundle.toml"), show_default=True,
    help="The definition; the lock is written beside it.",
)  # fmt: skip
@click.option("--upgrade", is_flag=True, help="Ask again what IMAGEs stand for; without an IMAGE, all of them.")
@registry_options
@reading_options
@click.option("--plan", "only_plan", is_flag=True, help="Say what would move, write nothing.")
@common_options
def lock(
    *,
    images: Sequence[str],
    definition: Path,
    upgrade: bool,
    registries: Registries,
    reading: Reading,
    only_plan: bool,
    output: Output,
) -> None:
    """Write bundle.lock beside a bundle.toml: the digest that each image stands for.

    `bundle create -f bundle.toml` then bundles those, and refuses a bundle.toml that has changed since. What is locked
    already keeps its digest unless it is upgraded.

    \b
    bundle lock
    bundle lock --upgrade debian:12
    """
    if images and not upgrade:
        raise UsageError(
            "an IMAGE is named without --upgrade",
            hint=f"{lock_command(lock_path(definition))} --upgrade {' '.join(map(quote, images))}",
        )
    for text in images:
        if FileRequest.parse(text, Path()):
            raise UsageError(
                f"`{text}` names a file: expected the names that its images have in the lock",
                hint=f"for all images: {lock_command(lock_path(definition))} --upgrade",
            )
    defined = define(definition, Definition(mirrors=registries.mirrors))
    for text in defined.messages():
        output.progress.message(text)
    spec = defined.spec
    path = lock_path(definition)
    old = read_lock(path)
    moving = tuple(map(Reference.parse, images)) or (tuple(old.digests()) if old and upgrade else ())
    spool = Spool(None)
    opener = Opener(spool, Compression(spec.zstd_level or Compression.level), reading, output.progress)
    with (
        Transport(registries.settings_that_say(output.progress)) as transport,
        from_files(spec, RegistrySource(transport, spec.mirrors), opener) as files,
    ):
        spec = files.spec
        for note in files.notes:
            output.progress.message(f"note: {note}")
        output.progress.message(f"resolving {len(spec.images)} images")
        source = with_layouts(files.source, spec)
        renewal = renew(spec, old, path, moving, source, in_files=files.digests)
        files.check(renewal.plan, spool)
    if renewal.differs and not only_plan:
        write_whole(path, [renewal.new.to_bytes()])
    document = {"lock": str(path), "changed": renewal.differs, **moves(old, renewal.new)}
    output.result(document, _text(document, only_plan, renewal.plan.layer_size))


def moves(old: Optional[Lock], new: Lock) -> dict[str, Any]:
    """List what differs between two locks: images added, removed, moved (old -> new digest), and how many stay."""
    before = old.digests() if old else {}
    after = new.digests()
    return {
        "added": [_entry(reference, None, digest) for reference, digest in after.items() if reference not in before],
        "removed": [_entry(reference, digest, None) for reference, digest in before.items() if reference not in after],
        "moved": [
            _entry(reference, before[reference], digest)
            for reference, digest in after.items()
            if reference in before and before[reference] != digest
        ],
        "kept": sum(1 for reference, digest in after.items() if before.get(reference) == digest),
    }


def _entry(reference: Reference, old: Optional[Digest], new: Optional[Digest]) -> dict[str, Any]:
    return {
        "reference": reference.familiar,
        **({"old": str(old)} if old else {}),
        **({"new": str(new)} if new else {}),
    }


def _text(document: dict[str, Any], only_plan: bool, size: int) -> str:
    lines = [f"  added    {entry['reference']}  {entry['new']}" for entry in document["added"]]
    lines += [f"  removed  {entry['reference']}  {entry['old']}" for entry in document["removed"]]
    lines += [f"  moved    {entry['reference']}  {entry['old']} -> {entry['new']}" for entry in document["moved"]]
    count = len(document["added"]) + len(document["moved"]) + document["kept"]
    if not document["changed"]:
        return f"{document['lock']}: nothing moved, {count} images, layers {human_size(size)}"
    head = f"would write {document['lock']}" if only_plan else str(document["lock"])
    return "\n".join([f"{head}: {count} images, layers {human_size(size)}, {document['kept']} as before", *lines])
