"""OCI image layouts, as a directory or a tar: image-spec v1.1, image-layout.md. Their bytes stay what they are.

Nobody agrees on names. `org.opencontainers.image.ref.name` is a tag to some (`12`), the whole name to others
(`docker.io/library/debian:12`); `io.containerd.image.name` is always the whole one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundler.sources.files.contents import Contents
from bundler.sources.files.image_file import Held, ImageFile
from bundler.sources.source import BlobStream
from bundles.errors import ContentError, DamagedArchiveError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import index_entries, media_type_of, parse_index, parse_json
from bundles.oci.reference import Reference
from bundles.registry.read import digest_or_none

INDEX = "index.json"
_REF_NAME = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"
# What is attached to an image by a tag of its digest: cosign's custom, and that of registries without referrers.
ATTACHED = re.compile(r"sha256-[0-9a-f]{64}(?:\.[a-z]+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of index.json: its object, its descriptor with the media type that its document has, and its place."""

    value: Mapping[str, Any]
    descriptor: Descriptor
    number: int

    @property
    def ref_name(self) -> str:
        return self.descriptor.annotations.get(_REF_NAME, "")

    @property
    def name(self) -> Optional[Reference]:
        """The full name that it is given, if any; never one with the digest of something else."""
        for text in (self.descriptor.annotations.get(_IMAGE_NAME, ""), self.ref_name):
            if text and (":" in text or "/" in text or text != self.ref_name):
                try:
                    reference = Reference.parse(text)
                except UsageError:
                    continue
                if reference.digest in (None, self.descriptor.digest):
                    return reference
        return None

    def held(self) -> Held:
        """Return it as an image."""
        name = self.name
        tag = name.tag if name else self.ref_name or None
        label = self.ref_name or (name.familiar if name else "")
        return Held(label, self.descriptor, name, tag, number=self.number)


class LayoutFile(ImageFile):
    """An OCI image layout.

    Raises:
        DamagedArchiveError: its index.json is none.
        ContentError: a document in it is wrong.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path)
        self._contents = contents
        # By digest, since a hostile index.json lists one document a hundred thousand times.
        self._types: dict[Descriptor, Optional[str]] = {}
        self._subjects: dict[Digest, Optional[Digest]] = {}
        entries, notes = [], []
        try:
            found = index_entries(contents.read(INDEX))
        except UsageError as error:
            raise DamagedArchiveError(f"`{self.where}` cannot be used: in {INDEX}, {error.message}") from None
        for number, item in enumerate(found):
            if item.descriptor is None:
                notes.append(f"`{self.where}`: an entry of {INDEX} is not understood, {item.problem}")
                continue
            plain = item.descriptor.plain
            if plain not in self._types:
                self._types[plain] = self._type(plain)
            media_type = self._types[plain]
            if media_type is None:
                notes.append(f"`{self.where}`: {item.descriptor.digest} is in {INDEX}, and is not there")
                continue
            typed = dataclasses.replace(item.descriptor, media_type=media_type)
            entries.append(Entry(item.value, typed, number))
        self.notes = tuple(notes)
        self._sort(entries)

    def _type(self, descriptor: Descriptor) -> Optional[str]:
        """Return the media type that a document has; None when it is not there."""
        data = self.checked(descriptor)
        try:
            return media_type_of(data, descriptor.media_type) if data is not None else None
        except UsageError as error:
            raise ContentError(f"{descriptor.digest} in `{self.where}`: {error.message}") from None

    def _sort(self, entries: Sequence[Entry]) -> None:
        """Tell images from what is attached to them, and from their parts, which oras lists beside them."""
        below = self._below(entries)
        images: list[Held] = []
        tags: dict[str, Descriptor] = {}
        referrers: dict[Digest, list[Mapping[str, Any]]] = {}
        for entry in entries:
            subject = self.subject(entry.descriptor)
            held = entry.held()
            if subject:
                referrers.setdefault(subject, []).append(entry.value)
            elif held.tag and ATTACHED.fullmatch(held.tag):
                tags[held.tag] = entry.descriptor
            elif held.label or not (entry.descriptor.is_attestation or entry.descriptor.digest in below):
                images.append(held)
        self.images, self.tags, self.referrers = tuple(images), tags, referrers

    def _below(self, entries: Sequence[Entry]) -> set[Digest]:
        """Find what the indexes among the entries list."""
        waiting = list(
            {entry.descriptor.digest: entry.descriptor for entry in entries if entry.descriptor.is_index}.values()
        )
        found: set[Digest] = set()
        while waiting:
            index = waiting.pop()
            data = self.document(index.digest)
            children = {child.digest: child for child in self._children(index, data)} if data is not None else {}
            waiting += [child for digest, child in children.items() if child.is_index and digest not in found]
            found.update(children)
        return found

    def _children(self, index: Descriptor, data: bytes) -> Sequence[Descriptor]:
        try:
            return parse_index(data)
        except UsageError as error:
            raise ContentError(f"{index.digest} in `{self.where}`: {error.message}") from None

    def subject(self, descriptor: Descriptor) -> Optional[Digest]:
        """Return which manifest an entry says that it is about."""
        if descriptor.digest not in self._subjects:
            data = self.document(descriptor.digest)
            subject = parse_json(data, "the manifest").get("subject") if data else None
            found = digest_or_none(str(subject.get("digest"))) if isinstance(subject, dict) else None
            self._subjects[descriptor.digest] = found
        return self._subjects[descriptor.digest]

    def size(self, digest: Digest) -> Optional[int]:
        return self._contents.size(digest.blob_path)

    def open(self, digest: Digest, offset: int = 0) -> BlobStream:
        return self._contents.open(digest.blob_path, offset)

    def document(self, digest: Digest) -> Optional[bytes]:
        if self._contents.size(digest.blob_path) is None:
            return None
        data = self._contents.read(digest.blob_path)
        if Digest.of(data) != digest:
            raise ContentError(f"`{digest.blob_path}` in `{self.where}` has other bytes than its digest says")
        return data

    def close(self) -> None:
        self._contents.close()
