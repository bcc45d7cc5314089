"""`bundle install`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Optional, TypeVar

import click

from bundles.archive.reader import Archive
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command
from bundles.runtime.progress import Progress
from installer import install as installation
from installer.host.host import Host
from installer.model.address import Address
from installer.model.job import Options
from installer.model.replay import check_direct
from installer.receipt.receipt import Receipt
from installer.runner import plan_lines, questioner, to_json

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
@click.option("--no-replay", is_flag=True, help="Do not replay what recorded builds took from the network.")
@click.option(
    "--direct",
    metavar="HOST",
    multiple=True,
    help="With recorded builds: a host that builds reach themselves, such as a mirror of the site.",
)
@click.option("--system", is_flag=True, help="Put the buildx plugin where all users of this host have it (as root).")
@click.option(
    "--yes",
    is_flag=True,
    help="Agree to changes of /etc/docker/daemon.json, needed for a LAN address, to moving tags of others, and to "
    "taking the replay from another user.",
)
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def install(
    *,
    archive: ArchiveArgument,
    registry: Optional[str],
    builder: str,
    platforms: tuple[str, ...],
    data: Optional[str],
    no_replay: bool,
    direct: tuple[str, ...],
    system: bool,
    yes: bool,
    plan: bool,
    output: Output,
) -> None:
    """Turn ARCHIVE into a registry, its images and a multi-platform builder on this host.

    Only what is missing is done: a second run changes nothing, and an interrupted one goes on.
    """
    options = Options(
        registry=_option("--registry", Address.parse, registry) if registry else None,
        builder=builder,
        platforms=_option("--platform", Platform.parse_list, ",".join(platforms)),
        data=data,
        yes=yes,
        system=system,
        replay=not no_replay,
        direct=tuple(_option("--direct", check_direct, host) for host in direct),
    )
    host = Host.this(os.environ, questioner())
    with archive.open() as opened:
        document, text = (show_plan if plan else run_install)(opened, options, host, output.progress)
        output.result(document, text)


def show_plan(archive: Archive, options: Options, host: Host, _: Progress) -> tuple[dict[str, Any], str]:
    """Return what installing would do: the document, and the text for people. Nothing is touched."""
    job, results = installation.plan(archive, options, host)
    document = {
        "bundle": str(archive.digest),
        "registry": str(job.address),
        "builder": job.builder,
        "steps": to_json(results)["steps"],
        "receipt": str(host.places.receipt),
    }
    lines = [f"bundle {archive.digest} to {job.address}, builder {job.builder}", "", *plan_lines(results)]
    if any(result.changes for result in results):
        return document, "\n".join([*lines, f"receipt        write {host.places.receipt}"])
    return document, "\n".join([*lines, "", "nothing to do"])


def run_install(archive: Archive, options: Options, host: Host, progress: Progress) -> tuple[dict[str, Any], str]:
    """Install, and return the receipt, and for people what is ready, where, and what to type next."""
    receipt = installation.install(archive, options, host, progress)
    state = receipt.state
    lines = [
        f"ready          {len(receipt.images)} images on {state.address} ({own_command('status')} names them)",
        f"builder        {state.builder} for {', '.join(map(str, state.platforms))}",
        *_replayed(receipt),
        f"bundle         {receipt.bundle.digest}",
        f"receipt        {host.places.receipt}",
        *(f"left out       {reference}: it has none of these platforms" for reference in receipt.left_out),
        *(f"note: {note}" for note in receipt.notes),
        "",
    ]
    if receipt.changed:
        platforms = ",".join(map(str, state.platforms))
        lines.append(f"next: docker buildx build --platform {platforms} -t {state.address}/app:1 --push .")
        if receipt.caches:
            lines.append("with a recorded build, what is unchanged is not built again when this is added, too:")
            lines += [f"      --cache-from {cache}" for cache in receipt.caches]
    else:
        lines.append("nothing to do: everything was already there")
    return receipt.to_json(), "\n".join(lines)


def _replayed(receipt: Receipt) -> list[str]:
    """Say what builds are answered with when they ask for the network."""
    replay = receipt.state.replay
    if replay is None:
        tapes = [image.names[0] for image in receipt.images if image.role == "tape"]
        return [f"not replayed   {name}: --no-replay" for name in tapes]
    names = ", ".join(tape.name for tape in replay.tapes)
    lines = [f"replayed       what was recorded of {names}: RUN apt-get, pip, curl and the like get it again"]
    return lines + [f"direct         {host}: builds reach it themselves" for host in replay.direct]


def _option(name: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from None
