"""`bundle record`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import click

from bundler.commands.docker_options import check_options
from bundler.commands.options import Registries, registry_options
from bundler.definition.build import Build, CommandLine, name_of, not_here
from bundler.definition.builds import Wanted, is_file_of_builds, read_builds
from bundler.definition.spec import DEFAULT_PLATFORMS, TOOLCHAIN, idle_mirrors
from bundler.recording import record as api
from bundler.sources.mirrors import Endpoint
from bundles.cli.output import Output, OutputFile, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Silent
from bundles.runtime.sizes import human_size


@click.command()
@click.argument("what", metavar="WHAT")
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[NAME...] [-- OPTIONS OF docker buildx build]")
@click.option(
    "-f",
    "--file",
    "dockerfile",
    type=click.Path(path_type=Path),
    help="The Dockerfile; only for a directory.  [default: WHAT/Dockerfile]",
)
@click.option(
    "-o", "--output", "path", type=OutputFile(directory=True), metavar="DIR", help="The record.  [default: NAME.record]"
)
@click.option("--name", help="The record's name.  [default: the bundle's or the directory's]")
@click.option(
    "--platform",
    "platforms",
    help="Platforms to build for, in all builds.  [default: those of a build, else of the bundle, else "
    "linux/amd64,linux/arm64]",
)
@click.option("--target", help="As for docker build; only for a directory.")
@click.option(
    "--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="As for docker build, in all builds."
)
@click.option("--secret", "secrets", multiple=True, help="As for docker build, in all builds; it is not recorded.")
@click.option("--ssh", multiple=True, help="As for docker build, in all builds; it is not recorded.")
@click.option("--cache-only", is_flag=True, help="Record the steps' results, and not what RUN steps fetch.")
@click.option(
    "--buildkit-image", default=TOOLCHAIN["buildkit"], show_default=True, metavar="IMAGE", help="v0.33 or later."
)
@registry_options
@common_options
def record(
    *,
    what: str,
    more: Sequence[str],
    dockerfile: Optional[Path],
    path: Optional[Path],
    name: Optional[str],
    platforms: Optional[str],
    target: Optional[str],
    build_args: Sequence[str],
    secrets: Sequence[str],
    ssh: Sequence[str],
    cache_only: bool,
    buildkit_image: str,
    registries: Registries,
    output: Output,
) -> None:
    """Build WHAT once, and write down all that the builds take from the network.

    WHAT is a directory with a Dockerfile, or a file that names builds: bundle.toml with [[build]], a Bake file, a
    Compose file. All of its builds are made, one after the other, or those that are named; they become one record.

    It needs Docker with buildx. The build runs in a BuildKit of its own, which is gone afterwards. The record is an
    OCI image layout that other tools read; `bundle create --record` takes it into an archive (docs/network.md).

    \b
    bundle record app/ -o app.record
    bundle record app/ --platform linux/amd64 --target test --build-arg VERSION=2
    bundle record docker-bake.hcl api worker
    """
    if is_file_of_builds(Path(what)):
        _refuse_for_a_file(what, more, dockerfile, target)
        wanted = read_builds(Path(what), more)
    else:
        wanted = _directory(what, more, dockerfile, target, name)
    name = name or wanted.name
    path = path or wanted.folder / f"{name}.record"
    line = CommandLine(
        dict(_argument(text) for text in build_args),
        Platform.parse_list(platforms or ""),
        wanted.platforms or DEFAULT_PLATFORMS,
        tuple(secrets),
        tuple(ssh),
    )
    mirrors = {
        registry: tuple(str(Endpoint.parse(text)) for text in texts)
        for registry, texts in {**wanted.mirrors, **registries.mirrors}.items()
    }
    options = api.Options(
        buildkit_image,
        mirrors,
        registries.settings,
        not cache_only,
        isinstance(output.progress, Silent),
    )
    for note in wanted.notes:
        output.progress.message(f"note: {note}")
    builds = [build.with_line(line) for build in wanted.builds]
    result = api.record(builds, path.absolute(), name, options, output.progress)
    for note in idle_mirrors(mirrors, (image.reference for image in result.recorded.images)):
        output.progress.message(f"note: {note}")
    document = {
        "record": str(path.absolute()),
        **result.recorded.to_json(),
        "answers": result.answers,
        "size": result.size,
        "cacheSize": result.cache_size,
    }
    output.result(document, _text(path, result))


def _directory(
    what: str, more: Sequence[str], dockerfile: Optional[Path], target: Optional[str], name: Optional[str]
) -> Wanted:
    """Return the one build of a directory, which is called as the record; what stands behind it is docker's."""
    if not Path(what).is_dir():
        raise not_here(what)
    if more and not more[0].startswith("-"):
        raise UsageError(
            f"`{more[0]}` means nothing behind a directory: expected options of docker buildx build, after --",
            hint="name several builds in a bundle.toml, a Bake file or a Compose file, and record that",
        )
    check_options(more)
    name = name or name_of(Path(what).resolve().name)
    return Wanted(name, (Build(name, Path(what), dockerfile, target, options=tuple(more)),))


def _refuse_for_a_file(what: str, more: Sequence[str], dockerfile: Optional[Path], target: Optional[str]) -> None:
    for option in more:
        if option.startswith("-"):
            raise UsageError(f"`{option}` cannot be given to the builds of `{what}`: expected names of its builds")
    for option, value in (("--file", dockerfile), ("--target", target)):
        if value is not None:
            raise UsageError(
                f"`{option}` is for a directory, and `{what}` says it for each of its builds",
                hint="name the builds that are wanted behind the file",
            )


def _argument(text: str) -> tuple[str, Optional[str]]:
    key, equals, value = text.partition("=")
    return key, value if equals else None


def _text(path: Path, result: api.Result) -> str:
    images = [image.reference.familiar for image in result.recorded.images]
    builds = [build.name for build in result.recorded.builds]
    lines = [
        f"{path}: {result.answers} answers, {human_size(result.size)}, and a cache of {human_size(result.cache_size)}",
        *([f"  builds  {', '.join(builds)}"] if len(builds) > 1 else []),
        f"  images  {', '.join(images) or 'none'}",
        *(f"  note    {note}" for note in result.recorded.notes),
    ]
    lines.append(f"next: {own_command('create')} --record {quote(path)} -o offline.tar")
    return "\n".join(lines)
