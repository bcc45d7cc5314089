"""`bundle want`: what the registry holds, written down for `bundle create --base`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import click

from bundles.archive.want import Want
from bundles.cli.output import Output, OutputFile, common_options
from bundles.errors import NetworkError, NotFoundError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index, parse_manifest
from bundles.registry.transport import Settings, Transport
from bundles.runtime.filesystem import write_whole
from bundles.runtime.program import own_command, quote
from installer.host.paths import Places
from installer.host.sudo import environment_of_invoker
from installer.model.address import Address
from installer.model.job import DEFAULT_REGISTRY
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry


@click.command()
@click.option(
    "-o", "--output", "path", type=OutputFile(), default=Path("want.json"), show_default=True,
    help="The file to write.",
)  # fmt: skip
@click.option("--registry", metavar="HOST:PORT", help="Which registry.  [default: the one that was installed]")
@common_options
def want(*, path: Path, registry: Optional[str], output: Output) -> None:
    """Write down what the registry holds, so that only the rest has to be carried in.

    \b
    offline$  bundle want -o want.json
    online$   bundle create -f bundle.toml --base want.json -o delta.tar
    """
    receipt = Receipt.find(Places.of(environment_of_invoker(os.environ)))
    ours = receipt.state.address if receipt else Address.parse(DEFAULT_REGISTRY)
    address = Address.parse(registry) if registry else ours
    here = frozenset({str(address)})
    direct = here if address == ours else frozenset()
    settings = Settings(insecure=here, direct=direct, timeout=(5.0, 60.0), attempts=3, backoff=0.2)
    with Transport(settings) as transport:
        found = holdings(Registry(transport, str(address)), untagged(receipt, address) if receipt else frozenset())
    write_whole(path, found.to_bytes())
    document = {
        "want": str(path),
        "registry": str(address),
        "images": len(found.images),
        "digests": len(found.digests),
        "digest": str(Digest.of(found.to_bytes())),
    }
    output.result(
        document,
        f"{path}: {len(found.images)} images, {len(found.digests)} manifests, configs and layers on {address}\n"
        f"next: carry it out, and run there: bundle create ... --base {quote(path.name)}",
    )


def holdings(registry: Registry, more: frozenset[tuple[str, Digest]] = frozenset()) -> Want:
    """Find everything on a registry that its tags, and `more`, lead to: repositories and digests in them.

    Each blob is asked for: what a manifest names and the registry has lost is not listed.

    Raises:
        NetworkError: it does not answer.
    """
    try:
        registry.ping()
        repositories = list(registry.repositories())
    except NetworkError as error:
        raise type(error)(f"cannot list `{registry.host}`: {error.message}", hint=own_command("doctor")) from None
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


def untagged(receipt: Receipt, address: Address) -> frozenset[tuple[str, Digest]]:
    """Return the images that a receipt names by digest: a registry does not list what has no tag."""
    names = (name.removeprefix(f"{address}/").partition("@") for image in receipt.images for name in image.names)
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
