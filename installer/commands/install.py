"""`bundle install`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from bundles.archive.reader import Archive
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, common_options
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Progress
from installer import install as installation
from installer.commands.options import builder_options, cluster_options, storage_of, storage_options
from installer.host.files import read_optional
from installer.host.host import Host
from installer.model.cluster import Cluster
from installer.model.job import Options
from installer.model.node import NodeAddress
from installer.model.registry.access import PLAIN, USER, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.replay import check_direct
from installer.receipt.receipt import Receipt
from installer.registry.certificates import readable
from installer.runner import plan_lines, questioner, to_json
from installer.steps.builder.nodes import own_authority
from installer.steps.registry.certificates import Files

_T = TypeVar("_T")
_CERT = "bundle install ARCHIVE --cert FILE --key FILE --ca FILE"
_INTO = "bundle install ARCHIVE --into HOST/PROJECT"


@click.command()
@archive_argument(signers=True)
@click.option(
    "--registry",
    metavar="HOST:PORT",
    help="Where the registry serves: localhost:5000 for this host only (default), or an address of this host for the "
    "LAN. Without it, an installed one stays where it is.",
)
@click.option(
    "--into",
    metavar="HOST[:PORT]/PROJECT",
    help="A registry of the site, and where in it: images go there, and no registry is started here. Without it and "
    "--registry, what was installed stays where it is.",
)
@click.option(
    "--tls/--no-tls",
    "tls",
    default=None,
    help="Whether the registry speaks TLS, with a CA that is made here. Without either an installed one goes on as it "
    "does; the data stays.",
)
@click.option(
    "--login/--no-login",
    "login",
    default=None,
    help="With TLS: whether only the user `bundle` gets in, with a password that is made here and shown once.",
)
@click.option(
    "--cert",
    "certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --key: the registry's certificate, and those between it and its CA, a PEM file.",
)
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The key of --cert, without a passphrase.")
@click.option(
    "--ca",
    "ca_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The CA of the registry of --into, or of --cert, a PEM file; without it the system has to trust it.",
)
@click.option("--insecure-registry", "insecure", metavar="HOST", help="With --into: it speaks plain HTTP.")
@click.option("--flat", is_flag=True, hidden=True)
@click.option("--builder", metavar="NAME", default="cross-builder", show_default=True, help="Name of the builder.")
@click.option("--platform", "platforms", metavar="P,P", multiple=True, help="Install only these platforms.")
@click.option(
    "--data", metavar="DIR|VOLUME", help="Where the registry keeps its data (default: the volume bundle-registry)."
)
@storage_options
@builder_options
@cluster_options
@click.option(
    "--yes",
    is_flag=True,
    help="Agree to changes of /etc/docker/daemon.json or certs.d, needed for a LAN address, to moving tags of others, "
    "and to taking the replay from another user.",
)
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@common_options
def install(
    *,
    archive: ArchiveArgument,
    registry: Optional[str],
    into: Optional[str],
    ca_file: Optional[Path],
    tls: Optional[bool],
    login: Optional[bool],
    certificate: Optional[Path],
    key: Optional[Path],
    insecure: Optional[str],
    flat: bool,
    builder: str,
    platforms: tuple[str, ...],
    data: Optional[str],
    nodes: tuple[str, ...],
    no_replay: bool,
    direct: tuple[str, ...],
    cluster: Optional[Cluster],
    without_cluster: bool,
    system: bool,
    yes: bool,
    plan: bool,
    output: Output,
    **s3_options: Any,
) -> None:
    """Turn ARCHIVE into a registry, its images and a multi-platform builder on this host.

    With --into the images go to a registry that is there already, with the logins of `docker login` or podman.

    Only what is missing is done: a second run changes nothing, and an interrupted one goes on.
    """
    own = {"--registry": registry, "--data": data, "--tls": tls, "--login": login, "--cert": certificate, "--key": key}
    own |= {f"--{name.replace('_', '-')}": value for name, value in s3_options.items()}
    site = _site(into, archive, flat=flat, others=own)
    if not site and insecure:
        raise UsageError("--insecure-registry needs --into", hint=_INTO)
    if not site and ca_file and not certificate:
        raise UsageError("--ca needs --into or --cert", hint=_INTO)
    _check_own(tls, login, certificate, key)
    s3, s3_keys = storage_of(data=data, **s3_options)
    options = Options(
        registry=_option("--registry", Address.parse, registry) if registry else None,
        builder=builder,
        nodes=tuple(_option("--node", NodeAddress.parse, each) for each in nodes),
        platforms=_option("--platform", Platform.parse_list, ",".join(platforms)),
        data=data,
        yes=yes,
        system=system,
        replay=not no_replay,
        cluster=cluster,
        without_cluster=without_cluster,
        direct=tuple(_option("--direct", check_direct, host) for host in direct),
        site=site,
        access=_access(site, ca_file, insecure) if site else PLAIN,
        ca_file=ca_file and ca_file.absolute(),
        tls=tls,
        login=login,
        certificate=certificate and certificate.absolute(),
        key=key and key.absolute(),
        s3=s3,
        s3_keys=s3_keys,
    )
    host = Host.this(os.environ, questioner())
    with archive.open() as opened:
        document, text = (show_plan if plan else run_install)(opened, options, host, output.progress)
        output.result(document, text)


def _site(
    into: Optional[str], archive: ArchiveArgument, *, flat: bool, others: Mapping[str, object]
) -> Optional[Destination]:
    """Read --into.

    Raises:
        UsageError: it is no place for images, or something else was given that does not go with it.
    """
    if into is None:
        if flat:
            elsewhere = own_command(f"push {quote(archive.path)} HOST/PROJECT --flat")
            raise UsageError("--flat is for `push`", hint=elsewhere)
        return None
    for option, value in others.items():
        if value is not None:
            raise UsageError(
                f"{option} does not go with --into: no registry is started here", hint=f"leave out {option}"
            )
    if flat:
        push = own_command(f"push {quote(archive.path)} {quote(into)}")
        raise UsageError(
            "--flat does not go with --into: flat names have no mirror, and only through one a builder finds what "
            "`FROM debian:12` means",
            hint=f"{push} --flat; its output has the names for the Dockerfile",
        )
    site = _option("--into", Destination.parse, into)
    _option("--into", Address.of_host, site.host)
    return site


def _check_own(tls: Optional[bool], login: Optional[bool], certificate: Optional[Path], key: Optional[Path]) -> None:
    """Look at how our own registry is to be spoken to.

    Raises:
        UsageError: the options do not go together.
    """
    if (certificate is None) != (key is None):
        raise UsageError("--cert and --key go together", hint=_CERT)
    if tls is False and (certificate or login):
        raise UsageError(f"{'--cert' if certificate else '--login'} does not go with --no-tls")


def _access(site: Destination, ca_file: Optional[Path], insecure: Optional[str]) -> Access:
    """Return how a registry of the site is spoken to: by TLS, unless plain HTTP was asked for, or it is this host."""
    if insecure is None:
        return Access(tls=ca_file is not None or not Address.of_host(site.host).is_loopback)
    if insecure not in (site.host, Address.of_host(site.host).host):
        raise UsageError(f"--insecure-registry: `{insecure}` is not the registry of --into", hint=f"give {site.host}")
    if ca_file:
        raise UsageError("--ca does not go with --insecure-registry: plain HTTP has no certificates")
    return PLAIN


def show_plan(archive: Archive, options: Options, host: Host, _: Progress) -> tuple[dict[str, Any], str]:
    """Return what installing would do: the document, and the text for people. Nothing is touched."""
    job, results = installation.plan(archive, options, host)
    document = {
        "bundle": str(archive.digest),
        "registry": str(job.destination),
        "builder": job.builder,
        "steps": to_json(results)["steps"],
        "receipt": str(host.places.receipt),
    }
    lines = [f"bundle {archive.digest} to {job.destination}, builder {job.builder}", "", *plan_lines(results)]
    if any(result.changes for result in results):
        return document, "\n".join([*lines, f"receipt        write {host.places.receipt}"])
    return document, "\n".join([*lines, "", "nothing to do"])


def run_install(archive: Archive, options: Options, host: Host, progress: Progress) -> tuple[dict[str, Any], str]:
    """Install, and return the receipt, and for people what is ready, where, and what to type next."""
    receipt = installation.install(archive, options, host, progress)
    state = receipt.state
    lines = [
        f"ready          {len(receipt.images)} images on {state.destination} ({own_command('status')} names them)",
        f"builder        {state.builder} for {', '.join(map(str, state.platforms))}",
        *(f"node           {node.address} for {', '.join(map(str, state.platforms_of(node)))}" for node in state.nodes),
        *_secured(receipt, host),
        *_replayed(receipt),
        f"bundle         {receipt.bundle.digest}",
        f"receipt        {host.places.receipt}",
        *(f"left out       {reference}: it has none of these platforms" for reference in receipt.left_out),
        *(f"note: {note}" for note in receipt.notes),
        "",
    ]
    if receipt.changed:
        platforms = ",".join(map(str, state.platforms))
        own = own_authority(state, host)
        trusting = f"SSL_CERT_FILE={quote(own)} " if own else ""
        lines.append(
            f"next: {trusting}docker buildx build --platform {platforms} -t {state.destination}/app:1 --push ."
        )
        if receipt.caches:
            lines.append("with a recorded build, what is unchanged is not built again when this is added, too:")
            lines += [f"      --cache-from {cache}" for cache in receipt.caches]
    else:
        lines.append("nothing to do: everything was already there")
    return receipt.to_json(), "\n".join(lines)


def _secured(receipt: Receipt, host: Host) -> list[str]:
    """Say by what the registry is known, and how to get in; the password only when it was just made."""
    access, files = receipt.state.access, Files.of(host.places)
    if receipt.state.site or not access.tls:
        return []
    lines = []
    authority = readable(read_optional(files.authority)) if access.authority else ()
    if authority:
        lines += [f"CA             {files.authority}", f"               SHA-256 {authority[0].fingerprint}"]
    if access.password:
        made = (change.name for step in receipt.steps for change in step.changes if change.action != "remove")
        secret = (read_optional(files.password) or b"").decode().strip()
        said = f"password {secret} (shown this once, and kept in" if str(files.password) in made else "(password in"
        lines.append(f"login          user {USER}, {said} {files.password})")
    return lines


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
