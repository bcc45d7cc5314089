"""From a plan to an archive's contents: bundle.json, index.json, manifest.json. All deterministic."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, Optional

import bundles
from bundler.definition.spec import Spec
from bundler.planning.plan import Plan
from bundler.writing.install_script import Bootstrap, fill_in
from bundles.archive.layout import Layout
from bundles.archive.manifest import BundleManifest, File
from bundles.oci.descriptor import OCI_INDEX
from bundles.oci.digest import Digest
from bundles.oci.image import ImageManifest, parse_manifest
from bundles.oci.reference import Reference


def compose(spec: Spec, plan: Plan, program: bytes, *, signed: bool = False) -> Contents:
    """Put together everything that is in the archive but the layers.

    Args:
        spec: what was asked for.
        plan: what that is.
        program: the zip that follows the tar.
        signed: whether bundle.json gets a signature; the contents have it once `Contents.signature` is set.
    """
    bootstrap = Bootstrap(plan)
    files = {"index.json": _index(plan), "manifest.json": _docker_archive(plan), **bootstrap.files(None)}
    manifest = BundleManifest(
        name=spec.name,
        tool_version=bundles.__version__,
        platforms=spec.platforms,
        host_platforms=spec.host_platforms,
        images=plan.images,
        files=tuple(File(name, Digest.of(data), len(data)) for name, data in files.items()),
        blobs=(*(descriptor for descriptor, _ in plan.documents), *(descriptor for descriptor, _ in plan.layers)),
        program=File("program.zip", Digest.of(program), len(program)),
        bases=plan.bases,
        required=plan.required,
        signed=signed,
    )
    manifest, files = fill_in(manifest, files, bootstrap)
    documents = {descriptor.digest: data for descriptor, data in plan.documents}
    return Contents(manifest, files, documents, program)


def _index(plan: Plan) -> bytes:
    """Write the index.json of the OCI image layout: each image under its full reference.

    `org.opencontainers.image.ref.name` is what skopeo, crane, regctl and umoci look for, `io.containerd.image.name`
    what containerd and a Docker with the containerd image store look for.
    """
    manifests: list[dict[str, Any]] = []
    for image in plan.images:
        names = {
            "io.containerd.image.name": str(image.reference),
            "org.opencontainers.image.ref.name": str(image.reference),
        }
        manifests.append({**image.root.to_json(), "annotations": names})
    return _dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _docker_archive(plan: Plan) -> bytes:
    """Write the manifest.json of `docker save`: the registry image of each host platform, so that `docker load` works.

    An image of which a delta leaves layers to its base is not in it: `docker load` could do nothing with it.

    With several host platforms the first one has the plain tag, as Docker's tags hold one image each; the others carry
    their architecture behind the tag.
    """
    required = {descriptor.digest for descriptor in plan.required}
    entries = []
    for image in plan.images:
        if image.role == "registry":
            for position, content in enumerate(image.platforms):
                manifest = parse_manifest(plan.document(content.manifest.digest))
                if any(layer.digest in required for layer in manifest.layers):
                    continue
                suffix = f"-{str(content.platform).replace('/', '-')}" if position else ""
                entries.append(_docker_image(image.reference, manifest, suffix))
    return _dump(entries)


def _docker_image(reference: Reference, manifest: ImageManifest, suffix: str) -> dict[str, Any]:
    tags = [f"{reference.name.removeprefix('docker.io/library/')}:{reference.tag}{suffix}"] if reference.tag else []
    return {
        "Config": manifest.config.digest.blob_path,
        "RepoTags": tags,
        "Layers": [layer.digest.blob_path for layer in manifest.layers],
    }


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


@dataclasses.dataclass(frozen=True)
class Contents:
    """All of an archive but its layers: `files`, `documents` (manifests and configs) and `program` as raw bytes.

    `signature` is the one of `manifest_bytes` where the manifest says that it is signed: what else there is does not
    depend on it.
    """

    manifest: BundleManifest
    files: Mapping[str, bytes]
    documents: Mapping[Digest, bytes]
    program: bytes
    signature: Optional[bytes] = None

    @functools.cached_property
    def manifest_bytes(self) -> bytes:
        """bundle.json."""
        return self.manifest.to_bytes()

    @functools.cached_property
    def digest(self) -> Digest:
        """The digest of bundle.json, which names the bundle."""
        return Digest.of(self.manifest_bytes)

    @functools.cached_property
    def layout(self) -> Layout:
        """Where everything is in the archive."""
        return self.manifest.layout(len(self.manifest_bytes))
