"""Layers with addresses of their own, made ordinary ones, as their images need it where there is no network.

A registry refuses the manifest of such a layer unless it is configured otherwise (distribution 2 and 3 do), and
containerd and BuildKit ask the addresses before any registry. So the manifests lose them, and their digests change.
"""

from __future__ import annotations

import dataclasses

from bundler.planning.plan import Plan
from bundler.planning.recompress import Rewriting
from bundler.sources.spool import SpooledSource
from bundles.archive.manifest import Image
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest

_ORDINARY = {
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "application/vnd.oci.image.layer.v1.tar",
}


def with_ordinary_layers(plan: Plan, source: SpooledSource) -> Plan:
    """Return the plan in which no layer of a base image has addresses; its new documents are served by `source`."""
    documents = {known.digest: (known, data) for known, data in plan.documents}
    resolved = [Rewriting(image, plan, documents, _ordinary(plan, image)).rewrite(source) for image in plan.images]
    result = Plan.of(resolved)
    notes = [
        f"{new.reference.familiar}: {old.root.digest} became {new.root.digest}, of which no layer has addresses; "
        "signatures of the old one do not apply"
        for old, new in zip(plan.images, result.images)
        if old.root.digest != new.root.digest
    ]
    return dataclasses.replace(result, notes=(*plan.notes, *notes), local=plan.local)


def _ordinary(plan: Plan, image: Image) -> dict[Digest, Descriptor]:
    """Describe the layers of an image that have addresses as if they had none."""
    return {
        layer.digest: Descriptor(_ordinary_type(layer.media_type), layer.digest, layer.size)
        for content in image.platforms
        for layer in parse_manifest(plan.document(content.manifest.digest)).layers
        if layer.urls or layer.is_foreign
    }


def _ordinary_type(media_type: str) -> str:
    for name, ordinary in _ORDINARY.items():
        if media_type == name or media_type.startswith((f"{name}+", f"{name}.")):
            return ordinary + media_type[len(name) :].replace(".", "+", 1)
    return media_type
