"""`bundle create`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundler.commands.lock import lock_path
from bundler.commands.options import (
    Look,
    Making,
    Registries,
    look_options,
    making_options,
    pair,
    registry_options,
)
from bundler.create import (
    Made,
    _write,
    make_smaller,
    take_local,
)
from bundler.definition.load import Defined, define
from bundler.definition.spec import TOOLCHAIN, Definition
from bundler.planning.delta import read_base, subtract, summary
from bundler.planning.lockfile import read_lock
from bundler.planning.plan import Plan
from bundler.planning.referrers import with_referrers
from bundler.planning.resolve import resolve
from bundler.sources.pinned import PinnedSource
from bundler.sources.registry import RegistrySource
from bundler.sources.source import Source
from bundler.sources.spool import spool_beside
from bundler.writing.contents import Contents, compose
from bundler.writing.fetch import DEFAULT_WORKERS
from bundler.writing.program import program
from bundler.writing.writer import Written, check_directory
from bundles.archive.parts import cut
from bundles.archive.signature import sign
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.sizes import human_size, parse_size

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("-f", "--file", "definition", type=_PATH, help="A bundle.toml: all this, kept in git.")
@click.option("-o", "--output", "path", type=_PATH, help="The archive to write.  [default: NAME.tar]")
@click.option(
    "--base",
    "bases",
    type=_PATH,
    multiple=True,
    metavar="FILE",
    help="Leave out what this has: an earlier archive, its bundle.json, or a want.json of `bundle want`.",
)
@click.option("--split", metavar="SIZE", help="Write parts of at most SIZE, such as 4000MiB for FAT32.")
@click.option("--sign", "key", type=_PATH, metavar="KEY", help="Sign with this SSH key (ssh-keygen asks or an agent).")
@click.option("--name", help="The bundle's name.  [default: offline]")
@click.option("--platform", "platforms", help="Platforms of the base images.  [default: linux/amd64,linux/arm64]")
@click.option("--host-platform", "host_platforms", help="Platforms of the air-gapped host.  [default: linux/amd64]")
@look_options
@registry_options
@making_options
@click.option("--toolchain", "parts", multiple=True, metavar="ROLE=IMAGE", help=f"Override {', '.join(TOOLCHAIN)}.")
@click.option("--without", multiple=True, metavar="ROLE", help="Leave a part of the toolchain out.")
@click.option("--with-python", is_flag=True, help="Take a Python image along, whatever its size.")
@click.option(
    "--attestations/--no-attestations",
    default=None,
    help="With the images' attestations, or without: Docker 29 then does not pull them.  [default: with]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=DEFAULT_WORKERS, show_default=True, help="Downloads at once."
)
@click.option("--referrers", is_flag=True, help="Take along what is attached to the images: signatures, SBOMs.")
@click.option("--plan", "only_plan", is_flag=True, help="Resolve everything, say what would be fetched, write nothing.")
@common_options
def create(
    *,
    images: Sequence[str],
    definition: Optional[Path],
    path: Optional[Path],
    bases: tuple[Path, ...],
    split: Optional[str],
    key: Optional[Path],
    look: Look,
    registries: Registries,
    making: Making,
    workers: int,
    referrers: bool,
    only_plan: bool,
    output: Output,
    **line: Any,
) -> None:
    """Write an archive of IMAGEs and of the toolchain that builds on them.

    \b
    bundle create debian:12 gcc:12 --platform linux/amd64,linux/arm64 -o offline.tar
    bundle create --dockerfile app/Dockerfile --dockerfile compose.yaml
    bundle create -f bundle.toml

    With a bundle.lock beside the bundle.toml, what is bundled is what was locked.
    """
    said = _definition(images, look=look, mirrors=registries.mirrors, making=making, **line)
    defined = define(definition, said)
    for text in defined.messages():
        output.progress.message(text)
    spec = defined.spec
    known = [read_base(base) for base in bases]
    lock = read_lock(lock_path(definition)) if definition else None
    if lock and definition:
        spec = lock.apply(spec, lock_path(definition))
    target = (path or Path(f"{spec.name}.tar")).absolute()
    check_directory(target)
    part_size = parse_size(split) if split else None
    spooling = spool_beside(target, spec, not only_plan, output.progress)
    with Transport(registries.settings) as transport, spooling as spool:
        registry = RegistrySource(transport, spec.mirrors)
        remote: Source = registry
        if lock:
            remote = PinnedSource(remote, lock.pins)
        spec, source = take_local(spec, remote, spool, making.threads, output.progress)
        output.progress.message(f"resolving {len(spec.images)} images")
        plan = resolve(spec, source)
        if lock:
            lock.check(plan)
        plan, made = make_smaller(spec, plan, source, threads=making.threads, workers=workers, progress=output.progress)
        if referrers:
            plan = with_referrers(plan, registry)
        if known:
            asked = any(image.role == "python" and not image.optional for image in defined.spec.images)
            plan = subtract(plan, known, with_python=asked)
        for note in plan.notes:
            output.progress.message(f"note: {note}")
        contents = compose(spec, plan, program())
        if key:
            # The plan tells the digest without asking for a passphrase: the signature itself does not change it.
            contents = contents.signed(lambda data: b"" if only_plan else sign(data, key))
        if only_plan:
            document = _document(defined, plan, contents, None, made.to_json())
            output.result(document, _plan_text(plan, contents, target, part_size, made))
            return
        written = _write(
            plan, source, contents, target=target, part_size=part_size, workers=workers, progress=output.progress
        )
    output.result(_document(defined, plan, contents, written, made.to_json()), _result_text(plan, written))


def _definition(
    images: Sequence[str],
    *,
    name: Optional[str],
    platforms: Optional[str],
    host_platforms: Optional[str],
    look: Look,
    mirrors: Mapping[str, tuple[str, ...]],
    making: Making,
    parts: Sequence[str],
    without: Sequence[str],
    with_python: bool,
    attestations: Optional[bool],
) -> Definition:
    """What the command line says."""
    toolchain: dict[str, Optional[Reference]] = {}
    for role, image in (pair(part, "--toolchain", "registry=registry:3") for part in parts):
        toolchain[_role(role)] = Reference.parse(image)
    for role in without:
        toolchain[_role(role)] = None
    return Definition(
        name=name,
        platforms=Platform.parse_list(platforms or ""),
        host_platforms=Platform.parse_list(host_platforms or ""),
        images=tuple(Reference.parse(image) for image in images),
        mirrors=mirrors,
        toolchain=toolchain,
        attestations=attestations,
        with_python=with_python,
        from_daemon=making.from_daemon,
        recompress=making.recompress,
        zstd_level=making.level,
        dockerfiles=look.dockerfiles,
        build_args=look.build_args,
    )


def _role(text: str) -> str:
    if text not in TOOLCHAIN:
        raise UsageError(f"`{text}` is not a part of the toolchain: expected one of {', '.join(TOOLCHAIN)}")
    return text


def _document(
    defined: Defined, plan: Plan, contents: Contents, written: Optional[Written], made: dict[str, Any]
) -> dict[str, Any]:
    return {
        "archive": str(written.path) if written else None,
        "name": defined.spec.name,
        "digest": str(contents.digest),
        "size": contents.layout.size,
        "sha256": written.files[0].sha256 if written and not written.is_split else None,
        "files": [
            {"path": str(file.path), "size": file.size, "sha256": file.sha256}
            for file in (written.files if written else ())
        ],
        "downloadSize": plan.layer_size - made["madeSize"],
        **made,
        "images": contents.manifest.to_json()["images"],
        "found": defined.found(),
        **summary(plan),
        "notes": list(plan.notes),
    }


def _delta_text(plan: Plan) -> list[str]:
    if not plan.bases:
        return []
    size = human_size(sum(blob.size for blob in plan.required))
    names = ", ".join(f"{base.name} {base.digest}" for base in plan.bases)
    return [f"delta: {len(plan.required)} layers ({size}) are left to {names}"]


def _images_text(plan: Plan) -> list[str]:
    lines = []
    for image in plan.images:
        platforms = ", ".join(str(content.platform or "any") for content in image.platforms)
        size = human_size(sum(content.content_size for content in image.platforms))
        lines.append(f"  {image.role:9} {image.reference.familiar}  {platforms}  {size}  {image.root.digest}")
    return lines


def _plan_text(plan: Plan, contents: Contents, target: Path, part_size: Optional[int], made: Made) -> str:
    layout = contents.layout
    parts = f" in {len(cut(layout, part_size))} parts" if part_size else ""
    lines = ["would bundle:", *_images_text(plan), *_delta_text(plan)]
    lines.append(f"would download {human_size(plan.layer_size - made.size)} in {len(plan.layers) - made.count} blobs")
    if made.count:
        lines.append(
            f"would make {made.count} layers here ({human_size(made.size)}), which wait in {target}.spool "
            "until the archive is written"
        )
    lines.append(f"would write {target} ({human_size(layout.size)}){parts} and {target.name}.sha256")
    return "\n".join(lines)


def _result_text(plan: Plan, written: Written) -> str:
    lines = [f"{written.path}: {human_size(written.size)}, {len(plan.images)} images", f"bundle {written.digest}"]
    if written.is_split:
        lines += [f"sha256 {file.sha256}  {file.path.name} ({human_size(file.size)})" for file in written.files]
    else:
        lines.append(f"sha256 {written.files[0].sha256}  (also in {written.checksums.name})")
    what = f"the {len(written.files)} parts and {written.checksums.name}" if written.is_split else "both files"
    runs = written.files[-1].path.name
    lines += _delta_text(plan)
    return "\n".join([*lines, f"next: carry {what} to the air-gapped host and run there: python3 {runs} install"])
