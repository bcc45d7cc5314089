"""`bundle install`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import click

from bundles.archive.reader import Archive
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.runtime.progress import Progress
from installer.runner import asking, step_lines

if TYPE_CHECKING:
    from installer.host.host import Host
    from installer.model.job import Options

_T = TypeVar("_T")


@click.command()
@archive_argument(signers=True)
@click.option(
    "--registry",
    metavar="HOST:PORT",
    help="Where the registry serves: localhost:5000 for this host only (default), or an address of this host for the "
    "LAN. Without it, an installed one stays where it is.",
)
@click.option("--builder", metavar="NAME", default="cross-builder", show_default=True, help="Name of the builder.")
@click.option("--platform", "platforms", metavar="P,P", multiple=True, help="Install only these platforms.")
@click.option(
    "--data", metavar="DIR|VOLUME", help="Where the registry keeps its data (default: the volume bundle-registry)."
)
@click.option("--system", is_flag=True, help="Put the buildx plugin where all users of this host have it (as root).")
@click.option("--yes", is_flag=True, help="Agree to changes of /etc/docker/daemon.json, needed for a LAN address.")
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def install(
    *,
    archive: ArchiveArgument,
    registry: Optional[str],
    builder: str,
    platforms: tuple[str, ...],
    data: Optional[str],
    system: bool,
    yes: bool,
    plan: bool,
    output: Output,
) -> None:
    """Turn ARCHIVE into a registry, its images and a multi-platform builder on this host.

    Only what is missing is done: a second run changes nothing, and an interrupted one goes on.
    """
    from installer.host.host import Host
    from installer.model.address import Address
    from installer.model.job import Options

    options = Options(
        registry=_option("--registry", Address.parse, registry) if registry else None,
        builder=builder,
        platforms=_option("--platform", Platform.parse_list, ",".join(platforms)),
        data=data,
        yes=yes,
        system=system,
    )
    host = Host.this(os.environ, asking())
    with archive.open() as opened:
        document, text = (planned if plan else installed)(opened, options, host, output.progress)
        output.result(document, text)


def planned(archive: Archive, options: Options, host: Host, progress: Progress) -> tuple[dict[str, Any], str]:
    """What installing would do: the document, and the text for people. Nothing is touched."""
    from installer.install import plan

    job, steps = plan(archive, options, host)
    document = {
        "bundle": str(archive.digest),
        "registry": str(job.address),
        "builder": job.builder,
        "steps": [{"step": item.step.name, "changes": [change.to_json() for change in item.changes]} for item in steps],
        "receipt": str(host.places.receipt),
    }
    return document, _plan_text(document)


def installed(archive: Archive, options: Options, host: Host, progress: Progress) -> tuple[dict[str, Any], str]:
    """Install: the receipt, and the text for people."""
    from installer.install import install

    document = install(archive, options, host, progress).document()
    return document, _receipt_text(document, host.places.receipt)


def _option(name: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from None


def _plan_text(document: dict[str, Any]) -> str:
    lines = [f"bundle {document['bundle']} to {document['registry']}, builder {document['builder']}", ""]
    lines += step_lines(document["steps"], "nothing to do", sys.maxsize)
    if any(step["changes"] for step in document["steps"]):
        lines.append(f"receipt        write {document['receipt']}")
    else:
        lines += ["", "nothing to do"]
    return "\n".join(lines)


def _receipt_text(document: dict[str, Any], path: Path) -> str:
    registry, builder = document["registry"], document["builder"]
    lines = step_lines(document["steps"], "already there", 6)
    lines += ["", "images"]
    for image in document["images"]:
        names = ", ".join(image["names"])
        lines.append(f"  {names}  {', '.join(image['platforms']) or 'artifact'}  {image['digest']}")
        lines += [f"    {name} serves {digest}" for name, digest in image["rebuilt"].items()]
    lines += [f"  {reference}  left out: it has none of these platforms" for reference in document["leftOut"]]
    lines += ["", *(f"note: {note}" for note in document["notes"])] if document["notes"] else []
    lines += [
        "",
        f"registry   {registry['address']} (container {registry['container']}, data in {registry['data']})",
        f"builder    {builder['name']} for {', '.join(builder['platforms'])}",
        f"bundle     {document['bundle']['digest']}",
        f"receipt    {path}",
        "",
    ]
    if not document["changed"]:
        return "\n".join([*lines, "nothing to do: everything was already there"])
    platforms = ",".join(builder["platforms"])
    example = f"docker buildx build --platform {platforms} -t {registry['address']}/app:1 --push ."
    return "\n".join([*lines, f"ready: {example}"])
