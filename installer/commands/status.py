"""`bundle status`: what is installed, from which bundle, and whether it is still healthy."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError, NetworkError
from bundles.runtime.program import own_command
from installer.diagnosis import Diagnosis, Finding
from installer.host import kernel
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.receipt.installed import Installed
from installer.registry.client import Registry
from installer.registry.connection import local_transport


@click.command()
@common_options
@click.pass_context
def status(ctx: click.Context, *, output: Output) -> None:
    """Show what is installed on this host, from which bundle, and whether it is healthy.

    Exit code 0 when all is well, 4 when something is not; `doctor` explains it.
    """
    host = Host.this(os.environ, None)
    installed = Installed.read(host)
    with local_transport(installed.wanted.address, attempts=1) as transport:
        diagnosis = Diagnosis(installed, host, Registry(transport, str(installed.wanted.address)), output.progress)
        document = describe(installed, host, diagnosis)
    output.result(document, _text(document))
    if not document["healthy"]:
        ctx.exit(HostError.exit_code)


def describe(installed: Installed, host: Host, diagnosis: Diagnosis) -> dict[str, Any]:
    """The status as the one JSON document: bundle, registry, images, builder, emulation, problems, healthy."""
    wanted = installed.wanted
    findings = diagnosis.findings(thorough=False)
    running = not any(finding.check == "docker" for finding in findings)
    container = host.engine.container(REGISTRY_CONTAINER) if running else None
    trouble = diagnosis.answers() if running else "Docker does not answer"
    return {
        "bundle": {**installed.document["bundle"], "installed": installed.document["finished"]},
        "registry": {
            "address": str(wanted.address),
            "container": REGISTRY_CONTAINER,
            "state": container.state if container else None,
            "answers": trouble is None,
            "data": wanted.data,
        },
        "images": [
            {
                "reference": image.reference,
                "role": image.role,
                "digest": str(image.digest),
                "platforms": [str(platform) for platform in image.platforms],
                "names": list(image.served),
                "served": trouble is None and _is_served(diagnosis, image),
            }
            for image in installed.images
        ],
        "builder": {"name": wanted.builder, **_builder(wanted.builder, host)},
        "emulation": {
            str(platform): kernel.runs(platform)
            for platform in wanted.platforms
            if platform.architecture != wanted.host_platform.architecture
        },
        "problems": [finding.to_json() for finding in findings],
        "healthy": not findings,
    }


def _is_served(diagnosis: Diagnosis, image: Any) -> bool:
    try:
        return not diagnosis.served_wrongly(image)
    except NetworkError:
        return False


def _builder(name: str, host: Host) -> dict[str, Any]:
    """What buildx says of the builder: its state, and the platforms it builds for."""
    done = host.cli.try_run(["buildx", "inspect", name])
    fields = dict(re.findall(r"^(Status|Platforms):[ \t]*(.*)$", done.stdout, re.MULTILINE))
    platforms = [text.strip().rstrip("*") for text in fields.get("Platforms", "").split(",") if text.strip()]
    return {"state": fields.get("Status") if done.code == 0 else None, "platforms": platforms}


def _text(document: dict[str, Any]) -> str:
    bundle, registry, builder = document["bundle"], document["registry"], document["builder"]
    answers = "answers" if registry["answers"] else "does not answer"
    platforms = ", ".join(builder["platforms"]) or "nothing"
    lines = [
        f"bundle     {bundle['name']} {bundle['digest']}",
        f"installed  {bundle['installed'] or 'not to its end'} from {bundle['archive']}",
        f"registry   {registry['address']}: {registry['state'] or 'gone'}, {answers}; data in {registry['data']}",
        f"builder    {builder['name']}: {builder['state'] or 'gone'}, for {platforms}",
    ]
    for platform, runs in document["emulation"].items():
        lines.append(f"emulation  {platform}: {'in the kernel' if runs else 'not in the kernel'}")
    lines += ["", "images"]
    for image in document["images"]:
        state = "" if image["served"] else "  NOT SERVED"
        lines.append(f"  {', '.join(image['names'])}  {', '.join(image['platforms']) or 'artifact'}{state}")
    problems = document["problems"]
    if not problems:
        return "\n".join([*lines, "", "healthy"])
    lines += ["", *(f"problem: {problem['check']}: {problem['message']}" for problem in problems)]
    return "\n".join([*lines, f"next: {own_command('doctor')}"])


def finding_lines(findings: list[Finding]) -> list[str]:
    """Findings for people, each with the command that fixes it."""
    lines = []
    for finding in findings:
        lines += [f"{finding.check}: {finding.message}", f"    next: {finding.hint}"]
    return lines
