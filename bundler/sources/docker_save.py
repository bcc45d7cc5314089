"""What `docker save` writes, read as a stream: nothing is extracted, and no path in it is used as one.

Two forms: from Docker 25.0 an OCI layout (image-spec v1.1 image-layout.md) with a Docker archive beside it, before
that a Docker archive only (moby image/tarexport). A layer that comes raw, as the classic image store keeps it, becomes
a zstd layer; one that is compressed already, as in the containerd image store, stays what it is, and so do the manifest
and the index above it.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, Optional

from bundler.definition.spec import Compression
from bundler.sources import zstd
from bundler.sources.spool import Hashed, Local, Spool
from bundles.errors import ContentError, UsageError
from bundles.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, parse_index, parse_json, parse_manifest
from bundles.oci.platform import Platform

OCI_ZSTD_LAYER = f"{OCI_LAYER}+zstd"
ZSTD_NOTE = "`docker pull` of zstd layers needs Docker 23.0 or later on the host; builds do not"
_BLOBS = "blobs/sha256/"


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer that was read: the digest it had in the stream, and how it is kept now."""

    digest: Digest
    kept: Descriptor


def read_saved(stream: IO[bytes], name: str, spool: Spool, compression: Compression) -> Local:
    """Read one image, for every platform that is there; its layers go to `spool`.

    Args:
        stream: the tar.
        name: what people call the image, for messages.
        spool: keeps the layers.
        compression: how raw layers are compressed.

    Raises:
        ContentError: the stream is not what `docker save` writes, or content differs from its digest.
    """
    try:
        return _Saved(name, spool, compression).read(stream)
    except (tarfile.TarError, UsageError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = error.message if isinstance(error, UsageError) else str(error)
        raise ContentError(f"what Docker gave for `{name}` cannot be read: {reason}") from None


class _Saved:
    def __init__(self, name: str, spool: Spool, compression: Compression) -> None:
        self._name, self._spool, self._compression = name, spool, compression
        self._files: dict[str, bytes] = {}
        self._layers: dict[str, _Layer] = {}
        self._links: dict[str, str] = {}
        self._documents: dict[Descriptor, bytes] = {}

    def read(self, stream: IO[bytes]) -> Local:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                path = posixpath.normpath(member.name)
                if member.issym() or member.islnk():
                    start = posixpath.dirname(path) if member.issym() else ""
                    self._links[path] = posixpath.normpath(posixpath.join(start, member.linkname))
                elif member.isreg():
                    content = tar.extractfile(member)
                    if content is not None:
                        self._file(path, member.size, content)
        if "index.json" in self._files:
            root = self._root(parse_index(self._files["index.json"]))
        else:
            (entry,) = json.loads(self._files["manifest.json"])
            root = self._compose(self._files[self._target(entry["Config"])], entry["Layers"])
        return Local(root, self._documents)

    def _file(self, path: str, size: int, content: IO[bytes]) -> None:
        pieces = zstd.chunks(content.read)
        first = next(pieces, b"")
        pieces = zstd.again(first, pieces)
        if first[:1] in (b"{", b"[") and size <= MAX_CONFIG_SIZE:
            data = b"".join(pieces)
            if _is_json(data):
                self._document(path, data)
                return
            pieces = iter([data[start : start + zstd.CHUNK] for start in range(0, len(data), zstd.CHUNK)])
        if path.startswith(_BLOBS) or path.endswith("/layer.tar"):
            self._layers[path] = self._layer(path, first, pieces)

    def _document(self, path: str, data: bytes) -> None:
        if path.startswith(_BLOBS) and Digest.of(data) != _digest(path):
            raise ContentError(f"`{path}` from Docker's `{self._name}` has the digest {Digest.of(data)}")
        self._files[path] = data

    def _layer(self, path: str, first: bytes, pieces: Iterator[bytes]) -> _Layer:
        came = Hashed(pieces)
        pieces = iter(came)
        if first.startswith((zstd.GZIP_MAGIC, zstd.ZSTD_MAGIC)):
            kind = "gzip" if first.startswith(zstd.GZIP_MAGIC) else "zstd"
            kept = self._spool.add(f"{OCI_LAYER}+{kind}", pieces)
        else:
            kept = self._spool.add(OCI_ZSTD_LAYER, zstd.compress(pieces, self._compression))
        if path.startswith(_BLOBS) and came.digest != _digest(path):
            raise ContentError(f"`{path}` from Docker's `{self._name}` has the digest {came.digest}")
        return _Layer(came.digest, kept)

    def _target(self, path: str) -> str:
        """Follow a path to where it leads: layers that several images share are links to the first of them."""
        path = posixpath.normpath(path)
        for _ in range(len(self._links) + 1):
            if path not in self._links:
                break
            path = self._links[path]
        return path

    def _root(self, entries: Sequence[Descriptor]) -> Descriptor:
        """Return what index.json names: one image, under each of its tags."""
        roots = {entry.digest: entry for entry in entries}
        if len(roots) != 1:
            raise UsageError(f"it holds {len(roots)} images: expected one")
        root = self._document_at(next(iter(roots.values())))
        if root is None:
            raise UsageError("its manifest is missing")
        return root

    def _document_at(self, descriptor: Descriptor) -> Optional[Descriptor]:
        """Take a manifest or index with what is below it; None when it is not there as a whole."""
        data = self._files.get(f"{_BLOBS}{descriptor.digest.hex}")
        if data is None or descriptor.is_attestation:
            return None
        if descriptor.is_index:
            return self._index(descriptor, data)
        manifest = parse_manifest(data)
        config = self._files.get(f"{_BLOBS}{manifest.config.digest.hex}")
        paths = [f"{_BLOBS}{layer.digest.hex}" for layer in manifest.layers]
        if config is None or not self._layers.keys() >= set(paths):
            return None
        if any(self._layers[path].kept.digest != layer.digest for path, layer in zip(paths, manifest.layers)):
            return self._compose(config, paths)
        self._documents[manifest.config.plain] = config
        return self._add(descriptor.plain, data)

    def _index(self, descriptor: Descriptor, data: bytes) -> Optional[Descriptor]:
        kept, changed = [], False
        for child in parse_index(data):
            found = self._document_at(child)
            if found is not None:
                kept.append(dataclasses.replace(found, platform=child.platform or self._platform(found)))
                changed |= found.digest != child.digest
        if not kept:
            return None
        return self._add_index(kept) if changed else self._add(descriptor.plain, data)

    def _platform(self, manifest: Descriptor) -> Optional[Platform]:
        config = parse_manifest(self._documents[manifest]).config
        return Platform.from_json(json.loads(self._documents[config.plain])) if not manifest.is_index else None

    def _compose(self, config: bytes, paths: Sequence[str]) -> Descriptor:
        """Make an OCI manifest for raw layers, which must be those that the config names."""
        layers = [self._layers[self._target(path)] for path in paths]
        # What was compressed when it came has no digest in the config.
        came = [(layer.digest if layer.kept.media_type == OCI_ZSTD_LAYER else None, layer.kept) for layer in layers]
        composed = compose(config, came, f"Docker's `{self._name}`")
        self._documents.update(composed.documents)
        return composed.root

    def _add_index(self, children: Sequence[Descriptor]) -> Descriptor:
        root, data = index(children)
        return self._add(root, data)

    def _add(self, descriptor: Descriptor, data: bytes) -> Descriptor:
        self._documents[descriptor] = data
        return descriptor


def compose(config: bytes, layers: Sequence[tuple[Optional[Digest], Descriptor]], what: str) -> Local:
    """Make an OCI manifest of a config and its layers; the same ones give the same bytes.

    Args:
        config: of the image.
        layers: the digest of each one's tar, None where it was not looked at, and how it is kept.
        what: the image, for messages.

    Raises:
        ContentError: they are not the layers that the config names.
    """
    expected = (parse_json(config, "the image config").get("rootfs") or {}).get("diff_ids") or []
    for position, (diff_id, (digest, _)) in enumerate(zip(expected, layers)):
        if digest is not None and diff_id != str(digest):
            raise ContentError(f"layer {position} of {what} has the digest {digest}: its config says {diff_id}")
    if len(expected) != len(layers):
        raise ContentError(f"{what} has {len(layers)} layers: its config says {len(expected)}")
    described = Descriptor.of(OCI_CONFIG, config)
    data = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described.to_json(),
            "layers": [kept.to_json() for _, kept in layers],
        }
    )
    root = Descriptor.of(OCI_MANIFEST, data)
    return Local(root, {described: config, root: data})


def index(children: Sequence[Descriptor]) -> tuple[Descriptor, bytes]:
    """Make an OCI index of these manifests, each with its platform; the same children give the same bytes."""
    data = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child.to_json() for child in children]})
    return Descriptor.of(OCI_INDEX, data), data


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(path: str) -> Digest:
    return Digest(f"sha256:{path[len(_BLOBS) :]}")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
