"""Descriptors and media types, per OCI image-spec v1.1 descriptor.md and Docker's image manifest v2, schema 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# The annotation BuildKit puts on attestation manifests, whose platform is unknown/unknown.
ATTESTATION_TYPE = "vnd.docker.reference.type"
ATTESTATION_DIGEST = "vnd.docker.reference.digest"


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """What content is: its media type, digest and size in bytes; in an index also its platform and annotations.

    `urls` are where else it may be had, and, of a layer that may not be in registries, the only places.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Optional[Platform] = None
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    urls: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def plain(self) -> Descriptor:
        """The descriptor of the content itself, without what an index says of it."""
        return Descriptor(self.media_type, self.digest, self.size)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        return self.media_type in MANIFEST_TYPES

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that registries need not have, as those of Windows are."""
        return ".foreign." in self.media_type or ".nondistributable." in self.media_type

    @property
    def attests(self) -> Optional[Digest]:
        """The digest of the manifest that this one is an attestation of, or None when it is no attestation."""
        if ATTESTATION_TYPE not in self.annotations:
            return None
        try:
            return Digest(self.annotations.get(ATTESTATION_DIGEST, ""))
        except UsageError:
            return None

    @property
    def is_attestation(self) -> bool:
        return ATTESTATION_TYPE in self.annotations

    @classmethod
    def of(cls, media_type: str, data: bytes, platform: Optional[Platform] = None) -> Descriptor:
        """The descriptor of `data`."""
        return cls(media_type, Digest.of(data), len(data), platform)

    @classmethod
    def from_json(cls, value: Any) -> Descriptor:
        """Read a descriptor object.

        Raises:
            UsageError: a field is missing or of the wrong kind. Callers name the document it came from.
        """
        if not isinstance(value, dict):
            raise UsageError(f"a descriptor is an object, got {type(value).__name__}")
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise UsageError("a descriptor has no mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise UsageError(f"a descriptor has the size `{str(size)[:40]}`: expected a number of bytes")
        annotations = value.get("annotations") or {}
        if isinstance(annotations, dict):
            # As Go reads them, null is a text that was never set.
            annotations = {key: text for key, text in annotations.items() if text is not None}
        if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
            raise UsageError("a descriptor has annotations that are not strings")
        platform = Platform.from_json(value.get("platform"))
        urls = value.get("urls") or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise UsageError("a descriptor has urls that are not strings")
        return cls(media_type, Digest(value.get("digest", "")), size, platform, annotations, tuple(urls))

    def to_json(self) -> dict[str, Any]:
        """The descriptor as an object of a manifest or index, annotations left out."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform:
            value["platform"] = self.platform.to_json()
        return value
