"""Images of the local Docker, read through its engine. Only this module and `credentials` import docker here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from bundler.definition.spec import Compression, FromDaemon, ImageRequest, Spec
from bundler.sources import zstd
from bundler.sources.docker_save import OCI_ZSTD_LAYER, ZSTD_NOTE, index, read_saved
from bundler.sources.spool import Local, Spool, SpooledSource
from bundles.errors import HostError, NotFoundError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.image import config_platform, parse_index, parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.progress import Progress
from bundles.runtime.streams import PieceStream
from bundles.runtime.system import system

# An engine may think for minutes before it begins to send an image.
_TIMEOUT = 900


def take_local(spec: Spec, source: SpooledSource, compression: Compression, progress: Progress) -> Spec:
    """Read what is asked for of the local Docker into `source`; gives the spec with those images too.

    Raises:
        HostError: Docker does not answer.
        NetworkError: it does not have an image, or not for a wanted platform; or what it has is damaged.
    """
    images = list(spec.images)
    names = ", ".join(item.reference.familiar for item in spec.from_daemon)
    progress.message(f"reading {names} from the local Docker")
    for item, local in zip(spec.from_daemon, read_images(spec.from_daemon, source.spool, compression)):
        source.add(item.reference, local)
        offered = platforms(local)
        chosen = tuple(platform for platform in spec.platforms if platform.best_of(offered))
        if not chosen:
            raise NotFoundError(
                f"the local Docker has `{item.reference.familiar}` for {_list(offered)}, and not for "
                f"{_list(spec.platforms)}",
                hint="choose platforms with --platform, or build it for these",
            )
        missing = [platform for platform in spec.platforms if platform not in chosen]
        if missing:
            progress.message(f"note: {item.reference.familiar} is for {_list(chosen)} only, not for {_list(missing)}")
        images.append(ImageRequest(item.reference, "base", chosen))
    if any(OCI_ZSTD_LAYER.encode() in data for data in source.documents):
        progress.message(f"note: {ZSTD_NOTE}")
    return dataclasses.replace(spec, images=tuple(images))


def _list(platforms: Sequence[Platform]) -> str:
    return ", ".join(map(str, platforms)) or "no platform"


def read_images(wanted: Sequence[FromDaemon], spool: Spool, compression: Compression) -> Iterator[Local]:
    """Read each image of the local Docker, in order; its layers go to `spool`.

    Raises:
        HostError: Docker does not answer.
        NotFoundError: it has no such image.
        UsageError: images that become one are for the same platform.
        ContentError: what it gave is not a whole image.
    """
    import requests
    from docker.errors import DockerException

    try:
        with contextlib.closing(_client()) as client:
            for item in wanted:
                yield _merge(item, [_read(client, source, spool, compression) for source in item.sources])
    except (DockerException, requests.RequestException) as error:
        raise HostError(f"Docker cannot be asked for images: {error}", hint="docker version") from None


def platforms(local: Local) -> tuple[Platform, ...]:
    """Return the platforms of an image."""
    return tuple(dict.fromkeys(child.platform for child in _children(local) if child.platform))


def _client() -> Any:
    """Connect to the engine that the docker command uses: DOCKER_HOST, else the current context."""
    import docker
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    options: dict[str, Any] = {**kwargs_from_env()}
    if "base_url" not in options:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT") or None)
        options["base_url"] = getattr(context, "Host", None) or system.DOCKER_ENGINE
    return docker.APIClient(timeout=_TIMEOUT, version="auto", **options)


def _read(client: Any, source: Reference, spool: Spool, compression: Compression) -> Local:
    from docker.errors import ImageNotFound, NotFound

    name = source.familiar
    try:
        # Asked first: the image itself comes only while it is read.
        client.inspect_image(name)
    except (ImageNotFound, NotFound):
        raise NotFoundError(f"the local Docker has no image `{name}`", hint="docker images") from None
    pieces = client.get_image(name, chunk_size=zstd.CHUNK)
    return read_saved(cast("IO[bytes]", PieceStream(pieces)), name, spool, compression)


def _children(local: Local) -> Iterator[Descriptor]:
    """Return the image manifests, each with its platform."""
    documents = {known.digest: data for known, data in local.documents.items()}
    if local.root.is_index:
        # A child that is not there is of a platform that Docker has not pulled.
        yield from (child for child in parse_index(documents[local.root.digest]) if child.digest in documents)
    else:
        config = parse_manifest(documents[local.root.digest]).config
        yield dataclasses.replace(local.root, platform=config_platform(documents[config.digest]))


def _merge(wanted: FromDaemon, parts: Sequence[Local]) -> Local:
    """Make one image of several, in the order of their platforms."""
    if len(parts) == 1:
        return parts[0]
    children: dict[Platform, Descriptor] = {}
    documents: dict[Descriptor, bytes] = {}
    for source, part in zip(wanted.sources, parts):
        found = [child for child in _children(part) if child.platform]
        if len(found) != 1 or found[0].platform is None:
            raise UsageError(f"`{source.familiar}` is for {len(found)} platforms: expected one, to merge it")
        if found[0].platform in children:
            raise UsageError(f"`{wanted.reference.familiar}` would have {found[0].platform} twice")
        children[found[0].platform] = found[0]
        documents.update({known: data for known, data in part.documents.items() if not known.is_index})
    root, data = index([children[platform] for platform in sorted(children)])
    return Local(root, {**documents, root: data})
