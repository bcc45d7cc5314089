"""Reading image indexes, image manifests and configs. For reading only: the raw bytes travel, never a re-serialisation.

Specifications: OCI image-spec v1.1 (image-index.md, manifest.md, config.md); Docker image manifest v2, schema 2.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.oci.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform

# distribution and containerd refuse larger manifests (distribution-spec: registries should accept 4 MiB).
MAX_MANIFEST_SIZE = 4 << 20
# Image configs are blobs without a limit of their own; the largest seen in practice are some 100 KB.
MAX_CONFIG_SIZE = 16 << 20


@dataclasses.dataclass(frozen=True)
class ImageManifest:
    """The content of one image for one platform: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object from outside.

    Raises:
        UsageError: not JSON, not an object, or nested too deeply; the message names `what`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{what} is not a JSON object")
    return value


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of an index: its object, its descriptor or None for one that means nothing here, and then why."""

    value: Any
    descriptor: Optional[Descriptor]
    problem: str = ""


def index_entries(data: bytes) -> tuple[Entry, ...]:
    """Read all entries of an image index (OCI) or manifest list (Docker), in their order.

    An entry that is not understood, such as one with a sha512 digest, is no failure: nobody may have asked for it.

    Raises:
        UsageError: it is not an index.
    """
    value = parse_json(data, "the index")
    # Go writes an empty list that was never made as null.
    manifests = value.get("manifests", 0)
    if manifests is None:
        manifests = []
    if not isinstance(manifests, list):
        raise UsageError("the index has no list of manifests")
    return tuple(map(_entry, manifests))


def _entry(value: Any) -> Entry:
    try:
        return Entry(value, Descriptor.from_json(value))
    except UsageError as error:
        return Entry(value, None, error.message)


def parse_index(data: bytes) -> tuple[Descriptor, ...]:
    """Read the descriptors of an index that are understood here, in their order.

    Raises:
        UsageError: it is not an index.
    """
    return tuple(entry.descriptor for entry in index_entries(data) if entry.descriptor)


def parse_manifest(data: bytes) -> ImageManifest:
    """Read the config and layers of an image manifest.

    Raises:
        UsageError: it is not one.
    """
    value = parse_json(data, "the manifest")
    # An image may have no layers at all, and then no list of them either.
    layers = value.get("layers") or []
    if not isinstance(layers, list):
        raise UsageError("the manifest's `layers` are no list")
    return ImageManifest(Descriptor.from_json(value.get("config")), tuple(map(Descriptor.from_json, layers)))


def config_platform(data: bytes) -> Optional[Platform]:
    """Read the platform that an image config names; None for artifacts that are no images."""
    return Platform.from_json(parse_json(data, "the image config"))


def media_type_of(data: bytes, content_type: str) -> str:
    """Find the media type of a manifest: what it says itself, else what the registry said in Content-Type.

    OCI documents may leave the field out; then Content-Type is all there is, and without one, the form decides.

    Raises:
        UsageError: it is no manifest or index that can be carried, for instance Docker schema 1.
    """
    value = parse_json(data, "the manifest")
    media_type = value.get("mediaType")
    if not isinstance(media_type, str) or not media_type:
        media_type = content_type.partition(";")[0].strip()
    if media_type in (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST):
        return str(media_type)
    if value.get("schemaVersion") == 1:
        raise UsageError("the image is in Docker's schema 1, which no current registry serves: push it again")
    if media_type in ("", "application/json", "application/octet-stream", "text/plain"):
        if isinstance(value.get("manifests"), list):
            return OCI_INDEX
        if isinstance(value.get("layers"), list) or isinstance(value.get("config"), dict):
            return OCI_MANIFEST
    raise UsageError(f"the manifest has the media type `{str(media_type)[:100]}`: expected an image manifest or index")


def children(descriptor: Descriptor, data: bytes) -> tuple[Descriptor, ...]:
    """Return what a document refers to: an index its manifests, a manifest its config and layers, else nothing.

    Raises:
        UsageError: the document is not what its media type says.
    """
    if descriptor.is_index:
        return parse_index(data)
    if descriptor.is_manifest:
        manifest = parse_manifest(data)
        return (manifest.config, *manifest.layers)
    return ()


def walk(
    root: Descriptor, read: Callable[[Descriptor], bytes], has: Callable[[Descriptor], bool]
) -> Iterator[tuple[Descriptor, Optional[Descriptor]]]:
    """Go through everything below `root` with its parent (None for the root), parents before children.

    Children of an index that `has` denies are passed over: the index is sparse. Those of a manifest never are. `read`
    gives the bytes of an index or manifest. Content that several parents share comes once for each, what is below it
    once. What a manifest refers to is a leaf, whatever its media type says.
    """
    opened: set[Digest] = set()
    waiting: list[tuple[Descriptor, Optional[Descriptor]]] = [(root, None)]
    while waiting:
        descriptor, parent = waiting.pop()
        yield descriptor, parent
        opens = descriptor.is_index or descriptor.is_manifest
        if opens and (parent is None or parent.is_index) and descriptor.digest not in opened:
            opened.add(descriptor.digest)
            found = children(descriptor, read(descriptor))
            if descriptor.is_index:
                found = tuple(child for child in found if has(child))
            waiting.extend((child, descriptor) for child in reversed(found))
