"""What a build was made of, as BuildKit's provenance says: SLSA v0.2 (materials) or v1 (resolvedDependencies)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional
from urllib.parse import parse_qs, unquote

from bundles.archive.tape.record import RecordedImage
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

_KEY = "buildx.build.provenance"
_IMAGE = "pkg:docker/"


@dataclasses.dataclass(frozen=True)
class Materials:
    """What a build took: images, downloads with the digests that they had, and what is neither, such as git."""

    images: tuple[RecordedImage, ...]
    downloads: tuple[tuple[str, Digest], ...]
    others: tuple[str, ...]


def materials(metadata: bytes) -> Materials:
    """Read the file that `docker buildx build --metadata-file` or `bake` wrote.

    Raises:
        UsageError: it has no provenance, or one that is not understood.
    """
    platforms: dict[tuple[Reference, Digest], set[Platform]] = {}
    downloads: dict[tuple[str, Digest], None] = {}
    others: dict[str, None] = {}
    provenances = list(_provenances(parse_json(metadata, "the build's metadata")))
    if not provenances:
        raise UsageError(
            "the build says nothing of what it was made of", hint="update buildx: docker buildx version (0.12 or later)"
        )
    for provenance in provenances:
        for uri, digest in _materials(provenance):
            if digest is None:
                others[uri] = None
            elif uri.startswith(_IMAGE):
                reference, platform = _image(uri, digest)
                platforms.setdefault((reference, digest), set()).update(platform)
            elif uri.startswith(("http://", "https://")):
                downloads[uri, digest] = None
            else:
                others[uri] = None
    return Materials(_images(platforms), tuple(downloads), tuple(others))


def united(several: Iterable[Materials]) -> Materials:
    """Return what several builds took together."""
    found = list(several)
    platforms: dict[tuple[Reference, Digest], set[Platform]] = {}
    for image in (image for each in found for image in each.images):
        platforms.setdefault((image.reference, image.digest), set()).update(image.platforms)
    return Materials(
        _images(platforms),
        tuple(dict.fromkeys(download for each in found for download in each.downloads)),
        tuple(dict.fromkeys(other for each in found for other in each.others)),
    )


def _images(platforms: Mapping[tuple[Reference, Digest], set[Platform]]) -> tuple[RecordedImage, ...]:
    images = [RecordedImage(*key, tuple(sorted(found))) for key, found in platforms.items()]
    return tuple(sorted(images, key=lambda image: (image.reference, image.digest)))


def _provenances(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Find them: one, one for each platform, and with Bake those of each target below its name."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            if key.partition("/")[0] == _KEY:
                yield inner
            else:
                yield from _provenances(inner)


def _materials(provenance: dict[str, Any]) -> Iterator[tuple[str, Optional[Digest]]]:
    """Go through what has an address; a commit of git has no sha256."""
    definition = provenance.get("buildDefinition") or {}
    for material in provenance.get("materials") or definition.get("resolvedDependencies") or ():
        digest = (material.get("digest") or {}).get("sha256")
        if material.get("uri"):
            yield material["uri"], Digest(f"sha256:{digest}") if digest else None


def _image(uri: str, digest: Digest) -> tuple[Reference, list[Platform]]:
    """Read a package URL of an image: pkg:docker/NAME@TAG?platform=linux%2Famd64&digest=sha256:..."""
    name, _, query = uri[len(_IMAGE) :].partition("?")
    name, _, version = unquote(name).rpartition("@") if "@" in name else (unquote(name), "", "")
    qualifiers = parse_qs(query)
    tag = f"@{digest}" if not version or version.startswith("sha256:") else f":{version}"
    return Reference.parse(name + tag), [Platform.parse(text) for text in qualifiers.get("platform", ())]
