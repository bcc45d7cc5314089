"""`bundle upgrade`: a newer archive over what is installed, with the settings that were chosen then."""

from __future__ import annotations

import os
from typing import Any

import click

from bundles.archive.manifest import ROLES, TOOLS
from bundles.archive.verify import check_documents
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, common_options
from bundles.runtime.program import own_command
from installer.commands.install import run_install, show_plan
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.receipt.receipt import Receipt
from installer.runner import questioner


@click.command()
@archive_argument(signers=True)
@click.option(
    "--yes",
    is_flag=True,
    help="Agree to changes of /etc/docker/daemon.json or certs.d, to moving tags of others, and to taking the replay "
    "from another user.",
)
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def upgrade(*, archive: ArchiveArgument, yes: bool, plan: bool, output: Output) -> None:
    """Install ARCHIVE over what is installed on this host: its registry, BuildKit and images take the place of the old.

    Address, builder, platforms, data and what is replayed stay as they were chosen; the registry's data and the build
    cache are kept.
    Images that ARCHIVE does not list stay until `prune`.
    """
    host = Host.this(os.environ, questioner())
    with archive.open() as opened:
        before = Receipt.read(host)
        check_documents(opened)
        options = as_installed(before, yes=yes)
        moves = _moves(before, Job.of(opened, options, before.state.host_platform))
        document, text = (show_plan if plan else run_install)(opened, options, host, output.progress)
    output.result({**document, "moves": moves}, "\n".join([*_text(moves), "", text]))


def as_installed(before: Receipt, *, yes: bool) -> Options:
    """Return the options with which an archive takes the place of what is installed, and all else stays."""
    return Options(
        registry=before.state.address,
        builder=before.state.builder,
        platforms=before.chosen,
        data=None if before.state.storage else before.state.data,
        yes=yes,
        succeeds=True,
        replay=not before.no_replay,
        direct=before.direct,
        site=before.state.site,
        access=before.state.access,
        tls=None if before.state.site else before.state.access.tls,
        login=None if before.state.site else before.state.access.password is not None,
    )


def _moves(before: Receipt, after: Job) -> list[dict[str, Any]]:
    """Say what becomes of each tool and image: role, from, to. Null is what was not, or is no more, in the bundle."""
    old = {role: f"{tool.reference}@{tool.root}" for role, tool in before.state.tools.items()}
    new = {role: f"{tool.reference}@{tool.root}" for role, tool in after.tools.items()}
    moves = [
        {"role": role, "from": old.get(role), "to": new.get(role)}
        for role in dict.fromkeys((*old, *new))
        if old.get(role) != new.get(role)
    ]
    for role in (role for role in ROLES if role not in TOOLS):
        images = {image.reference: str(image.digest) for image in before.images if image.role == role}
        listed = {str(item.image.reference): str(item.root.digest) for item in after.images if item.image.role == role}
        for reference in dict.fromkeys((*images, *listed)):
            if images.get(reference) != listed.get(reference):
                was, is_now = (
                    f"{reference}@{digests[reference]}" if reference in digests else None
                    for digests in (images, listed)
                )
                moves.append({"role": role, "from": was, "to": is_now})
    return moves


def _text(moves: list[dict[str, Any]]) -> list[str]:
    lines = []
    for move in moves:
        end = move["to"] or f"no longer listed: `{own_command('prune')}` removes it"
        lines.append(f"{move['role']:<10} {move['from'] or 'new'}\n{'':<10} -> {end}")
    return lines or ["every image is the one that is installed"]
