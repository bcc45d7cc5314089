"""`bundle push`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli.archive_argument import ArchiveArgument, archive_argument, archive_before
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command, quote
from installer.model.naming import mirrors
from installer.model.registry.destination import Destination
from installer.model.selection import Selected, places, select
from installer.registry.client import Registry
from installer.registry.connection import site_transport
from installer.runner import Runner, plan_lines, questioner, to_json
from installer.steps.registry.check import DestinationCheck
from installer.steps.registry.push import Push


@click.command()
@archive_argument(signers=True)
@click.argument("destination", metavar="HOST[:PORT]/PROJECT", required=False)
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="Trust the certificates in this PEM file too.")
@click.option("--insecure-registry", "insecure", multiple=True, metavar="HOST", help="Allow plain HTTP, or any TLS.")
@click.option("--flat", is_flag=True, help="One name below PROJECT for each image: team/ghcr.io_a_b.")
@click.option("--platform", "platforms", metavar="P,P", multiple=True, help="Push only these platforms.")
@click.option("--yes", is_flag=True, help="Agree to moving tags that stand for other images there.")
@click.option("--plan", is_flag=True, help="Say what would be pushed, and push nothing.")
@common_options
def push(
    *,
    archive: ArchiveArgument,
    destination: Optional[str],
    ca_file: Optional[Path],
    insecure: tuple[str, ...],
    flat: bool,
    platforms: tuple[str, ...],
    yes: bool,
    plan: bool,
    output: Output,
) -> None:
    """Push what is in ARCHIVE to a registry of the site, below a project of it. No Docker is needed.

    Logins are those of `docker login` or podman, as they stand in their files. Only what is missing there is sent.

    \b
    bundle push offline.tar harbor.corp/team
    python3 offline.tar push harbor.corp/team --ca corp-ca.pem
    """
    archive, place = archive_before(archive, destination, "the destination", "push", "HOST[:PORT]/PROJECT")
    target = Destination.parse(place, flat=flat)
    chosen = Platform.parse_list(",".join(platforms))
    way = site_transport(ca_file=ca_file, insecure=insecure, say=output.progress.message)
    with archive.open() as opened, way as transport:
        check_documents(opened)
        _check_platforms(opened, chosen)
        images = select(opened, target, chosen)
        registry = Registry(transport, target.host)
        step = Push(opened, images, registry, output.progress, yes=yes, prefix=target.prefix)
        repositories = list(dict.fromkeys(place.repository for place in places(images)))
        steps = [DestinationCheck(target, registry, repositories), step]
        runner = Runner(steps, questioner(), output.progress, where=f"`{target}`")
        runner.check(yes=yes or plan)
        results = runner.plan() if plan else runner.perform()
        document = {
            "bundle": str(opened.digest),
            "destination": str(target),
            **to_json(results),
            **_names(images, step),
        }
        text = plan_lines(results) if plan else _text(opened, target, images, step.notes())
    output.result(document, "\n".join(text))


def _check_platforms(archive: Archive, platforms: Sequence[Platform]) -> None:
    """Raise UsageError when the archive has no image for one of the platforms."""
    offered = archive.manifest.platforms
    absent = [str(platform) for platform in platforms if platform.best_of(offered) is None]
    if absent:
        raise UsageError(
            f"--platform {','.join(absent)}: the archive has {', '.join(map(str, offered))}",
            hint=own_command(f"inspect {quote(archive.path)}"),
        )


def _names(images: Sequence[Selected], step: Push) -> dict[str, Any]:
    rebuilt = {place.name: str(digest) for place, digest in step.rebuilt.items()}
    return {
        "images": [
            {
                "reference": str(image.image.reference),
                "role": image.image.role,
                "digest": str(image.image.root.digest),
                "platforms": list(map(str, image.platforms)),
                "names": list(image.names),
            }
            for image in images
        ],
        "rebuilt": rebuilt,
    }


def _text(archive: Archive, target: Destination, images: Sequence[Selected], notes: Sequence[str]) -> list[str]:
    lines = [f"pushed   {len(images)} images to {target}", f"bundle   {archive.digest}"]
    lines += [
        f"  {name}  {', '.join(map(str, image.platforms)) or 'artifact'}" for image in images for name in image.names
    ]
    lines += [f"note: {note}" for note in notes]
    stanzas = mirrors((image.image.reference for image in images), target)
    if not stanzas:
        return [
            *lines,
            "",
            "flat names have no mirror: name them in the Dockerfile, such as FROM " + images[0].names[0],
        ]
    lines += ["", "in buildkitd.toml, for builders that are to find them under their own names:"]
    for registry, mirror in stanzas.items():
        lines += [f'  [registry."{registry}"]', f'    mirrors = ["{mirror}"]']
    return lines
