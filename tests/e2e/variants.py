"""Other versions of images at the origin: the same layers, another config, and so other digests all the way up."""

from __future__ import annotations

import json

from bundles.oci.descriptor import Descriptor
from bundles.oci.image import parse_index, parse_manifest
from bundles.registry.transport import Settings, Transport
from installer.registry.client import Registry


def make_variant(origin: str, repository: str, tag: str, new_tag: str, note: str) -> str:
    """Push a version of `repository:tag` that says `note` in a label, as `new_tag`; gives its digest."""
    with Transport(Settings(insecure=frozenset({origin}))) as transport:
        registry = Registry(transport, origin)

        def manifest(child: Descriptor) -> Descriptor:
            descriptor, data = registry.get_manifest(repository, str(child.digest))
            path = f"/v2/{repository}/blobs/{parse_manifest(data).config.digest}"
            config = json.loads(transport.fetch("GET", origin, path, scope="", limit=1 << 20).data)
            config.setdefault("config", {})["Labels"] = {"note": note}
            new_config = json.dumps(config).encode()
            value = json.loads(data)
            value["config"] = {
                **value["config"],
                **Descriptor.of(value["config"]["mediaType"], new_config).to_json(),
            }
            new = json.dumps(value).encode()
            registry.upload_blob(repository, Descriptor.of("application/octet-stream", new_config), new_config)
            made = Descriptor.of(descriptor.media_type, new)
            registry.put_manifest(repository, str(made.digest), made, new)
            return made

        root, data = registry.get_manifest(repository, tag)
        if root.is_manifest:
            made = manifest(root)
            registry.put_manifest(repository, new_tag, *registry.get_manifest(repository, str(made.digest)))
            return str(made.digest)
        index = json.loads(data)
        for entry, child in zip(index["manifests"], parse_index(data)):
            entry.update(manifest(child).to_json())
        new_index = json.dumps(index).encode()
        descriptor = Descriptor.of(root.media_type, new_index)
        registry.put_manifest(repository, new_tag, descriptor, new_index)
        return str(descriptor.digest)


def make_wide(origin: str, repository: str, tag: str, new_tag: str) -> str:
    """Push an index with one platform more, which nothing stands behind, as `new_tag`; gives its digest.

    Whatever takes some of its platforms only has a sparse index, and no way to have it whole.
    """
    with Transport(Settings(insecure=frozenset({origin}))) as transport:
        registry = Registry(transport, origin)
        root, data = registry.get_manifest(repository, tag)
        index = json.loads(data)
        child, manifest = registry.get_manifest(repository, index["manifests"][0]["digest"])
        padded = manifest + b"\n"
        registry.put_manifest(repository, str(Descriptor.of(child.media_type, padded).digest),
                              Descriptor.of(child.media_type, padded), padded)  # fmt: skip
        platform = {"os": "linux", "architecture": "riscv64"}
        index["manifests"].append({**Descriptor.of(child.media_type, padded).to_json(), "platform": platform})
        new_index = json.dumps(index).encode()
        descriptor = Descriptor.of(root.media_type, new_index)
        registry.put_manifest(repository, new_tag, descriptor, new_index)
        return str(descriptor.digest)
