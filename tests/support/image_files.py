"""Files that hold images, as other tools write them: OCI layouts, docker save's archives, hauler's hauls."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import zstandard

from bundles.oci.descriptor import Descriptor
from tests.support.images import Content

REF_NAME, IMAGE_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"
# Nothing but what files have: no toolchain, and so no registry.
ALONE = tuple(
    word for role in ("registry", "buildkit", "buildx", "binfmt", "frontend", "python") for word in ("--without", role)
)
Files = dict[str, bytes]


def layout(content: Content, *entries: tuple[Descriptor, Mapping[str, str]]) -> Files:
    """The files of an OCI image layout: all content, and an index.json with these entries and their annotations."""
    manifests = [{**descriptor.to_json(), "annotations": dict(annotations)} for descriptor, annotations in entries]
    index = {"schemaVersion": 2, "manifests": manifests}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    return {**files, **{digest.blob_path: data for digest, data in content.content.items()}}


def haul(content: Content, *entries: tuple[Descriptor, str, str], prefix: str = "dev.hauler/") -> Files:
    """The files of hauler's store: entries have a name and a kind. Without `oci-layout`, as --containerd leaves it."""
    described = [
        (root, {"kind": prefix + kind, IMAGE_NAME: f"index.{name}", REF_NAME: name.partition("/")[2]})
        for root, name, kind in entries
    ]
    files = layout(content, *described)
    del files["oci-layout"]
    return {**files, "manifest.json": b"[]", "store.json": b'{"store-id":"1"}'}


def saved(
    *images: tuple[Sequence[str], Sequence[bytes]], architecture: str = "amd64", suffix: str = "/layer.tar"
) -> Files:
    """The files of `docker save` before 25.0: each image has tags and layers, raw or gzip."""
    files: Files = {}
    entries = []
    for tags, layers in images:
        diffs = ["sha256:" + hashlib.sha256(_raw(data)).hexdigest() for data in layers]
        config = json.dumps(
            {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diffs}}
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        names = [f"{hashlib.sha256(data).hexdigest()}{suffix}" for data in layers]
        files.update({name: config, **dict(zip(names, layers))})
        entries.append({"Config": name, "RepoTags": list(tags) or None, "Layers": names})
    return {**files, "manifest.json": json.dumps(entries).encode()}


def _raw(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def tar(files: Mapping[str, bytes], links: Optional[Mapping[str, str]] = None, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of files, and of symbolic links to where they lead."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def write_directory(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a directory."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def packed(data: bytes, how: str) -> bytes:
    """Compress: `zst` as hauler does, `gz`, `xz` and `bz2` as people do; empty for not at all."""
    return {
        "": lambda: data,
        "zst": lambda: zstandard.ZstdCompressor().compress(data),
        "gz": lambda: gzip.compress(data, 1),
        "xz": lambda: lzma.compress(data, preset=0),
        "bz2": lambda: bz2.compress(data, 1),
    }[how]()


def index_value(files: Files) -> Any:
    """index.json, read."""
    return json.loads(files["index.json"])
