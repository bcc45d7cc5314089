"""`bundle doctor`: finds what is wrong with an installation, explains it, and fixes what it can."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError, UsageError
from bundles.runtime.program import own_command
from installer import runner
from installer.commands.status import finding_lines
from installer.diagnosis import Diagnosis
from installer.host.host import Host
from installer.receipt.installed import Installed
from installer.receipt.ledger import note_digests, remember
from installer.registry.client import Registry
from installer.registry.connection import local_transport


@click.command()
@click.option("--fix", is_flag=True, help="Fix what can be fixed without the archive.")
@click.option("--yes", is_flag=True, help="Agree to changes of /etc/docker/daemon.json.")
@click.option("--plan", is_flag=True, help="Say what --fix would do, and touch nothing.")
@common_options
@click.pass_context
def doctor(ctx: click.Context, *, fix: bool, yes: bool, plan: bool, output: Output) -> None:
    """Find what is wrong with the installation on this host, with the command that fixes it.

    Exit code 0 when all is well (or fixed), 4 when something is left.
    """
    if yes and not fix:
        raise UsageError("--yes needs --fix", hint=own_command("doctor --fix --yes"))
    host = Host.this(os.environ, runner.asking())
    fixes = fix and not plan
    with contextlib.ExitStack() as stack:
        installed = stack.enter_context(Installed.locked(host)) if fixes else Installed.read(host)
        transport = stack.enter_context(local_transport(installed.wanted.address, attempts=1))
        diagnosis = Diagnosis(installed, host, Registry(transport, str(installed.wanted.address)), output.progress)
        findings = diagnosis.findings(thorough=True)
        names = {finding.fixed_by for finding in findings}
        # What one step fixes may be what the next one needs, in their order.
        steps = [step for step in diagnosis.steps if step.name in names]
        document: dict[str, Any] = {
            "findings": [finding.to_json() for finding in findings],
            "steps": runner.plan(steps),
        }
        if fixes and steps:
            runner.check(steps, host, yes=yes)

            def done(changes: runner.Changes) -> None:
                remember(installed.made, (), changes, host)
                note_digests(installed.made, changes)
                installed.save(host)

            document["steps"] = runner.perform(steps, output.progress, done)
            findings = diagnosis.findings(thorough=True)
            document["left"] = [finding.to_json() for finding in findings]
    lines = [] if fixes and steps else finding_lines(findings)
    if document["steps"]:
        title = "fixed" if fixes else f"what {own_command('doctor --fix')} does"
        lines += ["", title, *runner.step_lines(document["steps"], "nothing to do", sys.maxsize)]
    if fixes and steps and findings:
        lines += ["", "left", *finding_lines(findings)]
    document["healthy"] = not findings
    output.result(document, "\n".join(lines).strip() or "healthy: nothing to fix")
    if findings:
        ctx.exit(HostError.exit_code)
