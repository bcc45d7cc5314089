"""Small real archives, made without a registry: images with generated layers, resolved by hand."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.compose import compose
from bundler.plan import Plan, Resolved
from bundler.spec import Spec
from bundles.descriptor import Descriptor
from bundles.digest import Digest
from bundles.manifest import Image, PlatformContent
from bundles.platform import Platform
from bundles.reference import Reference
from bundles.writer import ArchiveWriter, Contents, Written

OCI = {
    "index": "application/vnd.oci.image.index.v1+json",
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar+gzip",
}
PROGRAM = b"PK\x05\x06" + bytes(18)  # an empty zip
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@dataclasses.dataclass(frozen=True)
class Made:
    """Images to bundle, and the bytes of their layers."""

    plan: Plan
    layers: Mapping[Digest, bytes]

    def contents(self, name: str = "test") -> Contents:
        spec = Spec(name, (AMD64, ARM64), (AMD64,), (), {}, False)
        return compose(spec, self.plan, PROGRAM)

    def write(self, path: Path) -> Written:
        with ArchiveWriter(path, self.contents()) as writer:
            for layer in writer.layers:
                sink = writer.sink(layer)
                sink.write(memoryview(self.layers[layer.digest])[sink.position :])
                assert sink.finish()
            return writer.finish()


def layer(seed: int, size: int = 20_000) -> bytes:
    """A gzipped tar with one file of random bytes: always the same for a seed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"data-{seed}")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(seed).randbytes(size)))
    return gzip.compress(buffer.getvalue(), mtime=0)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def image(
    name: str,
    role: str = "base",
    platforms: Sequence[Platform] = (AMD64, ARM64),
    seeds: Sequence[int] = (1, 2),
    *,
    absent: Sequence[Platform] = (),
) -> tuple[Resolved, dict[Digest, bytes]]:
    """An image whose layers come from `seeds`, one index for all platforms; the `absent` ones are only listed."""
    documents: dict[Descriptor, bytes] = {}
    layers: dict[Digest, bytes] = {}
    places: dict[Descriptor, Reference] = {}
    taken: list[PlatformContent] = []
    listed: list[Descriptor] = []
    reference = Reference.parse(name)
    for platform in (*platforms, *absent):
        content = [layer(seed * 1000 + len(platform.architecture)) for seed in seeds]
        descriptors = [Descriptor.of(OCI["layer"], data) for data in content]
        config_data = dump({**platform.to_json(), "rootfs": {"type": "layers", "diff_ids": []}, "n": list(seeds)})
        config = Descriptor.of(OCI["config"], config_data)
        data = dump(
            {
                "schemaVersion": 2,
                "mediaType": OCI["manifest"],
                "config": config.to_json(),
                "layers": [descriptor.to_json() for descriptor in descriptors],
            }
        )
        manifest = Descriptor.of(OCI["manifest"], data)
        listed.append(dataclasses.replace(manifest, platform=platform))
        if platform in absent:
            continue
        documents.update({manifest: data, config: config_data})
        layers.update({descriptor.digest: raw for descriptor, raw in zip(descriptors, content)})
        places.update({descriptor: reference for descriptor in descriptors})
        size = config.size + sum(descriptor.size for descriptor in descriptors)
        taken.append(PlatformContent(platform, manifest, size))
    index = dump({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": [entry.to_json() for entry in listed]})
    root = Descriptor.of(OCI["index"], index)
    documents[root] = index
    resolved = Resolved(Image(reference, role, root, tuple(taken), bool(absent)), documents, places)
    return resolved, layers


def made(*images: tuple[Resolved, dict[Digest, bytes]]) -> Made:
    """Several images as one plan."""
    layers: dict[Digest, bytes] = {}
    for _, content in images:
        layers.update(content)
    return Made(Plan.of(resolved for resolved, _ in images), layers)


def example() -> Made:
    """Two base images that share layers, one of them sparse, and a registry image."""
    return made(
        image("registry:3", "registry", (AMD64,), (9,)),
        image("debian:12", seeds=(1,)),
        image("ghcr.io/team/gcc:12", seeds=(1, 2), absent=(Platform("linux", "arm", "v7"),)),
    )
