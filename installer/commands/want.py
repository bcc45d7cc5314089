"""`bundle want`: what the registry holds, written down for `bundle create --base`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Optional

import click

from bundles.archive.want import Want
from bundles.cli.output import Output, OutputFile, common_options
from bundles.errors import AuthenticationError, NetworkError, NotFoundError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index, parse_manifest
from bundles.registry.transport import Settings, Transport
from bundles.runtime.filesystem import write_whole
from bundles.runtime.program import own_command, quote
from installer.host.paths import Places
from installer.host.sudo import environment_of_invoker
from installer.model.job import DEFAULT_REGISTRY
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.connection import site_transport, transport_to


@click.command()
@click.option(
    "-o", "--output", "path", type=OutputFile(), default=Path("want.json"), show_default=True,
    help="The file to write.",
)  # fmt: skip
@click.option(
    "--registry", metavar="HOST[:PORT][/PROJECT]", help="Which registry, and where in it.  [default: the one that was "
    "installed]",
)  # fmt: skip
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="Trust the certificates in this PEM file too.")
@click.option("--insecure-registry", "insecure", multiple=True, metavar="HOST", help="Allow plain HTTP, or any TLS.")
@common_options
def want(
    *, path: Path, registry: Optional[str], ca_file: Optional[Path], insecure: tuple[str, ...], output: Output
) -> None:
    """Write down what the registry holds, so that only the rest has to be carried in.

    \b
    offline$  bundle want -o want.json
    online$   bundle create -f bundle.toml --base want.json -o delta.tar
    """
    receipt = Receipt.find(Places.of(environment_of_invoker(os.environ)))
    ours = receipt.state.destination if receipt else Destination.of(Address.parse(DEFAULT_REGISTRY))
    place = Destination.parse(registry) if registry else ours
    if receipt and place.host != ours.host:
        # What was installed is on another one.
        receipt = None
    with contextlib.ExitStack() as stack:
        transport = stack.enter_context(_way(place, receipt, ca_file, insecure))
        found = holdings(
            Registry(transport, place.host),
            untagged(receipt, place.host) if receipt else frozenset(),
            prefix=place.prefix,
            known=brought_to(receipt) if receipt else (),
        )
    write_whole(path, [found.to_bytes()])
    document = {
        "want": str(path),
        "registry": str(place),
        "images": len(found.images),
        "digests": len(found.digests),
        "digest": str(Digest.of(found.to_bytes())),
    }
    output.result(
        document,
        f"{path}: {len(found.images)} images, {len(found.digests)} manifests, configs and layers on {place}\n"
        f"next: carry it out, and run there: bundle create ... --base {quote(path.name)}",
    )


def _way(place: Destination, receipt: Optional[Receipt], ca_file: Optional[Path], insecure: Sequence[str]) -> Transport:
    """Return a transport to the registry of the receipt, else to any: without logins where it speaks plain HTTP."""
    if receipt and not ca_file and not insecure:
        return transport_to(receipt.state, attempts=3)
    if not ca_file and not insecure:
        plain = Transport(Settings(insecure=frozenset({place.host}), timeout=(5.0, 60.0), attempts=3, backoff=0.2))
        with contextlib.suppress(NetworkError):
            if not plain.speaks_tls(place.host):
                return plain
        plain.close()
    return site_transport(ca_file=ca_file, insecure=insecure, attempts=3)


def holdings(
    registry: Registry,
    more: frozenset[tuple[str, Digest]] = frozenset(),
    *,
    prefix: str = "",
    known: Collection[str] = (),
) -> Want:
    """Find everything on a registry that its tags, and `more`, lead to: repositories and digests in them.

    Each blob is asked for: what a manifest names and the registry has lost is not listed.

    Args:
        registry: that is asked.
        more: repositories, and digests that have no tag there.
        prefix: what repositories are below; empty for all.
        known: the repositories to look into where the registry does not list its own.

    Raises:
        NetworkError: it does not answer, or what it has cannot be known.
    """
    try:
        registry.ping()
        listed = registry.find_repositories()
    except NetworkError as error:
        hint = error.hint if isinstance(error, AuthenticationError) else own_command("doctor")
        raise type(error)(f"cannot list `{registry.host}`: {error.message}", hint=hint) from None
    if listed is None and not known:
        raise NetworkError(
            f"`{registry.host}` does not list its repositories, or not to this login, and nothing was installed "
            "into it from here",
            hint="run this where it was: the receipt there has the names",
        )
    below = f"{prefix}/" if prefix else ""
    repositories = [name for name in (known if listed is None else listed) if name.startswith(below)]
    images: dict[str, Digest] = {}
    digests: set[Digest] = set()

    def look(item: tuple[str, str]) -> None:
        repository, selector = item
        root = registry.manifest_digest(repository, selector)
        if root is not None:
            images[f"{repository}{'@' if ':' in selector else ':'}{selector}"] = root
            digests.update(_below(registry, repository, root))

    places = [(repository, tag) for repository in repositories for tag in registry.tags(repository)]
    places += [(repository, str(digest)) for repository, digest in more if repository in repositories]
    registry.in_parallel(look, places)
    return Want(f"registry {registry.host}", images, frozenset(digests))


def brought_to(receipt: Receipt) -> list[str]:
    """Return the repositories that a receipt knows."""
    names = (place.repository for place in receipt.brought)
    images = (name.partition("/")[2].partition("@")[0] for image in receipt.images for name in image.names)
    tagless = (name.rpartition(":")[0] or name for name in images)
    return sorted({*names, *tagless})


def untagged(receipt: Receipt, host: str) -> frozenset[tuple[str, Digest]]:
    """Return the images that a receipt names by digest: a registry does not list what has no tag."""
    names = (name.removeprefix(f"{host}/").partition("@") for image in receipt.images for name in image.names)
    return frozenset((repository, Digest(digest)) for repository, at, digest in names if at)


def _below(registry: Registry, repository: str, root: Digest) -> Iterator[Digest]:
    """Find a manifest or index and what it needs, as far as it is there."""
    try:
        descriptor, data = registry.get_manifest(repository, str(root))
    except NotFoundError:
        return  # the child of a sparse index
    yield descriptor.digest
    if descriptor.is_index:
        for child in parse_index(data):
            yield from _below(registry, repository, child.digest)
        return
    manifest = parse_manifest(data)
    for blob in (manifest.config, *manifest.layers):
        if registry.has_blob(repository, blob.digest):
            yield blob.digest
