"""Deltas: what the air-gapped host has already need not be carried again.

What it has is known from an earlier bundle (the archive, or its bundle.json), or from want.json, which `bundle want`
writes there. Manifests and configs, those of artifacts too, are small and always in the archive; only layers are left
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundler.planning.plan import Plan
from bundles.archive.manifest import Base, BundleManifest
from bundles.archive.reader import read_json_start, read_manifest
from bundles.archive.want import Want
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json, parse_manifest

# What Docker loads from the archive itself: all of an image or nothing.
_LOADED = frozenset({"registry", "buildkit", "buildx", "binfmt", "python"})


@dataclasses.dataclass(frozen=True)
class Known:
    """A base, and every manifest, config and layer that the host has when the base is installed there."""

    base: Base
    digests: frozenset[Digest]


def read_base(path: Path) -> Known:
    """Read an archive, its bundle.json, or a want.json.

    Raises:
        UsageError: it is none of these.
        ArchiveError: it is an archive, and a damaged one.
    """
    data = read_json_start(path)
    try:
        if data is not None and "want" in parse_json(data, "it"):
            want = Want.parse(parse_json(data, "it"))
            return Known(Base(want.name, Digest.of(data)), want.digests)
        return _known(*read_manifest(path))
    except UsageError as error:
        raise UsageError(
            f"the base `{path}` cannot be used: {error.message}",
            hint="give an archive, the bundle.json of one, or what `bundle want` wrote",
        ) from None


def _known(digest: Digest, manifest: BundleManifest) -> Known:
    """Let a delta stand for what it requires, too: it cannot have been installed without."""
    blobs = frozenset(blob.digest for blob in (*manifest.blobs, *manifest.required))
    return Known(Base(manifest.name, digest), blobs)


def subtract(plan: Plan, bases: Sequence[Known], *, with_python: bool = False) -> Plan:
    """Return the plan without the layers that the bases have.

    An image that Docker loads from the archive (registry, BuildKit, ...) is carried whole, or not at all when a base
    has it: Docker cannot load a part of an image. The Python image is loaded for each installation anew, so that hosts
    without a Python of their own need it in every archive: `with_python` carries it whatever the bases have.
    """
    known = frozenset().union(*(base.digests for base in bases))
    whole: set[Digest] = set()
    for image in (image for image in plan.images if image.role in _LOADED):
        for content in image.platforms:
            layers = {layer.digest for layer in parse_manifest(plan.document(content.manifest.digest)).layers}
            if (image.role == "python" and with_python) or content.manifest.digest not in known or not layers <= known:
                whole |= layers
    # Those of artifacts are fetched with the layers, because of their media types.
    configs = {parse_manifest(data).config.digest for descriptor, data in plan.documents if descriptor.is_manifest}
    left = [descriptor for descriptor, _ in plan.layers if descriptor.digest in known - whole - configs]
    digests = {descriptor.digest for descriptor in left}
    return dataclasses.replace(
        plan,
        layers=tuple(item for item in plan.layers if item[0].digest not in digests),
        bases=tuple(base.base for base in bases),
        required=tuple(left),
    )


def summary(plan: Plan) -> dict[str, Any]:
    """Say what is left to the bases, for `--json`: null without one."""
    if not plan.bases:
        return {"delta": None}
    bases = [{"name": base.name, "digest": str(base.digest)} for base in plan.bases]
    size = sum(blob.size for blob in plan.required)
    return {"delta": {"bases": bases, "requiredBlobs": len(plan.required), "requiredSize": size}}
