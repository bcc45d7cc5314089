"""`bundle record`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import click

from bundler.commands.options import Registries, registry_options
from bundler.definition.spec import TOOLCHAIN
from bundler.recording import record as api
from bundles.cli.output import Output, common_options
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Silent
from bundles.runtime.sizes import human_size


@click.command()
@click.argument("context")
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF docker buildx build]")
@click.option("-f", "--file", "dockerfile", metavar="PATH", help="The Dockerfile.  [default: CONTEXT/Dockerfile]")
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="The record.  [default: NAME.record]")
@click.option("--name", help="The record's name.  [default: that of the directory]")
@click.option(
    "--platform", "platforms", default="linux/amd64,linux/arm64", show_default=True, help="Platforms to build for."
)
@click.option("--target", help="As for docker build.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="As for docker build.")
@click.option("--secret", "secrets", multiple=True, help="As for docker build; it is not recorded.")
@click.option("--ssh", multiple=True, help="As for docker build; it is not recorded.")
@click.option("--cache-only", is_flag=True, help="Record the steps' results, and not what RUN steps fetch.")
@click.option(
    "--buildkit-image", default=TOOLCHAIN["buildkit"], show_default=True, metavar="IMAGE", help="v0.33 or later."
)
@registry_options
@common_options
def record(
    *,
    context: str,
    more: Sequence[str],
    dockerfile: Optional[str],
    path: Optional[Path],
    name: Optional[str],
    platforms: str,
    target: Optional[str],
    build_args: Sequence[str],
    secrets: Sequence[str],
    ssh: Sequence[str],
    cache_only: bool,
    buildkit_image: str,
    registries: Registries,
    output: Output,
) -> None:
    """Build CONTEXT once, and write down all that the build takes from the network.

    It needs Docker with buildx. The build runs in a BuildKit of its own, which is gone afterwards. The record is an
    OCI image layout that other tools read; archives do not carry records yet (docs/network.md).

    \b
    bundle record app/ -o app.record
    bundle record app/ --platform linux/amd64 --target test --build-arg VERSION=2
    """
    name = name or _name(Path(context))
    path = path or Path(f"{name}.record")
    arguments: list[str] = []
    for option, values in (
        ("--file", [dockerfile] if dockerfile else []),
        ("--target", [target] if target else []),
        ("--build-arg", build_args),
        ("--secret", secrets),
        ("--ssh", ssh),
    ):
        arguments += [part for value in values for part in (option, value)]
    build = api.Build(context, Platform.parse_list(platforms), (*arguments, *more))
    options = api.Options(
        buildkit_image, registries.mirrors, registries.settings, not cache_only, isinstance(output.progress, Silent)
    )
    result = api.record(build, path.absolute(), name, options, output.progress)
    document = {
        "record": str(path.absolute()),
        **result.recorded.to_json(),
        "answers": result.answers,
        "size": result.size,
        "cacheSize": result.cache_size,
    }
    output.result(document, _text(path, result))


def _name(context: Path) -> str:
    """Return a name that a record can have, after the directory's."""
    return re.sub(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "-", context.resolve().name).strip("-._") or "app"


def _text(path: Path, result: api.Result) -> str:
    images = [image.reference.familiar for image in result.recorded.images]
    lines = [
        f"{path}: {result.answers} answers, {human_size(result.size)}, and a cache of {human_size(result.cache_size)}",
        f"  images  {', '.join(images) or 'none'}",
        *(f"  note    {note}" for note in result.recorded.notes),
    ]
    if images:
        bundled = " ".join(map(quote, images))
        lines.append(f"next: {own_command('create')} {bundled} -o offline.tar  (the images alone)")
    return "\n".join(lines)
