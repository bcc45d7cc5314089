"""Small real images, the same bytes every time: layers from a seeded generator, manifests, indexes, attestations."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index
from bundles.oci.platform import Platform

INDEX = {
    "oci": "application/vnd.oci.image.index.v1+json",
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
}
MANIFEST = {
    "oci": "application/vnd.oci.image.manifest.v1+json",
    "docker": "application/vnd.docker.distribution.manifest.v2+json",
}
CONFIG = {
    "oci": "application/vnd.oci.image.config.v1+json",
    "docker": "application/vnd.docker.container.image.v1+json",
}
LAYER = {
    "oci": "application/vnd.oci.image.layer.v1.tar+gzip",
    "docker": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


def noise(seed: Union[int, str], size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "little") if size else b""


def layer_tar(seed: Union[int, str], size: int = 20_000) -> bytes:
    """An uncompressed layer with one file of `size` bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(f"data/{seed}")
        member.size = size
        archive.addfile(member, io.BytesIO(noise(seed, size)))
    return buffer.getvalue()


def layer(seed: Union[int, str], size: int = 20_000) -> bytes:
    """A layer as registries keep it: tar and gzip."""
    return gzip.compress(layer_tar(seed, size), compresslevel=1, mtime=0)


class Content:
    """Content by digest, and the ways to make more of it."""

    def __init__(self) -> None:
        self.content: dict[Digest, bytes] = {}

    def add(self, media_type: str, data: bytes, platform: Optional[Platform] = None) -> Descriptor:
        """Keep `data`; gives its descriptor."""
        descriptor = Descriptor.of(media_type, data, platform)
        self.content[descriptor.digest] = data
        return descriptor

    def data(self, descriptor: Descriptor) -> bytes:
        """The bytes of a descriptor."""
        return self.content[descriptor.digest]

    def image(
        self,
        platform: Union[str, Platform] = "linux/amd64",
        layers: Union[int, Sequence[bytes]] = 2,
        kind: str = "oci",
        seed: Union[int, str] = 0,
        size: int = 20_000,
    ) -> Descriptor:
        """An image for one platform; gives its manifest, with the platform.

        Args:
            platform: what the config says.
            layers: how many, or the layers themselves.
            kind: `oci` or `docker`.
            seed: another one gives other layers.
            size: bytes of the file in each layer.
        """
        target = Platform.parse(platform) if isinstance(platform, str) else platform
        if isinstance(layers, int):
            layers = [layer(f"{seed}-{target}-{number}", size) for number in range(layers)]
        diffs = [str(Digest.of(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)) for data in layers]
        config = {**target.to_json(), "config": {"Cmd": ["/data"]}, "rootfs": {"type": "layers", "diff_ids": diffs}}
        return self.manifest(
            self.add(CONFIG[kind], _dump(config)), [self.add(LAYER[kind], data) for data in layers], kind, target
        )

    def manifest(
        self, config: Descriptor, layers: Iterable[Descriptor], kind: str = "oci", platform: Optional[Platform] = None
    ) -> Descriptor:
        """A manifest of this config and these layers, whatever they are."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST[kind],
            "config": config.to_json(),
            "layers": [each.to_json() for each in layers],
        }
        return self.add(MANIFEST[kind], _dump(value), platform)

    def index(self, *manifests: Descriptor, kind: str = "oci") -> Descriptor:
        """An index of manifests, or of indexes, in this order."""
        entries = [_entry(each) for each in manifests]
        return self.add(INDEX[kind], _dump({"schemaVersion": 2, "mediaType": INDEX[kind], "manifests": entries}))

    def attestation(self, subject: Descriptor) -> Descriptor:
        """An attestation manifest about `subject`, as BuildKit writes it; goes into an index after it."""
        config = self.add(CONFIG["oci"], _dump({"architecture": "unknown", "os": "unknown"}))
        statement = self.add("application/vnd.in-toto+json", _dump({"subject": str(subject.digest)}))
        manifest = self.manifest(config, [statement])
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": str(subject.digest),
        }
        return Descriptor(manifest.media_type, manifest.digest, manifest.size, None, annotations)

    def children(self, descriptor: Descriptor) -> list[Descriptor]:
        """What a manifest or index refers to."""
        if not (descriptor.is_index or descriptor.is_manifest):
            return []
        value = json.loads(self.data(descriptor))
        if descriptor.is_index:
            return list(parse_index(self.data(descriptor)))
        return [Descriptor.from_json(entry) for entry in (value["config"], *(value.get("layers") or ()))]


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    entry = descriptor.to_json()
    if descriptor.annotations:
        entry["annotations"] = dict(descriptor.annotations)
    if descriptor.is_attestation:
        entry["platform"] = {"architecture": "unknown", "os": "unknown"}
    return entry


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=3).encode()
