"""`bundle uninstall`: the host as it was before."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError
from bundles.runtime.program import own_command
from installer import runner
from installer.host.host import Host
from installer.model.address import Address
from installer.model.step import Step
from installer.receipt.installed import Installed
from installer.steps.builder import RemoveBuilder
from installer.steps.emulation import RemoveEmulation
from installer.steps.insecure_registry import ForbidInsecureRegistry
from installer.steps.leftovers import RemoveFiles, RemovePassing
from installer.steps.registry_container import RemoveRegistry
from installer.steps.toolchain_images import RemoveImages


@click.command()
@click.option("--data", is_flag=True, help="Remove the registry's data too, with every image that is in it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--plan", is_flag=True, help="Say what would be removed, and touch nothing.")
@common_options
def uninstall(*, data: bool, yes: bool, plan: bool, output: Output) -> None:
    """Remove from this host exactly what installing made; the images in the registry only with --data.

    Files that were changed since they were installed stay, and are named.
    """
    host = Host.this(os.environ, runner.asking())
    installed = Installed.read(host)
    steps = _steps(installed, host, data)
    if plan:
        _say(runner.plan(steps), steps, output)
        return
    runner.check(steps, host, yes=True)
    if not yes:
        _ask(host, installed, data)
    with Installed.locked(host) as now:
        # The steps, and the consent, go by what was read before a person was asked.
        if now.document != installed.document:
            raise HostError(
                "another run has changed what is installed meanwhile, and nothing has been removed",
                hint=own_command("uninstall --plan"),
            )
        results = runner.perform(steps, output.progress)
    _say(results, steps, output)


def _steps(installed: Installed, host: Host, data: bool) -> list[Step]:
    copies = [Path(name) for name in installed.names_made("file") if ".before-bundle" in Path(name).name]
    daemon = [
        ForbidInsecureRegistry(dataclasses.replace(installed.wanted, address=Address.parse(name)), host, copies)
        for name in installed.names_made("insecure registry")
    ]
    return [
        RemovePassing(host),
        RemoveBuilder(installed, host),
        RemoveEmulation(host),
        RemoveRegistry(installed, host, data=data),
        *daemon,
        RemoveImages(installed, host),
        RemoveFiles(installed, host),
    ]


def _ask(host: Host, installed: Installed, data: bool) -> None:
    what = "registry and emulation (for all users of this host), builder and settings"
    what += f", and every image in {installed.wanted.data}, also what others pushed there" if data else ""
    if host.ask is None:
        raise HostError(f"consent is needed to remove {what}", hint="run this again with --yes; --plan shows it all")
    if not host.ask(f"remove {what}"):
        raise HostError(f"not agreed to: remove {what}", hint="run this again with --yes")


def _say(results: list[dict[str, Any]], steps: list[Step], output: Output) -> None:
    notes = [note for step in steps for note in step.notes()]
    text = runner.step_lines(results, "nothing to do", sys.maxsize)
    output.result({"steps": results, "notes": notes}, "\n".join([*text, *(f"note: {note}" for note in notes)]))
