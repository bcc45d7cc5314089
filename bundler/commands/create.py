"""`bundle create`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundler import create as api
from bundler.commands.options import Registries, pair, reading_options, registry_options
from bundler.definition.load import Defined, define
from bundler.definition.oci_layout import cache_of
from bundler.definition.spec import TOOLCHAIN, Definition, FromDaemon, read_images
from bundler.planning.delta import read_base, summary
from bundler.planning.lockfile import lock_path, read_lock
from bundler.planning.plan import Plan
from bundler.sources.files.kinds import Reading
from bundler.sources.registry import RegistrySource
from bundler.writing.fetch import DEFAULT_WORKERS
from bundler.writing.writer import LONGEST_SUFFIX, Written
from bundles.archive.parts import cut
from bundles.cli.output import Output, OutputFile, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.program import quote
from bundles.runtime.sizes import human_size, parse_size
from bundles.runtime.system import system

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("-f", "--file", "definition", type=_PATH, help="A bundle.toml: all this, kept in git.")
@click.option("-o", "--output", "path", type=OutputFile(), help="The archive to write.  [default: NAME.tar]")
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
@click.option(
    "--host-platform", "host_platforms", help="Platforms of the air-gapped host and its nodes.  [default: linux/amd64]"
)
@click.option(
    "--dockerfile",
    "dockerfiles",
    multiple=True,
    metavar="PATH",
    type=_PATH,
    help="Bundle what this needs: a Dockerfile, a directory, a Compose or Bake file.",
)
@click.option("--record", "records", multiple=True, metavar="DIR", type=_PATH, help="Take along what a build took.")
@click.option("--cache", "caches", multiple=True, metavar="REF|DIR", help="Take along a build cache.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Pass over what this fits in directories.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="As for docker build.")
@registry_options
@reading_options
@click.option(
    "--from-daemon",
    multiple=True,
    metavar="[NAME=]IMAGE[,IMAGE]",
    help="Take IMAGE from the local Docker, or one image NAME from one of each platform.",
)
@click.option("--recompress", type=click.Choice(["zstd"]), help="Base images' layers as zstd: this changes digests.")
@click.option("--zstd-level", type=click.IntRange(1, 19), help="1 is fast, 19 is small.  [default: 9]")
@click.option("--zstd-threads", "threads", type=click.IntRange(0, 256), default=0, help="[default: all cores]")
@click.option("--toolchain", "parts", multiple=True, metavar="ROLE=IMAGE", help=f"Override {', '.join(TOOLCHAIN)}.")
@click.option("--without", multiple=True, metavar="ROLE", help="Leave a part of the toolchain out.")
@click.option("--with-python", is_flag=True, help="Take a Python image along, whatever its size.")
@click.option("--with-scanner", is_flag=True, help="Take along what `docker build --sbom=true` scans with.")
@click.option(
    "--attestations/--no-attestations",
    default=None,
    help="With the images' attestations, or without: Docker 29 then does not pull them.  [default: with]",
)
@click.option("--foreign-layers", is_flag=True, default=None, help="Fetch layers from their URLs: changes digests.")
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
    registries: Registries,
    reading: Reading,
    threads: int,
    workers: int,
    referrers: bool,
    only_plan: bool,
    output: Output,
    **line: Any,
) -> None:
    """Write an archive of IMAGEs and of the toolchain that builds on them.

    An IMAGE is one of a registry, or of a file: oci:DIR, oci-archive:FILE, docker-archive:FILE, hauler:FILE,
    bundle:FILE.

    \b
    bundle create debian:12 gcc:12 --platform linux/amd64,linux/arm64 -o offline.tar
    bundle create --dockerfile app/Dockerfile --dockerfile compose.yaml
    bundle create --record app.record -o offline.tar
    bundle create hauler:haul.tar.zst docker-archive:images.tar bundle:old.tar -o offline.tar
    bundle create -f bundle.toml

    With a bundle.lock beside the bundle.toml, what is bundled is what was locked.
    """
    defined = define(definition, _line(images, registries.mirrors, **line))
    for text in defined.messages():
        output.progress.message(text)
    spec = defined.spec
    target = system.full_path(path or Path(f"{spec.name}.tar"), LONGEST_SUFFIX)
    options = api.Options(
        lock=read_lock(lock_path(definition)) if definition else None,
        bases=[read_base(base) for base in bases],
        referrers=referrers,
        part_size=parse_size(split) if split else None,
        key=key,
        workers=workers,
        threads=threads,
        reading=reading,
    )
    with Transport(registries.settings_that_say(output.progress)) as transport:
        source = RegistrySource(transport, spec.mirrors)
        if only_plan:
            planned = api.plan(spec, target, source, options, output.progress)
            text = _plan_text(planned, target, options.part_size)
            output.result(_document(defined, planned, None), _with_skipped(defined, text))
        else:
            created = api.create(spec, target, source, options, output.progress)
            text = _result_text(created.plan, created.written)
            output.result(_document(defined, created, created.written), _with_skipped(defined, text))


def _line(
    images: Sequence[str],
    mirrors: Mapping[str, tuple[str, ...]],
    *,
    name: Optional[str],
    platforms: Optional[str],
    host_platforms: Optional[str],
    dockerfiles: tuple[Path, ...],
    records: tuple[Path, ...],
    caches: tuple[str, ...],
    exclude: tuple[str, ...],
    build_args: Sequence[str],
    from_daemon: Sequence[str],
    recompress: Optional[str],
    zstd_level: Optional[int],
    parts: Sequence[str],
    without: Sequence[str],
    with_python: bool,
    with_scanner: bool,
    attestations: Optional[bool],
    foreign_layers: Optional[bool],
) -> Definition:
    """Read what the command line says about the bundle."""
    toolchain: dict[str, Optional[Reference]] = {}
    if with_scanner:
        toolchain["scanner"] = Reference.parse(TOOLCHAIN["scanner"])
    for role, image in (pair(part, "--toolchain", "registry=registry:3") for part in parts):
        toolchain[_role(role)] = Reference.parse(image)
    wanted = {part.partition("=")[0].strip(): f"--toolchain {part}" for part in parts}
    wanted |= {"python": "--with-python"} if with_python else {}
    wanted |= {"scanner": "--with-scanner"} if with_scanner else {}
    for role in without:
        toolchain[_role(role)] = None
        if role in wanted:
            raise UsageError(f"--without {role} and {wanted[role]} do not go together", hint="leave one out")
    references, own_platforms, files = read_images(images, Path())
    return Definition(
        name=name,
        platforms=Platform.parse_list(platforms or ""),
        host_platforms=Platform.parse_list(host_platforms or ""),
        images=references,
        image_platforms=own_platforms,
        mirrors=mirrors,
        toolchain=toolchain,
        attestations=attestations,
        with_python=with_python,
        from_daemon=tuple(map(FromDaemon.parse, from_daemon)),
        recompress=True if recompress else None,
        zstd_level=zstd_level,
        foreign_layers=foreign_layers,
        dockerfiles=dockerfiles,
        records=records,
        caches=tuple(cache_of(text, Path()) for text in caches),
        exclude=exclude,
        build_args=dict(map(_build_arg, build_args)),
        files=files,
    )


def _build_arg(text: str) -> tuple[str, str]:
    """Read NAME=VALUE, or NAME for the value that the environment gives it."""
    name, equals, value = text.partition("=")
    if not name or (not equals and name not in os.environ):
        raise UsageError(f"`--build-arg {text}` has no value: expected NAME=VALUE, or NAME that is in the environment")
    return name, value if equals else os.environ[name]


def _role(text: str) -> str:
    if text not in TOOLCHAIN:
        roles = [role for role in map(str.strip, text.split(",")) if role in TOOLCHAIN]
        raise UsageError(
            f"`{text}` is not a part of the toolchain: expected one of {', '.join(TOOLCHAIN)}",
            hint=" ".join(f"--without {role}" for role in roles) if len(roles) > 1 else None,
        )
    return text


def _document(defined: Defined, planned: api.Planned, written: Optional[Written]) -> dict[str, Any]:
    plan, contents, made = planned.plan, planned.contents, planned.made
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
        "downloadSize": plan.layer_size - made.size - planned.copied[1],
        "copiedSize": planned.copied[1],
        "madeSize": made.size,
        "recompressed": made.recompressed.to_json() if made.recompressed else None,
        "images": contents.manifest.to_json()["images"],
        "found": defined.found(),
        **summary(plan),
        "notes": [*defined.notes(), *plan.notes],
    }


def _with_skipped(defined: Defined, text: str) -> str:
    """Say once more, where it is read, what of the Dockerfiles that were found may be missing in the bundle."""
    skipped = defined.skipped()
    return f"without the images of what was not looked at: {', '.join(skipped)}\n{text}" if skipped else text


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


def _plan_text(planned: api.Planned, target: Path, part_size: Optional[int]) -> str:
    plan, layout, made = planned.plan, planned.contents.layout, planned.made
    parts = f" in {len(cut(layout, part_size))} parts" if part_size else ""
    lines = ["would bundle:", *_images_text(plan), *_delta_text(plan)]
    count, size = planned.copied
    downloads = len(plan.layers) - made.count - count
    lines.append(f"would download {human_size(plan.layer_size - made.size - size)} in {downloads} blobs")
    if count:
        lines.append(f"would copy {human_size(size)} in {count} blobs from files")
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
    runs = quote(written.files[-1].path.name)
    lines += _delta_text(plan)
    return "\n".join([*lines, f"next: carry {what} to the air-gapped host and run there: python3 {runs} install"])
