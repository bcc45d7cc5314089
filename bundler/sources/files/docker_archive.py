"""What `docker save` writes, and `podman save`, `skopeo copy` and `crane pull` after it.

Since Docker 25.0 it is an OCI image layout as well: then the manifests are there, and stay what they are. Else there is
only manifest.json (moby image/tarexport), with configs and layers but without manifests: these are composed, as for
images of the local Docker. The same file gives the same manifests.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Optional

from bundler.definition.file_request import FileRequest
from bundler.definition.spec import Compression
from bundler.sources.docker_save import compose
from bundler.sources.files.contents import Contents, Layer, MemoryBlob, open_kept
from bundler.sources.files.image_file import Choices, Held, ImageFile, reference_or_none
from bundler.sources.files.layout import LayoutFile
from bundler.sources.source import BlobStream
from bundler.sources.spool import Spool
from bundles.errors import ContentError, DamagedArchiveError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.reference import Reference

MANIFEST = "manifest.json"
# A config whose name is its digest: `<hex>.json`, `blobs/sha256/<hex>`, `sha256:<hex>`.
_NAMED = re.compile(r"(?:.*[/:])?([0-9a-f]{64})(?:\.json)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One image of manifest.json: the names of its config and layers in the tar, and its names for Docker."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


class SavedLayout(LayoutFile):
    """What `docker save` writes since 25.0; platforms that Docker had not pulled are in the index alone."""

    def is_there(self, manifest: Descriptor) -> bool:
        data = self.document(manifest.digest)
        if data is None:
            return False
        image = parse_manifest(data)
        return all(self.size(blob.digest) is not None for blob in (image.config, *image.layers))


class ClassicArchive(ImageFile):
    """What `docker save` wrote before 25.0. Only the images that are selected are read.

    Args:
        path: where it is.
        contents: its files.
        spool: keeps the layers that are made.
        compression: how raw layers are compressed.

    Raises:
        DamagedArchiveError: its manifest.json is none.
    """

    def __init__(self, path: Path, contents: Contents, spool: Spool, compression: Compression) -> None:
        super().__init__(path)
        self._contents, self._spool, self._compression = contents, spool, compression
        self._documents: dict[Digest, bytes] = {}
        self._layers: dict[str, Layer] = {}
        self._in_place: dict[Digest, tuple[str, int]] = {}
        try:
            self._entries = _entries(contents.read(MANIFEST))
        except UsageError as error:
            raise DamagedArchiveError(f"`{self.where}` cannot be used: {error.message}") from None
        self._offered: list[tuple[int, str, Optional[Reference]]] = []
        for number, entry in enumerate(self._entries):
            self._offered += [(number, tag, _name(tag)) for tag in entry.tags] or [(number, "", None)]
        self._choices = Choices(self._offered)
        self._roots: dict[int, Descriptor] = {}

    def selected(self, request: FileRequest) -> tuple[Held, ...]:
        chosen = [self._offered[position] for position in self._choices.of(request)]
        return tuple(
            Held(label, self._root(number), reference, reference.tag if reference else None, number=number)
            for number, label, reference in chosen
        )

    def _root(self, number: int) -> Descriptor:
        if number not in self._roots:
            self._roots[number] = self._compose(number)
        return self._roots[number]

    def _compose(self, number: int) -> Descriptor:
        entry = self._entries[number]
        what = f"`{entry.tags[0][:100] if entry.tags else f'@{number}'}` in `{self.where}`"
        name = self._contents.place(_normal(entry.config))
        if self._contents.size(name) is None:
            raise ContentError(f"{what} has no config: `{entry.config[:100]}` is not there")
        config = self._contents.read(name)
        named = _NAMED.fullmatch(entry.config)
        if named and Digest.of(config).hex != named[1]:
            raise ContentError(f"the config of {what} has the digest {Digest.of(config)}: its name says {named[1]}")
        layers = [self._layer(self._contents.place(_normal(path))) for path in entry.layers]
        try:
            composed = compose(config, [(layer.diff_id, layer.kept) for layer in layers], what)
        except (UsageError, TypeError, AttributeError) as error:
            why = error.message if isinstance(error, UsageError) else f"its config is of the wrong kind ({error})"
            raise ContentError(f"{what} cannot be used: {why}") from None
        self._documents.update({known.digest: data for known, data in composed.documents.items()})
        return composed.root

    def _layer(self, name: str) -> Layer:
        if name not in self._layers:
            layer = self._contents.layer(name, self._spool, self._compression)
            self._layers[name] = layer
            if not layer.spooled:
                self._in_place[layer.kept.digest] = (name, layer.kept.size)
        return self._layers[name]

    def size(self, digest: Digest) -> Optional[int]:
        if digest in self._documents:
            return len(self._documents[digest])
        found = self._in_place.get(digest)
        if found:
            return found[1]
        return next((layer.kept.size for layer in self._layers.values() if layer.kept.digest == digest), None)

    def open(self, digest: Digest, offset: int = 0) -> BlobStream:
        if digest in self._documents:
            return MemoryBlob(self._documents[digest][offset:])
        if digest in self._in_place:
            return self._contents.open(self._in_place[digest][0], offset)
        return open_kept(self._spool, digest, offset, self.where)

    def document(self, digest: Digest) -> Optional[bytes]:
        return self._documents.get(digest)

    def close(self) -> None:
        self._contents.close()


def open_saved(path: Path, contents: Contents, spool: Spool, compression: Compression) -> ImageFile:
    """Open what `docker save` writes, in whichever of its forms.

    Raises:
        ArchiveError: it cannot be used.
    """
    if contents.size("index.json") is not None:
        return SavedLayout(path, contents)
    return ClassicArchive(path, contents, spool, compression)


def _entries(data: bytes) -> list[_Entry]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{MANIFEST} is not valid JSON: {error}") from None
    if not isinstance(value, list):
        raise UsageError(f"{MANIFEST} is not a list")
    return list(map(_entry, value))


def _entry(value: Any) -> _Entry:
    if not isinstance(value, dict):
        raise UsageError(f"an entry of {MANIFEST} is not an object")
    config, tags, layers = value.get("Config"), value.get("RepoTags") or [], value.get("Layers") or []
    lists = isinstance(tags, list) and isinstance(layers, list)
    if not isinstance(config, str) or not lists or not all(isinstance(text, str) for text in (*tags, *layers)):
        raise UsageError(f"an entry of {MANIFEST} has no Config, RepoTags or Layers that can be used")
    return _Entry(config, tuple(tags), tuple(layers))


def _name(tag: str) -> Optional[Reference]:
    """Return the name that a tag is; no composed manifest has the digest that one claims."""
    reference = reference_or_none(tag)
    return reference if reference and reference.digest is None else None


def _normal(path: str) -> str:
    return path[2:] if path.startswith("./") else path
