"""`bundle join`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli.archive_argument import ArchiveArgument, archive_argument, archive_before
from bundles.cli.output import Output, common_options
from bundles.crypto.x509 import fingerprint
from bundles.errors import AuthenticationError, HostError, UsageError
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from bundles.registry.server_certificates import certificates_of, parse_fingerprint
from bundles.runtime.program import own_command, quote
from installer.commands.install import run_install, show_plan
from installer.commands.options import builder_options, cluster_options
from installer.host.host import Host
from installer.model.cluster import Cluster
from installer.model.job import Options
from installer.model.naming import mirrors, repositories
from installer.model.node import NodeAddress
from installer.model.registry.access import PLAIN, USER, Access
from installer.model.registry.address import Address
from installer.model.registry.client_files import KINDS, client_files
from installer.model.registry.destination import Destination
from installer.model.replay import check_direct
from installer.model.selection import select
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.connection import logins_at, site_transport
from installer.registry.first_contact import Contact, first_contact
from installer.runner import questioner
from installer.steps.registry.login import docker_login


@click.command()
@archive_argument(signers=True)
@click.argument("registry", metavar="HOST[:PORT][/PROJECT]", required=False)
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="The registry's CA, a PEM file.")
@click.option(
    "--fingerprint", "expected", metavar="SHA256", help="The fingerprint of its CA, as `status` says on its host."
)
@click.option("--username", help="Log in with this name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--builder", metavar="NAME", default="cross-builder", show_default=True, help="Name of the builder.")
@click.option("--platform", "platforms", metavar="P,P", multiple=True, help="Use only these platforms.")
@builder_options
@cluster_options
@click.option(
    "--yes",
    is_flag=True,
    help="Agree to changes below /etc/docker, and to taking the replay from another user; not to a CA.",
)
@click.option("--plan", is_flag=True, help="Say what would be done, and touch nothing.")
@click.option(
    "--print",
    "kind",
    type=click.Choice(KINDS),
    help="Print the files with which this client finds the images, and touch nothing. No Docker is needed.",
)
@common_options
def join(
    *,
    archive: ArchiveArgument,
    registry: Optional[str],
    ca_file: Optional[Path],
    expected: Optional[str],
    username: Optional[str],
    password_stdin: bool,
    builder: str,
    platforms: tuple[str, ...],
    nodes: tuple[str, ...],
    no_replay: bool,
    direct: tuple[str, ...],
    cluster: Optional[Cluster],
    without_cluster: bool,
    system: bool,
    yes: bool,
    plan: bool,
    kind: Optional[str],
    output: Output,
) -> None:
    """Make a builder here for a registry that another host has filled with ARCHIVE. No image is pushed.

    \b
    python3 offline.tar join 192.168.10.10:5000 --fingerprint AB:CD:...
    bundle join offline.tar harbor.corp/team --ca corp-ca.pem
    python3 offline.tar join 192.168.10.10:5000 --print k3s
    """
    archive, place = archive_before(archive, registry, "the registry", "join", "HOST:PORT")
    site = dataclasses.replace(Destination.parse(place), joined=True)
    address = Address.of_host(site.host)
    if address.is_loopback:
        raise UsageError(
            f"`{site.host}` is this host: expected the address at which the LAN has the registry",
            hint=f"{own_command(f'install {quote(archive.path)}')} makes a registry and a builder on this host",
        )
    given = _given_login(username, password_stdin)
    person = questioner()
    with archive.open() as opened:
        check_documents(opened)
        wanted = expected and parse_fingerprint(expected)
        if kind:
            contact = first_contact(address, ca_file=ca_file, expected=wanted, ask=person)
            _warn(address, contact, output)
            output.result(*_files(kind, opened, site, contact))
            return
        host = Host.this(os.environ, person)
        _refuse_own(host, address, archive)
        before = _before(host, site)
        kept = Path(before.authority) if before.authority else None
        contact = first_contact(
            address,
            ca_file=ca_file,
            expected=wanted,
            kept=kept if kept and kept.is_file() else None,
            secured=before.tls,
            ask=person,
        )
        _warn(address, contact, output)
        if not contact.tls and docker_login(host, site.host):
            raise HostError(
                f"`{site.host}` speaks plain HTTP, where docker would send the login that it has for it in the clear: "
                "no login was sent",
                hint="did it speak TLS before? then somebody else may be answering there; if it needs none any more: "
                f"docker logout {site.host}",
            )
        with _file_of(contact) as authority:
            trusted = f"--ca {quote(ca_file)} " if ca_file else ""
            trusted = f"--fingerprint {contact.compared} " if contact.compared else trusted
            again = own_command(f"join {quote(archive.path)} {site} {trusted}")
            credential, aliases = _logged_in(opened, site, contact, authority, given, again=again)
            options = Options(
                builder=builder,
                nodes=tuple(map(NodeAddress.parse, nodes)),
                platforms=Platform.parse_list(",".join(platforms)),
                yes=yes,
                system=system,
                replay=not no_replay,
                cluster=cluster,
                without_cluster=without_cluster,
                direct=tuple(map(check_direct, direct)),
                site=dataclasses.replace(site, aliases=aliases),
                access=Access(tls=contact.tls),
                ca_file=authority,
                credential=credential,
            )
            document, text = (show_plan if plan else run_install)(opened, options, host, output.progress)
    output.result(document, text)


def _warn(address: Address, contact: Contact, output: Output) -> None:
    if not contact.tls:
        output.progress.message(
            f"`{address}` speaks plain HTTP: who is on the network in between can read and change what comes from "
            "it; `install --tls` on its host ends that"
        )


def _given_login(username: Optional[str], password_stdin: bool) -> Optional[Credential]:
    if not password_stdin:
        if username and not sys.stdin.isatty():
            raise UsageError("--username needs a password, and nobody is there to be asked", hint="--password-stdin")
        return Credential(username, _hidden(username)) if username else None
    try:
        password = sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        # Without its text, which is a part of the password.
        raise UsageError("the password on stdin is not UTF-8", hint="... --password-stdin < FILE") from None
    if not password:
        raise UsageError("there is no password on stdin", hint="... --password-stdin < FILE")
    return Credential(username or USER, password)


def _refuse_own(host: Host, address: Address, archive: ArchiveArgument) -> None:
    """Stop where this host has filled the registry: joined, nobody would look after that any more.

    Raises:
        UsageError: it is the one that was installed here.
    """
    before = Receipt.known(host.places)
    if before and not before.state.site and before.state.address == address:
        raise UsageError(
            f"the registry at `{address}` is that of this host, which has a builder for it",
            hint=own_command(f"install {quote(archive.path)}"),
        )


def _before(host: Host, site: Destination) -> Access:
    """Return how this host speaks with the registry since it was joined, or installed into it; plain HTTP if neither
    was."""
    before = Receipt.known(host.places)
    known = before.state if before and before.state.site and before.state.site.host == site.host else None
    return known.access if known else PLAIN


@contextlib.contextmanager
def _file_of(contact: Contact) -> Iterator[Optional[Path]]:
    """Give the CA as a file, as long as nothing has been done here."""
    if not contact.authority:
        yield None
        return
    with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="bundle-ca-", suffix=".pem") as file:
        file.write(contact.authority)
        file.flush()
        yield Path(file.name)


def _logged_in(
    archive: Archive,
    site: Destination,
    contact: Contact,
    authority: Optional[Path],
    given: Optional[Credential],
    *,
    again: str,
) -> tuple[Optional[Credential], bool]:
    """Return a login that the registry takes, None where none is needed or docker has it, and whether it has aliases.

    Args:
        archive: what is looked for there.
        site: the registry.
        contact: how it is spoken to.
        authority: the CA of that, as a file.
        given: the login to try first.
        again: the command that joins, but for the login.

    Raises:
        HostError: it wants one, and none is to be had, or it must not be sent.
        NetworkError: it is refused, or no registry answers.
    """
    in_the_clear = HostError(
        f"`{site.host}` speaks plain HTTP, where everybody could read a password: no login was sent",
        hint="install --tls --login on its host, then join again",
    )
    if given and not contact.tls:
        raise in_the_clear
    try:
        return given, _ask(archive, site, contact, authority, given)
    except AuthenticationError as error:
        if not contact.tls:
            raise in_the_clear from None
        if given or not (sys.stdin.isatty() and sys.stderr.isatty()):
            user = quote(given.username if given else USER)
            hint = f"{again}--username {user} --password-stdin < FILE"
            raise AuthenticationError(error.message, status=error.status, hint=hint) from None
    username = click.prompt(f"User name for {site.host}", default=USER, err=True)
    asked = Credential(username, _hidden(username))
    return asked, _ask(archive, site, contact, authority, asked)


def _hidden(username: str) -> str:
    return str(click.prompt(f"Password of {username}", hide_input=True, err=True))


def _ask(
    archive: Archive, site: Destination, contact: Contact, authority: Optional[Path], credential: Optional[Credential]
) -> bool:
    """Make sure that a registry answers and takes the login; tell whether it has short names, as our own has."""
    insecure = () if contact.tls else (site.host,)
    credentials = logins_at(site, credential, tls=contact.tls)
    direct = [str(Address.of_host(site.host))]
    with site_transport(
        ca_file=authority, insecure=insecure, credentials=credentials, direct=direct, attempts=2
    ) as transport:
        registry = Registry(transport, site.host)
        registry.ping()
        if site.prefix:
            return False
        short = dataclasses.replace(site, aliases=True)
        for image in archive.manifest.images:
            names = repositories(image.reference, short)
            if names[1:] and image.reference.tag:
                return registry.manifest_digest(names[1], image.reference.tag) is not None
    return False


def _files(kind: str, archive: Archive, site: Destination, contact: Contact) -> tuple[dict[str, Any], str]:
    """Return the files for a client: the document, and the text for people."""
    references = (image.image.reference for image in select(archive, site, ()))
    found = client_files(kind, site, mirrors(references, site), tls=contact.tls, authority=contact.authority)
    prints = [fingerprint(each) for each in certificates_of(contact.authority)] if contact.authority else []
    document = {
        "registry": str(site),
        "tls": contact.tls,
        "fingerprints": prints,
        "files": [dataclasses.asdict(file) for file in found.files],
        "advice": list(found.advice),
    }
    lines: list[str] = []
    for file in found.files:
        lines += [f"# {file.path}", file.content]
    return document, "\n".join([*lines, *(f"# {line}" for line in found.advice)])
