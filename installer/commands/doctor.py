"""`bundle doctor`: finds what is wrong with an installation, explains it, and fixes what it can."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError, UsageError
from bundles.runtime.program import own_command
from installer.commands.status import finding_lines
from installer.diagnosis import Diagnosis
from installer.host.host import Host
from installer.model.step import StepResult
from installer.receipt.receipt import Receipt
from installer.receipt.recorder import Recorder
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Runner, plan_lines, questioner, to_json


@click.command()
@click.option("--fix", is_flag=True, help="Fix what can be fixed without the archive.")
@click.option(
    "--yes",
    is_flag=True,
    help="Agree to changes of /etc/docker/daemon.json or certs.d, and to taking the replay from another user.",
)
@click.option("--plan", is_flag=True, help="Say what --fix would do, and touch nothing.")
@common_options
@click.pass_context
def doctor(ctx: click.Context, *, fix: bool, yes: bool, plan: bool, output: Output) -> None:
    """Find what is wrong with the installation on this host, with the command that fixes it.

    Exit code 0 when all is well (or fixed), 4 when something is left.
    """
    if yes and not fix:
        raise UsageError("--yes needs --fix", hint=own_command("doctor --fix --yes"))
    host = Host.this(os.environ, questioner())
    with contextlib.ExitStack() as stack:
        fixes = fix and not plan
        receipt = stack.enter_context(Receipt.locked(host)) if fixes else Receipt.read(host)
        transport = stack.enter_context(transport_to(receipt.state, attempts=1))
        diagnosis = Diagnosis(receipt, host, Registry(transport, receipt.state.destination.host), output.progress)
        findings = diagnosis.findings(thorough=True)
        document: dict[str, Any] = {"findings": [finding.to_json() for finding in findings]}
        steps = diagnosis.fixing(findings)
        runner = Runner(steps, host.ask, output.progress, Recorder(receipt, host))
        tampered = diagnosis.is_tampered(findings)
        if fixes and tampered:
            document["left"] = document["findings"]
            results: Sequence[StepResult] = []
            lines = ["nothing is fixed: a name of the tools stands for another image than was installed", ""]
            lines += finding_lines(findings)
        elif fixes and steps:
            runner.check(yes=yes)
            results = runner.perform()
            findings = diagnosis.findings(thorough=True)
            document["left"] = [finding.to_json() for finding in findings]
            lines = [f"fixed: {', '.join(step.name for step in steps)}"]
            lines += ["", "left", *finding_lines(findings)] if findings else []
        else:
            results = runner.plan()
            lines = finding_lines(findings) or ["healthy: nothing to fix"]
            lines += ["", f"what {own_command('doctor --fix')} does", *plan_lines(results)] if results else []
            lines += ["", f"{own_command('doctor --fix')} does nothing as long as that is so"] if tampered else []
    document["steps"] = to_json(results)["steps"]
    document["healthy"] = not findings
    output.result(document, "\n".join(lines))
    if findings:
        ctx.exit(HostError.exit_code)
