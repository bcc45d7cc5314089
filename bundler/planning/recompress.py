"""`create --recompress zstd`: gzip layers of base images as zstd. An explicit choice, because it changes digests.

The toolchain stays what it is: Docker before 23.0 cannot load zstd layers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from bundler.definition.spec import Compression
from bundler.planning.plan import Plan, Resolved
from bundler.sources import zstd
from bundler.sources.docker_save import OCI_ZSTD_LAYER, ZSTD_NOTE, dump
from bundler.sources.source import BlobRequest, BlobStream
from bundler.sources.spool import Hashed, Local, Spool, SpooledSource
from bundles.archive.manifest import Image
from bundles.errors import ContentError
from bundles.oci.descriptor import (
    ATTESTATION_DIGEST,
    CONFIG_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
)
from bundles.oci.digest import Digest
from bundles.oci.image import index_entries, parse_json, parse_manifest, walk
from bundles.oci.reference import Reference
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size
from bundles.runtime.workers import in_parallel

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# What may be recompressed, and what it is called in an OCI manifest when it is not.
_OCI_NAMES = {
    OCI_LAYER: OCI_LAYER,
    f"{OCI_LAYER}+gzip": f"{OCI_LAYER}+gzip",
    _DOCKER_LAYER: OCI_LAYER,
    f"{_DOCKER_LAYER}.gzip": f"{OCI_LAYER}+gzip",
}


@dataclasses.dataclass(frozen=True)
class Recompressed:
    """The plan with smaller layers; `saved` is in bytes, `digests` has the old and the new one of each image."""

    plan: Plan
    saved: int
    digests: Mapping[Reference, tuple[Digest, Digest]]

    def to_json(self) -> dict[str, Any]:
        images = [
            {"reference": str(reference), "from": str(old), "to": str(new)}
            for reference, (old, new) in self.digests.items()
        ]
        return {"savedBytes": self.saved, "images": images}

    def notes(self) -> Sequence[str]:
        """Say what people should know of it."""
        if not self.digests:
            return ["recompressing changed nothing: no layer became smaller"]
        return [
            *(f"{reference.familiar}: {old} became {new}" for reference, (old, new) in self.digests.items()),
            "signatures of these images are of the old digests: they do not apply to the new ones",
            f"recompressing saved {human_size(self.saved)}",
            ZSTD_NOTE,
        ]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer to recompress, the repository that has it, and the digest of its content when that is known."""

    descriptor: Descriptor
    repository: Reference
    diff_id: Optional[str]


def recompress(
    plan: Plan, source: SpooledSource, compression: Compression, progress: Progress, workers: int
) -> Recompressed:
    """Fetch the base images' gzip layers and keep each as zstd where that is smaller; their manifests follow.

    Args:
        plan: what would be bundled.
        source: where layers come from, and where the new ones are kept.
        compression: how they are compressed.
        progress: is told of the bytes that were recompressed.
        workers: layers at once.

    Raises:
        NetworkError: a layer cannot be had, or its content is not what its image's config says. Then, as after any
            other error, `source` is cancelled.
    """
    layers = _layers(plan)
    with progress.task("recompress", sum(layer.descriptor.size for layer in layers)) as task:

        def one(layer: _Layer) -> Descriptor:
            made = _recompress(layer, source, compression)
            task.advance(layer.descriptor.size)
            return made

        made = in_parallel(one, layers, workers, source.cancel)
    smaller = {layer.descriptor.digest: new for layer, new in zip(layers, made) if new.size < layer.descriptor.size}
    documents = {known.digest: (known, data) for known, data in plan.documents}
    resolved = [Rewriting(image, plan, documents, smaller).rewrite(source) for image in plan.images]
    result = dataclasses.replace(Plan.of(resolved), notes=plan.notes, local=plan.local)
    digests = {
        old.reference: (old.root.digest, new.root.digest)
        for old, new in zip(plan.images, result.images)
        if old.root.digest != new.root.digest
    }
    return Recompressed(result, plan.layer_size - result.layer_size, digests)


def _layers(plan: Plan) -> list[_Layer]:
    known = {layer.digest: (layer, repository) for layer, repository in plan.layers}
    # The archive has these anyway: beside them, smaller ones of the same content would only be more.
    stays = {
        layer.digest
        for image in plan.images
        if image.role != "base"
        for content in image.platforms
        for layer in parse_manifest(plan.document(content.manifest.digest)).layers
    }
    layers: dict[Digest, _Layer] = {}
    for image in plan.images:
        for content in image.platforms if image.role == "base" else ():
            manifest = parse_manifest(plan.document(content.manifest.digest))
            if manifest.config.media_type not in CONFIG_TYPES:
                continue
            config = parse_json(plan.document(manifest.config.digest), "the image config")
            diff_ids = _diff_ids(config, content.manifest.digest)
            for position, layer in enumerate(manifest.layers):
                if layer.media_type in _OCI_NAMES and layer.digest in known and layer.digest not in stays:
                    diff_id = diff_ids[position] if position < len(diff_ids) else None
                    planned, repository = known[layer.digest]
                    described = dataclasses.replace(layer, urls=planned.urls)
                    layers.setdefault(layer.digest, _Layer(described, repository, diff_id))
    return [layers[digest] for digest in sorted(layers)]


def _diff_ids(config: Mapping[str, Any], manifest: Digest) -> list[str]:
    """Return the digests of the layers' contents, as far as the config has them.

    Raises:
        ContentError: what stands there is something else.
    """
    rootfs = config.get("rootfs") or {}
    diff_ids = rootfs.get("diff_ids") or [] if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(isinstance(diff_id, str) for diff_id in diff_ids):
        raise ContentError(f"the config of {manifest} has a `rootfs` that is none: expected an object with `diff_ids`")
    return diff_ids


def _recompress(layer: _Layer, source: SpooledSource, compression: Compression) -> Descriptor:
    what = f"the layer {layer.descriptor.digest} of `{layer.repository.familiar}`"
    origin = f"{layer.descriptor.digest.hex}-{compression.level}"
    # The name of what an earlier run left is only a claim: it becomes a layer when it holds what the config says.
    kept = source.spool.take_up(OCI_ZSTD_LAYER, origin) if layer.diff_id else None
    if kept and _content(source.spool, kept) == layer.diff_id:
        return kept
    with source.open_blob(BlobRequest(layer.repository, layer.descriptor)) as stream:
        came = Hashed(_pieces(stream))
        content = Hashed(zstd.decompress(iter(came), what))
        made = source.spool.add(OCI_ZSTD_LAYER, zstd.compress(iter(content), compression))
    if came.digest != layer.descriptor.digest:
        raise ContentError(f"{what} came with the digest {came.digest}")
    if layer.diff_id is not None and str(content.digest) != layer.diff_id:
        raise ContentError(f"{what} holds {content.digest}, and its image's config says {layer.diff_id}")
    source.spool.keep(made.digest, origin)
    return made


def _pieces(stream: BlobStream) -> Iterator[bytes]:
    def read(size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: stream.readinto(buffer)])

    return zstd.chunks(read)


def _content(spool: Spool, layer: Descriptor) -> Optional[str]:
    """Return the digest of what a zstd layer holds; None when it is none."""
    with spool.open(layer.digest, 0) as stream:
        try:
            content = Hashed(zstd.read_frame(_pieces(stream)))
            for _ in content:
                pass
        except ContentError:
            return None
    return str(content.digest)


class Rewriting:
    """One image with new layers, and so with a new manifest for each platform and a new index."""

    def __init__(
        self,
        image: Image,
        plan: Plan,
        documents: Mapping[Digest, tuple[Descriptor, bytes]],
        smaller: Mapping[Digest, Descriptor],
    ) -> None:
        self._image, self._old = image, documents
        self._smaller = smaller if image.role == "base" else {}
        self._layers = {layer.digest: (layer, repository) for layer, repository in plan.layers}
        self._manifests = {content.manifest.digest for content in image.platforms}
        self._documents: dict[Descriptor, bytes] = {}
        self._moved: dict[Digest, Descriptor] = {}

    def rewrite(self, source: SpooledSource) -> Resolved:
        """Return the image as it is bundled; its new documents are served by `source` too."""
        image = self._image
        root = self._document(image.root)
        contents = []
        for content in image.platforms:
            manifest = self._document(content.manifest)
            parsed = parse_manifest(self._documents[manifest])
            sizes = {layer.digest: layer.size for layer in parsed.layers}
            size = parsed.config.size + sum(sizes.values())
            contents.append(dataclasses.replace(content, manifest=manifest, content_size=size))
        changed = root.digest != image.root.digest
        if changed:
            image = dataclasses.replace(image, root=root, sparse=False)
        image = dataclasses.replace(image, platforms=tuple(contents))
        if changed:
            source.add(image.reference, Local(root, self._documents))
        return Resolved(image, self._documents, dict(self._blobs(root)))

    def _blobs(self, root: Descriptor) -> Iterator[tuple[Descriptor, Reference]]:
        known = {descriptor.digest: data for descriptor, data in self._documents.items()}
        for blob, _ in walk(root, lambda item: known[item.digest], lambda item: item.digest in known):
            if blob.digest not in known:
                planned, repository = self._layers.get(blob.digest, (blob.plain, self._image.reference))
                yield dataclasses.replace(blob.plain, urls=planned.urls), repository

    def _document(self, descriptor: Descriptor) -> Descriptor:
        """Take over a document and all below it; gives its descriptor as it is now."""
        if descriptor.digest in self._moved:
            return self._moved[descriptor.digest]
        described, data = self._old[descriptor.digest]
        if described.is_index:
            data = self._index(data)
        elif described.is_manifest:
            data = self._manifest(data)
        if data != self._old[descriptor.digest][1]:
            described = Descriptor.of(OCI_INDEX if described.is_index else OCI_MANIFEST, data)
        self._documents[described] = data
        self._moved[descriptor.digest] = described
        return described

    def _manifest(self, data: bytes) -> bytes:
        manifest = parse_manifest(data)
        if manifest.config.digest in self._old:
            self._document(manifest.config)
        if not any(layer.digest in self._smaller for layer in manifest.layers):
            return data
        value = json.loads(data)
        value["mediaType"] = OCI_MANIFEST
        value["config"]["mediaType"] = OCI_CONFIG
        for layer in value["layers"]:
            new = self._smaller.get(Digest(layer["digest"]))
            if new is not None:
                layer.update(new.to_json())
                layer.pop("urls", None)  # they lead to the old one
            else:
                layer["mediaType"] = _OCI_NAMES.get(layer["mediaType"], layer["mediaType"])
        return dump(value)

    def _is_ours(self, child: Descriptor) -> bool:
        """Tell whether a child of an index is bundled with this image; another image may be of the same index."""
        return child.digest in self._old and (child.is_index or (child.attests or child.digest) in self._manifests)

    def _index(self, data: bytes) -> bytes:
        """Rewrite the index of what is bundled: it changes anyway, so that what is left out is left out of it too."""
        value = json.loads(data)
        kept: list[dict[str, Any]] = []
        moved: dict[str, str] = {}
        for child, entry in zip(value["manifests"] or (), index_entries(data)):
            described = entry.descriptor
            if described and self._is_ours(described):
                new = self._document(described)
                moved[child["digest"]] = str(new.digest)
                kept.append({**child, "mediaType": new.media_type, "digest": str(new.digest), "size": new.size})
        if all(old == new for old, new in moved.items()):
            return data
        for child in kept:
            annotations = child.get("annotations") or {}
            if annotations.get(ATTESTATION_DIGEST) in moved:
                annotations[ATTESTATION_DIGEST] = moved[annotations[ATTESTATION_DIGEST]]
        return dump({**value, "mediaType": OCI_INDEX, "manifests": kept})
