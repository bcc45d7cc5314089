"""`bundle node`: other machines of the builder that is installed here."""

from __future__ import annotations

import dataclasses
import os

import click

from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, common_options
from bundles.errors import HostError, UsageError
from bundles.runtime.program import own_command, quote
from installer.commands.install import run_install, show_plan
from installer.commands.upgrade import as_installed
from installer.host.host import Host
from installer.model.node import Node, NodeAddress
from installer.receipt.receipt import Receipt
from installer.receipt.recorder import Recorder
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Runner, plan_lines, questioner, to_json
from installer.steps.builder.builder import Builder
from installer.steps.builder.nodes import Nodes, RemoveNodes, describe_nodes
from installer.steps.emulation import Emulation


@click.group()
def node() -> None:
    """Give the builder of this host other machines, reached over ssh; each builds for the platform that it runs.

    \b
    python3 offline.tar node add ssh://user@arm-box
    bundle node list
    bundle node remove ssh://user@arm-box
    """


@node.command()
@click.argument("address", metavar="ssh://[USER@]HOST[:PORT]")
@archive_argument(signers=True)
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def add(*, archive: ArchiveArgument, address: str, plan: bool, output: Output) -> None:
    """Add a machine to the builder. ARCHIVE is the one that is installed here.

    Its Docker gets the archive's BuildKit and nothing else; builds for its platform go there from then on.
    """
    wanted = NodeAddress.parse(address)
    host = Host.this(os.environ, questioner())
    with archive.open() as opened:
        before = Receipt.read(host)
        if str(opened.digest) != before.bundle.digest:
            raise HostError(
                f"`{archive.path}` is not what is installed here, which is {before.bundle.name} {before.bundle.digest}",
                hint=own_command(f"upgrade {quote(archive.path)}") + ", then this again",
            )
        options = dataclasses.replace(as_installed(before, yes=False), nodes=(wanted,))
        output.result(*(show_plan if plan else run_install)(opened, options, host, output.progress))


@node.command(name="list")
@common_options
@click.pass_context
def list_nodes(ctx: click.Context, *, output: Output) -> None:
    """List the machines of the builder, what is built where, and whether each answers.

    Exit code 4 when one does not.
    """
    host = Host.this(os.environ, None)
    state = Receipt.read(host).state
    entries = describe_nodes(state, host)
    here = ", ".join(map(str, state.platforms_of(None))) or "nothing"
    lines = [f"this host: {here}", *(entry.text for entry in entries)]
    document = {
        "builder": state.builder,
        "platforms": list(map(str, state.platforms_of(None))),
        "nodes": [entry.to_json() for entry in entries],
    }
    output.result(document, "\n".join(lines))
    if not all(entry.answers for entry in entries):
        ctx.exit(HostError.exit_code)


@node.command()
@click.argument("address", metavar="ssh://[USER@]HOST[:PORT]")
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def remove(*, address: str, plan: bool, output: Output) -> None:
    """Take a machine away from the builder, and what was made there away from it.

    One that does not answer is given up: what stays there is named.
    """
    wanted = NodeAddress.parse(address)
    host = Host.this(os.environ, questioner())
    with Receipt.locked(host) as receipt, transport_to(receipt.state) as transport:
        going = _known(receipt, wanted)
        left = dataclasses.replace(receipt.state, nodes=tuple(each for each in receipt.state.nodes if each != going))
        registry = Registry(transport, left.destination.host)
        recorder = Recorder(receipt, host)
        runner = Runner(
            [
                RemoveNodes(host, [(left.builder, going)]),
                Emulation(left, host, output.progress),
                Nodes(left, host, registry, Builder(left, host), output.progress),
            ],
            host.ask,
            output.progress,
            recorder,
        )
        runner.check(yes=True)
        if plan:
            results = runner.plan()
        else:
            results = runner.perform()
            dataclasses.replace(recorder.receipt, state=left).save(host.places)
    document = to_json(results)
    lines = plan_lines(results) if plan else [f"removed {going.address}"]
    output.result(document, "\n".join([*lines, *(f"note: {note}" for note in document["notes"])]))


def _known(receipt: Receipt, wanted: NodeAddress) -> Node:
    found = next((each for each in receipt.state.nodes if each.address == wanted), None)
    if found is None:
        names = ", ".join(str(each.address) for each in receipt.state.nodes) or "it has none"
        raise UsageError(f"`{wanted}` is no node of {receipt.state.builder}: {names}", hint=own_command("node list"))
    return found
