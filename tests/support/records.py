"""Records as `bundle record` writes them, of content that tests choose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.archive.tape.answer import Answer, Tape, media_type_of
from bundles.archive.tape.manifest import manifest_of
from bundles.archive.tape.record import Recorded, RecordedBuild, RecordedImage
from bundles.oci.descriptor import OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))


def answer(url: str, body: bytes, content_type: str = "text/plain", **more: Any) -> Answer:
    """An answer to GET with that body."""
    content = Descriptor.of(media_type_of(content_type), body)
    return Answer("GET", url, 200, {"content-type": content_type}, content, **more)


@dataclasses.dataclass(frozen=True)
class RecordMaker:
    """A record to write: bodies by URL, or answers without their contents, layers of its cache, images by name."""

    name: str = "app"
    pages: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    images: Mapping[str, Digest] = dataclasses.field(default_factory=dict)
    cache: Optional[Sequence[bytes]] = None
    answers: Optional[Tape] = None
    notes: tuple[str, ...] = ()

    @property
    def recorded(self) -> Recorded:
        images = tuple(RecordedImage(Reference.parse(name), digest, PLATFORMS) for name, digest in self.images.items())
        build = RecordedBuild(self.name, "Dockerfile", None, PLATFORMS)
        return Recorded(self.name, "v0.34.2", PLATFORMS, images, self.notes, (build,))

    @property
    def tape(self) -> Tape:
        return self.answers or Tape(answer(url, body) for url, body in self.pages.items())

    def write(self, path: Path) -> Path:
        """Write it."""
        recorded, tape = self.recorded, self.tape
        blobs = [recorded.to_bytes(), tape.to_bytes(), *self.pages.values(), *(self.cache or ())]
        manifest = manifest_of(tape, recorded)
        entries = [_entry(manifest, "tape")]
        blobs.append(manifest)
        if self.cache is not None:
            config, cache = cache_of(self.cache)
            entries.append(_entry(cache, f"cache-{self.name}"))
            blobs += [config, cache]
        write_layout(path, blobs, entries)
        (path / "record.json").write_bytes(recorded.to_bytes())
        return path


def cache_of(layers: Sequence[bytes]) -> tuple[bytes, bytes]:
    """A build cache with image-manifest=true: its config and its manifest."""
    config = json.dumps({"layers": [{"blob": str(Digest.of(data))} for data in layers], "records": []}).encode()
    listed = [Descriptor.of("application/vnd.oci.image.layer.v1.tar+gzip", data).to_json() for data in layers]
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(CACHE_CONFIG, config).to_json(),
        "layers": listed,
    }
    return config, json.dumps(value).encode()


def write_layout(path: Path, blobs: Sequence[bytes], entries: Sequence[dict[str, Any]]) -> None:
    """Write an OCI image layout."""
    (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    for data in blobs:
        (path / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(entries)}))


def _entry(manifest: bytes, name: str) -> dict[str, Any]:
    value = Descriptor.of(OCI_MANIFEST, manifest).to_json()
    return {**value, "annotations": {"org.opencontainers.image.ref.name": name}}
