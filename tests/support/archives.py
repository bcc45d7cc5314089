"""Small real archives, made without a registry: images with generated layers, resolved from memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional, Union

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.plan import Plan
from bundler.planning.resolve import resolve
from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundler.writing.contents import Contents, compose
from bundler.writing.writer import ArchiveWriter, Written
from bundles.errors import NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from tests.support.images import Content, layer

PROGRAM = b"PK\x05\x06" + bytes(18)  # an empty zip
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


class ContentStream(BlobStream):
    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return Endpoint("memory")

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        piece = self._data[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        pass


class ContentSource(Source):
    """Images in memory, under the names that `tags` gives them."""

    def __init__(self, content: Content, tags: Mapping[str, Descriptor]) -> None:
        self._content = content
        self._tags = {Reference.parse(name): descriptor for name, descriptor in tags.items()}

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        found = self._tags.get(reference)
        if found is None and reference.digest in self._content.content:
            data = self._content.content[reference.digest]
            found = next((each for each in self._all() if each.digest == reference.digest), None)
        if found is None:
            raise NotFoundError(f"`{reference}` is not here")
        data = self._content.data(found)
        return Descriptor.of(found.media_type, data), data

    def _all(self) -> list[Descriptor]:
        waiting, found = list(self._tags.values()), []
        while waiting:
            descriptor = waiting.pop()
            found.append(descriptor)
            if descriptor.digest in self._content.content:
                waiting += self._content.children(descriptor)
        return found

    def open_blob(self, request: BlobRequest) -> BlobStream:
        return ContentStream(self._content.data(request.descriptor)[request.offset :])

    def cancel(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Made:
    """Images to bundle, the bytes of their layers, and what was asked for and of whom."""

    plan: Plan
    layers: Mapping[Digest, bytes]
    source: Source
    spec: Spec

    def contents(self, name: str = "test", host: Platform = AMD64) -> Contents:
        spec = Spec(name, (AMD64, ARM64), (host,), (), {}, False)
        return compose(spec, self.plan, PROGRAM)

    def write(self, path: Path, contents: Optional[Contents] = None, split: Optional[int] = None) -> Written:
        with ArchiveWriter(path, contents or self.contents(), split) as writer:
            return self.fill(writer)

    def fill(self, writer: ArchiveWriter) -> Written:
        """Give the writer every layer, and end it."""
        for descriptor in writer.layers:
            sink = writer.sink(descriptor)
            sink.write(memoryview(self.layers[descriptor.digest])[sink.position :])
            assert sink.finish()
        return writer.finish()


@dataclasses.dataclass(frozen=True)
class image:
    """An image whose layers come from `seeds`, under one index; the `absent` platforms are listed and not taken."""

    name: str
    role: str = "base"
    platforms: Sequence[Platform] = (AMD64, ARM64)
    seeds: Sequence[int] = (1, 2)
    absent: Sequence[Platform] = ()


def made(*images: image) -> Made:
    """Several images as one plan."""
    content = Content()
    tags = {}
    for each in images:
        manifests = [
            content.image(platform, [layer(f"{seed}-{platform}") for seed in each.seeds])
            for platform in (*each.platforms, *each.absent)
        ]
        tags[each.name] = content.index(*manifests)
    source = ContentSource(content, tags)
    wanted = tuple(ImageRequest(Reference.parse(each.name), each.role, tuple(each.platforms)) for each in images)
    spec = Spec("test", (AMD64, ARM64), (AMD64,), wanted, {}, False)
    plan = resolve(spec, source)
    layers = {descriptor.digest: content.data(descriptor) for descriptor, _ in plan.layers}
    return Made(plan, layers, source, spec)


def example() -> Made:
    """Two base images that share layers, one of them sparse, and a registry image."""
    return made(
        image("registry:3", "registry", (AMD64,), (9,)),
        image("debian:12", seeds=(1,)),
        image("ghcr.io/team/gcc:12", seeds=(1, 2), absent=(Platform("linux", "arm", "v7"),)),
    )
