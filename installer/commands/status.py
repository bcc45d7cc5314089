"""`bundle status`: what is installed, from which bundle, and whether it is still healthy."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Optional

import click

from bundles.cli.output import Output, common_options
from bundles.errors import HostError, NetworkError
from bundles.runtime.program import own_command
from bundles.runtime.terminal import one_line
from installer.diagnosis import Diagnosis, Finding
from installer.host import kernel
from installer.host.files import read_optional
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER, REPLAY_CONTAINER
from installer.model.cluster import cluster_builder
from installer.model.registry.access import USER
from installer.receipt.receipt import InstalledImage, Receipt
from installer.registry.certificates import readable
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.replay.replayer import RECORD_AGAIN, THEN_HERE
from installer.steps.builder.nodes import describe_nodes
from installer.steps.kubernetes.builder import ready_pods

# So many URLs that were not recorded are for people, those that were asked for last; --json has all.
_SHOWN = 20


@click.command()
@common_options
@click.pass_context
def status(ctx: click.Context, *, output: Output) -> None:
    """Show what is installed on this host, from which bundle, and whether it is healthy.

    Exit code 0 when all is well, 4 when something is not; `doctor` explains it.
    """
    host = Host.this(os.environ, None)
    receipt = Receipt.read(host)
    with transport_to(receipt.state, attempts=1) as transport:
        diagnosis = Diagnosis(receipt, host, Registry(transport, receipt.state.destination.host), output.progress)
        document = describe(receipt, host, diagnosis)
    output.result(document, _text(document, receipt, host.places.receipt))
    if not document["healthy"]:
        ctx.exit(HostError.exit_code)


def describe(receipt: Receipt, host: Host, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the one JSON document: bundle, registry, replay, caches, images, builder, kubernetes, emulation,
    problems, healthy."""
    state, installed = receipt.state, receipt.to_json()
    findings = diagnosis.findings(thorough=False)
    running = not any(finding.check == "docker" for finding in findings)
    container = host.engine.container(REGISTRY_CONTAINER) if running and not state.site else None
    trouble = diagnosis.answers() if running else "Docker does not answer"
    if diagnosis.storage_trouble:
        # It answers, and has nothing to say.
        trouble = trouble or diagnosis.storage_trouble.message
    return {
        "bundle": {**installed["bundle"], "installed": installed["finished"]},
        "registry": {
            "address": str(state.address),
            "container": None if state.site else REGISTRY_CONTAINER,
            "state": container.state if container else None,
            "answers": trouble is None,
            "data": state.data or None,
            "site": state.site and state.site.to_json(),
            "storage": _storage(receipt, diagnosis),
            **_security(receipt),
        },
        "replay": _replay(receipt, host, diagnosis) if running else installed["replay"],
        "caches": installed["caches"],
        "images": [
            {
                "reference": image.reference,
                "role": image.role,
                "digest": str(image.digest),
                "platforms": [str(platform) for platform in image.platforms],
                "names": list(image.names),
                "served": trouble is None and _is_served(diagnosis, image),
            }
            for image in receipt.images
        ],
        "builder": {
            "name": state.builder,
            **_builder(state.builder, host),
            "nodes": [node.to_json() for node in describe_nodes(state, host)],
        },
        "kubernetes": _kubernetes(receipt, host, diagnosis),
        "emulation": {
            str(platform): kernel.runs(platform)
            for platform in state.platforms_of(None)
            if platform.architecture != state.host_platform.architecture
        },
        "problems": [finding.to_json() for finding in findings],
        "healthy": not findings,
    }


def _storage(receipt: Receipt, diagnosis: Diagnosis) -> Optional[dict[str, Any]]:
    """Return where the bucket with the registry's data is, and `answers`: whether it can be read."""
    storage = receipt.state.storage
    return {**storage.to_json(), "answers": diagnosis.storage_trouble is None} if storage else None


def _security(receipt: Receipt) -> dict[str, Any]:
    """Return of our own registry with TLS whether it wants a login, and the SHA-256 of its CA, which others compare."""
    access = receipt.state.access
    if receipt.state.site or not access.tls:
        return {}
    found = readable(read_optional(Path(access.authority))) if access.authority else ()
    return {"login": access.password is not None, "fingerprint": found[0].fingerprint if found else None}


def _is_served(diagnosis: Diagnosis, image: InstalledImage) -> bool:
    try:
        return not diagnosis.served_wrongly(image)
    except NetworkError:
        return False


def _replay(receipt: Receipt, host: Host, diagnosis: Diagnosis) -> Optional[dict[str, Any]]:
    """Return what is replayed: port, tapes, direct, state, answers (None when it does not answer), and
    unrecorded, what was asked for last first."""
    replay = receipt.state.replay
    if replay is None:
        return None
    container = host.engine.container(REPLAY_CONTAINER)
    state = diagnosis.replay_state()
    return {
        **replay.to_json(),
        "state": container.state if container else None,
        "answers": state and state.get("answers"),
        "unrecorded": diagnosis.unrecorded(),
    }


def _builder(name: str, host: Host) -> dict[str, Any]:
    """Ask buildx for the builder: its state, and the platforms it builds for."""
    done = host.cli.try_run(["buildx", "inspect", name])
    fields = dict(re.findall(r"^(Status|Platforms):[ \t]*(.*)$", done.stdout, re.MULTILINE))
    platforms = [text.strip().rstrip("*") for text in fields.get("Platforms", "").split(",") if text.strip()]
    return {"state": fields.get("Status") if done.code == 0 else None, "platforms": platforms}


def _kubernetes(receipt: Receipt, host: Host, diagnosis: Diagnosis) -> Optional[dict[str, Any]]:
    """Return of the builder on Kubernetes its name, where it is, and how many of its pods are ready; None for that when
    the cluster does not say."""
    cluster = receipt.state.cluster
    if cluster is None:
        return None
    return {
        "name": cluster_builder(receipt.state.builder),
        **cluster.to_json(),
        "ready": None if diagnosis.cluster_trouble else ready_pods(receipt.state, host),
    }


def _text(document: dict[str, Any], receipt: Receipt, path: Path) -> str:
    bundle, registry, builder = document["bundle"], document["registry"], document["builder"]
    answers = "answers" if registry["answers"] else "does not answer"
    platforms = ", ".join(builder["platforms"]) or "nothing"
    where = f"{registry['address']}: {registry['state'] or 'gone'}, {answers}; data in {registry['data']}"
    if receipt.state.site:
        where = f"{receipt.state.site}: the site's, {answers}"
    lines = [
        f"bundle     {bundle['name']} {bundle['digest']}",
        f"installed  {bundle['installed'] or 'not to its end'} from {bundle['archive']}",
        f"registry   {where}",
        *_storage_lines(registry.get("storage")),
        *([f"CA         SHA-256 {registry['fingerprint']}"] if registry.get("fingerprint") else []),
        *([f"login      user {USER}, password in {receipt.state.access.password}"] if registry.get("login") else []),
        f"builder    {builder['name']}: {builder['state'] or 'gone'}, for {platforms}",
        *(f"node       {node['text']}" for node in builder["nodes"]),
    ]
    cluster = document["kubernetes"]
    if cluster:
        ready = f"{cluster['ready']} of {cluster['replicas']} pods ready"
        if cluster["ready"] is None:
            ready = "the cluster does not answer"
        where = f"namespace {cluster['namespace']} of {cluster['context']}"
        lines.append(f"kubernetes {cluster['name']}: {ready}, in {where}")
    for platform, runs in document["emulation"].items():
        state = "this kernel does not tell" if runs is None else "in the kernel" if runs else "not in the kernel"
        lines.append(f"emulation  {platform}: {state}")
    lines += _replay_lines(document)
    lines += [f"receipt    {path}", "", "images"]
    for image, entry in zip(receipt.images, document["images"]):
        state = "" if entry["served"] else "  NOT SERVED"
        lines.append(
            f"  {', '.join(image.names)}  {', '.join(entry['platforms']) or 'artifact'}  {image.digest}{state}"
        )
        lines += [f"    {name} serves {digest}" for name, digest in image.rebuilt.items()]
    lines += [f"  {reference}  left out: it has none of these platforms" for reference in receipt.left_out]
    lines += ["", *(f"note: {note}" for note in receipt.notes)] if receipt.notes else []
    unrecorded = (document["replay"] or {}).get("unrecorded", ())
    if unrecorded:
        more = len(unrecorded) - _SHOWN
        lines += [
            "",
            "asked for and not recorded, the last first",
            *(f"  {one_line(url)}" for url in unrecorded[:_SHOWN]),
        ]
        lines += [f"  and {more} before"] if more > 0 else []
        lines += [f"next, where there is a network: {RECORD_AGAIN}", f"then here: {THEN_HERE}"]
    problems = document["problems"]
    if not problems:
        return "\n".join([*lines, "", "healthy"])
    lines += ["", *(f"problem: {problem['check']}: {problem['message']}" for problem in problems)]
    return "\n".join([*lines, f"next: {own_command('doctor')}"])


def _storage_lines(storage: Optional[dict[str, Any]]) -> list[str]:
    if not storage:
        return []
    leads = "; who pulls is led there" if storage["redirect"] else ""
    return [f"storage    S3 at {storage['endpoint']}: {'answers' if storage['answers'] else 'does not answer'}{leads}"]


def _replay_lines(document: dict[str, Any]) -> list[str]:
    replay, lines = document["replay"], []
    if replay:
        answers = replay.get("answers")
        said = "does not answer" if answers is None else f"{answers} answers"
        tapes = ", ".join(tape["name"] for tape in replay["tapes"]) or "no tape"
        lines.append(f"replay     127.0.0.1:{replay['port']}: {replay.get('state') or 'gone'}, {said}; {tapes}")
        lines += [f"direct     {host}" for host in replay["direct"]]
    return lines + [f"cache      --cache-from {cache}" for cache in document["caches"]]


def finding_lines(findings: list[Finding]) -> list[str]:
    """Return findings for people, each with the command that fixes it."""
    lines = []
    for finding in findings:
        lines += [f"{finding.check}: {finding.message}", f"    next: {finding.hint}"]
    return lines
