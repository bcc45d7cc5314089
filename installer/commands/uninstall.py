"""`bundle uninstall`: the host as it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Optional

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError
from bundles.runtime.program import own_command
from installer.host.host import Host
from installer.model.registry.address import Address
from installer.model.step import Step
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Runner, plan_lines, questioner, to_json
from installer.steps.builder.builder import RemoveBuilder
from installer.steps.builder.nodes import RemoveNodes
from installer.steps.emulation import RemoveEmulation
from installer.steps.kubernetes.builder import RemoveCluster
from installer.steps.kubernetes.place import Place
from installer.steps.leftovers import RemoveFiles, RemovePassing
from installer.steps.registry.certificates import RemoveCertificates
from installer.steps.registry.container import RemoveRegistry
from installer.steps.registry.insecure import ForbidInsecureRegistry, copies_of_settings
from installer.steps.registry.login import RemoveLogin
from installer.steps.registry.prune import PruneImages
from installer.steps.replay_container import RemoveReplay
from installer.steps.toolchain_images import RemoveImages


@click.command()
@click.option(
    "--data",
    is_flag=True,
    help="Remove the registry's data too, with every image that is in it; from a registry of the site what was "
    "brought there from here. What is in a bucket stays.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--plan", is_flag=True, help="Say what would be removed, and touch nothing.")
@common_options
def uninstall(*, data: bool, yes: bool, plan: bool, output: Output) -> None:
    """Remove from this host exactly what installing made; the images in the registry only with --data.

    Files that were changed since they were installed stay, and are named.
    """
    host = Host.this(os.environ, questioner())
    receipt = Receipt.read(host)
    with contextlib.ExitStack() as stack:
        registry = None
        if receipt.state.site and data:
            transport = stack.enter_context(transport_to(receipt.state))
            registry = Registry(transport, receipt.state.site.host)
        _uninstall(receipt, host, registry, data=data, yes=yes, plan=plan, output=output)


def _uninstall(
    receipt: Receipt, host: Host, registry: Optional[Registry], *, data: bool, yes: bool, plan: bool, output: Output
) -> None:
    steps = _steps(receipt, host, data, registry)
    runner = Runner(steps, host.ask, output.progress)
    if plan:
        results = runner.plan()
    else:
        replays = any(isinstance(step, RemoveReplay) and step.look() for step in steps)
        runner.check(yes=yes, question=f"remove {_everything(receipt, host, replays=replays, data=data)}")
        with Receipt.locked(host) as now:
            # The steps, and the consent, go by what was read before a person was asked.
            if now != receipt:
                raise HostError(
                    "another run has changed what is installed meanwhile, and nothing has been removed",
                    hint=own_command("uninstall --plan"),
                )
            results = runner.perform()
    document = to_json(results)
    if receipt.state.site and not data:
        document["notes"].append(f"the images stay in {receipt.state.site}: a new installation finds them there")
    document["notes"] += [
        f"what was brought to {each.registry or 'the registry of this program'} before stays there"
        for each in receipt.elsewhere
    ]
    lines = plan_lines(results) if plan else ["uninstalled"]
    output.result(document, "\n".join([*lines, *(f"note: {note}" for note in document["notes"])]))


def _everything(receipt: Receipt, host: Host, *, replays: bool, data: bool) -> str:
    """Return what goes, for the person who is asked."""
    shared = "emulation and replay" if replays else "emulation"
    site = receipt.state.site
    if not site:
        shared = "registry, emulation and replay" if replays else "registry and emulation"
    builder = "".join(["builder", *(f", also on {node.address}" for node in receipt.state.nodes)])
    if receipt.state.cluster:
        place = Place.of(receipt.state, host)
        builder += f", the builder {place.builder} in {place}{' with the volumes of its cache' if data else ''},"
    everything = f"{shared} (for all users of this host), {builder} and settings"
    if data and not receipt.state.storage:
        others = f"what was brought from here to {site}, which others may use by now" if site else ""
        everything += f", and {others or f'every image in {receipt.state.data}, also what others pushed there'}"
    return everything


def _steps(receipt: Receipt, host: Host, data: bool, registry: Optional[Registry] = None) -> list[Step]:
    copies = copies_of_settings(receipt)
    daemon = [
        ForbidInsecureRegistry(dataclasses.replace(receipt.state, address=Address.parse(name)), host, copies)
        for name in receipt.names_made("insecure registry")
    ]
    return [
        # First: what a registry refuses leaves everything as it is.
        *([PruneImages(receipt, registry, ())] if registry else []),
        *RemoveCluster.all_of(receipt, host, data=data),
        RemovePassing(host),
        RemoveNodes.all_of(receipt, host),
        RemoveBuilder(receipt, host),
        RemoveReplay(receipt, host),
        RemoveEmulation(receipt.state.tool("binfmt"), host),
        RemoveRegistry(receipt, host, data=data),
        *daemon,
        RemoveLogin(receipt, host),
        RemoveCertificates(receipt, host),
        RemoveImages(receipt, host),
        RemoveFiles(receipt, host),
    ]
