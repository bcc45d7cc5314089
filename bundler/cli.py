"""`bundle create`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundler.compose import compose
from bundler.credentials import Credentials
from bundler.export import DEFAULT_WORKERS, export
from bundler.plan import Plan
from bundler.resolve import resolve
from bundler.selfrun import program
from bundler.source import RegistrySource
from bundler.spec import TOOLCHAIN, Definition, Spec, combine, read_definition
from bundles.cli import Output, common_options
from bundles.digest import Digest
from bundles.errors import UsageError
from bundles.platform import Platform
from bundles.progress import human_size
from bundles.reference import Reference
from bundles.transport import Settings, Transport
from bundles.writer import ArchiveWriter, Contents, Written

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("-f", "--file", "definition", type=_PATH, help="A bundle.toml: all this, kept in git.")
@click.option("-o", "--output", "path", type=_PATH, help="The archive to write.  [default: NAME.tar]")
@click.option("--name", help="The bundle's name.  [default: offline]")
@click.option("--platform", "platforms", help="Platforms of the base images.  [default: linux/amd64,linux/arm64]")
@click.option("--host-platform", "host_platforms", help="Platforms of the air-gapped host.  [default: linux/amd64]")
@click.option("--mirror", "mirrors", multiple=True, metavar="HOST=HOST:PORT", help="Read HOST's images from there.")
@click.option("--insecure-registry", "insecure", multiple=True, metavar="HOST", help="Allow plain HTTP, or any TLS.")
@click.option("--ca", "ca_file", type=_PATH, help="Trust the certificates in this PEM file too.")
@click.option("--toolchain", "parts", multiple=True, metavar="ROLE=IMAGE", help=f"Override {', '.join(TOOLCHAIN)}.")
@click.option("--without", multiple=True, metavar="ROLE", help="Leave a part of the toolchain out.")
@click.option("--attestations", is_flag=True, default=None, help="Take the images' attestations along.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=DEFAULT_WORKERS, show_default=True, help="Downloads at once."
)
@click.option("--plan", "only_plan", is_flag=True, help="Resolve everything, say what would be fetched, write nothing.")
@common_options
def create(
    *,
    images: Sequence[str],
    definition: Optional[Path],
    path: Optional[Path],
    insecure: Sequence[str],
    ca_file: Optional[Path],
    workers: int,
    only_plan: bool,
    output: Output,
    **line: Any,
) -> None:
    """Write an archive of IMAGEs and of the toolchain that builds on them.

    \b
    bundle create debian:12 gcc:12 --platform linux/amd64,linux/arm64 -o offline.tar
    bundle create -f bundle.toml
    """
    spec = combine(read_definition(definition) if definition else Definition(), _definition(images, **line), "offline")
    target = (path or Path(f"{spec.name}.tar")).absolute()
    credentials = Credentials()
    settings = Settings(insecure=frozenset(insecure), ca_file=ca_file, credentials=credentials.get)
    with Transport(settings) as transport:
        source = RegistrySource(transport, spec.mirrors)
        output.progress.message(f"resolving {len(spec.images)} images")
        plan = resolve(spec, source)
        for note in plan.notes:
            output.progress.message(f"note: {note}")
        contents = compose(spec, plan, program())
        if only_plan:
            output.result(_document(spec, plan, contents, None), _plan_text(plan, contents, target))
            return
        with ArchiveWriter(target, contents) as writer:
            written = export(plan, source, writer, output.progress, workers)
    output.result(_document(spec, plan, contents, written), _result_text(plan, written))


def _definition(
    images: Sequence[str],
    *,
    name: Optional[str],
    platforms: Optional[str],
    host_platforms: Optional[str],
    mirrors: Sequence[str],
    parts: Sequence[str],
    without: Sequence[str],
    attestations: Optional[bool],
) -> Definition:
    """What the command line says."""
    toolchain: dict[str, Optional[Reference]] = {}
    for role, image in (_pair(part, "--toolchain", "registry=registry:3") for part in parts):
        toolchain[_role(role)] = Reference.parse(image)
    for role in without:
        toolchain[_role(role)] = None
    hosts: dict[str, tuple[str, ...]] = {}
    for host, mirror in (_pair(text, "--mirror", "docker.io=mirror.corp:5000") for text in mirrors):
        hosts[host] = (*hosts.get(host, ()), mirror)
    return Definition(
        name=name,
        platforms=Platform.parse_list(platforms or ""),
        host_platforms=Platform.parse_list(host_platforms or ""),
        images=tuple(Reference.parse(image) for image in images),
        mirrors=hosts,
        toolchain=toolchain,
        attestations=attestations,
    )


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"`{option} {text}` is not of the form KEY=VALUE: expected such as {option} {example}")
    return key, value


def _role(text: str) -> str:
    if text not in TOOLCHAIN:
        raise UsageError(f"`{text}` is not a part of the toolchain: expected one of {', '.join(TOOLCHAIN)}")
    return text


def _document(spec: Spec, plan: Plan, contents: Contents, written: Optional[Written]) -> dict[str, Any]:
    data = contents.manifest.to_bytes()
    return {
        "archive": str(written.path) if written else None,
        "name": spec.name,
        "digest": str(Digest.of(data)),
        "size": contents.manifest.layout(len(data)).size,
        "sha256": written.sha256 if written else None,
        "downloadSize": plan.layer_size,
        "images": contents.manifest.to_json()["images"],
        "notes": list(plan.notes),
    }


def _images_text(plan: Plan) -> list[str]:
    lines = []
    for image in plan.images:
        platforms = ", ".join(str(content.platform or "any") for content in image.platforms)
        size = human_size(sum(content.content_size for content in image.platforms))
        lines.append(f"  {image.role:9} {image.reference.familiar}  {platforms}  {size}  {image.root.digest}")
    return lines


def _plan_text(plan: Plan, contents: Contents, target: Path) -> str:
    size = contents.manifest.layout(len(contents.manifest.to_bytes())).size
    lines = ["would bundle:", *_images_text(plan)]
    lines.append(f"would download {human_size(plan.layer_size)} in {len(plan.layers)} blobs")
    lines.append(f"would write {target} ({human_size(size)}) and {target.name}.sha256")
    return "\n".join(lines)


def _result_text(plan: Plan, written: Written) -> str:
    return "\n".join(
        [
            f"{written.path}: {human_size(written.size)}, {len(plan.images)} images",
            f"bundle {written.digest}",
            f"sha256 {written.sha256}  (also in {written.path.name}.sha256)",
            f"next: carry both files to the air-gapped host and run there: python3 {written.path.name} install",
        ]
    )
