"""Other versions of images at the origin: the same layers, another config, and so other digests all the way up."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
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


def make_rootless(origin: str, layer: Path, tag: str = "buildx-stable-1") -> str:
    """Push the BuildKit that needs no privileges, as `TAG-rootless`, as moby/buildkit has it; gives its digest.

    `layer` is a tar with rootlesskit and what it calls.
    """
    repository, state = "moby/buildkit", "home/user/.local/share/buildkit"
    more = io.BytesIO()
    with tarfile.open(fileobj=more, mode="w") as files:
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"),
            ("etc/group", "root:x:0:\nuser:x:1000:\n"),
            ("etc/subuid", "user:100000:65536\n"),
            ("etc/subgid", "user:100000:65536\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            files.addfile(entry, io.BytesIO(text.encode()))
        with tarfile.open(layer) as programs:
            for program, capability in (("usr/bin/newuidmap", 1 << 7), ("usr/bin/newgidmap", 1 << 6)):
                # As root by its mode it would need rights over the namespace, which is the user's: Debian's does not
                # step back from root first, as that of moby/buildkit does.
                entry = programs.getmember(program)
                content = programs.extractfile(entry)
                entry.mode = 0o755
                right = struct.pack("<IIIII", 0x02000001, capability, 0, 0, 0).decode("utf-8", "surrogateescape")
                entry.pax_headers = {"SCHILY.xattr.security.capability": right}
                files.addfile(entry, content)
        for name in ("run/user/1000", "home/user", "home/user/.local", "home/user/.local/tmp",
                     "home/user/.local/share", state):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, 1000, 1000
            files.addfile(entry)
    layers = [layer.read_bytes(), more.getvalue()]
    with Transport(Settings(insecure=frozenset({origin}))) as transport:
        registry = Registry(transport, origin)
        _, data = registry.get_manifest(repository, tag)
        child = next(each for each in parse_index(data) if each.platform and each.platform.architecture == "amd64")
        descriptor, data = registry.get_manifest(repository, str(child.digest))
        value = json.loads(data)
        path = f"/v2/{repository}/blobs/{value['config']['digest']}"
        config = json.loads(transport.fetch("GET", origin, path, scope="", limit=1 << 20).data)
        config["rootfs"]["diff_ids"] += [str(Digest.of(content)) for content in layers]
        config["history"] = []
        settings = {"HOME": "/home/user", "USER": "user", "XDG_RUNTIME_DIR": "/run/user/1000",
                    "TMPDIR": "/home/user/.local/tmp",
                    "BUILDKIT_HOST": "unix:///run/user/1000/buildkit/buildkitd.sock"}  # fmt: skip
        config["config"].update(
            User="1000:1000", Entrypoint=["rootlesskit", "buildkitd"], Volumes={f"/{state}": {}},
            Env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                 *(f"{name}={text}" for name, text in settings.items())],
        )  # fmt: skip
        packed = [gzip.compress(content, 1, mtime=0) for content in layers]
        blobs = [*packed, json.dumps(config).encode()]
        for blob in blobs:
            registry.upload_blob(repository, Descriptor.of("application/octet-stream", blob), blob)
        kind = value["layers"][0]["mediaType"]
        value["layers"] += [Descriptor.of(kind, content).to_json() for content in packed]
        value["config"] = Descriptor.of(value["config"]["mediaType"], blobs[-1]).to_json()
        new = json.dumps(value).encode()
        made = Descriptor.of(descriptor.media_type, new)
        registry.put_manifest(repository, f"{tag}-rootless", made, new)
        return str(made.digest)


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
