"""Images in files, before another source: which names they have, and their bytes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Optional

from bundler.definition.file_request import FileRequest
from bundler.sources.files.contents import COPY_AGAIN, HERE
from bundler.sources.files.image_file import Held, ImageFile
from bundler.sources.files.layout import ATTACHED
from bundler.sources.source import BlobRequest, BlobStream, Source, SourceAround
from bundles.errors import ContentError, DamagedArchiveError, NotFoundError, UsageError
from bundles.oci.descriptor import OCI_INDEX, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import media_type_of, parse_index
from bundles.oci.reference import Reference

# Documents that are kept in memory; none is larger than 16 MiB.
_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Taken:
    """An image that is taken from a file, the name that it gets, and what it was asked for with."""

    reference: Reference
    held: Held
    file: ImageFile
    request: FileRequest


class FilesSource(SourceAround):
    """Another source, before which files are looked through. Thread-safe.

    What a file's image lacks is not looked for anywhere else: no registry is asked about it, whose business its very
    name may not be. A blob that one file has serves every image.

    Args:
        source: is asked for the images that are in no file.
        files: all that are open.
        taken: what is taken from them.
    """

    def __init__(self, source: Source, files: Sequence[ImageFile], taken: Sequence[Taken]) -> None:
        super().__init__(source)
        self._files = files
        self._names = {item.reference: item for item in taken}
        # Thousands of images may have one index inside.
        self._document = functools.lru_cache(maxsize=_KEPT)(self._read_document)
        roots: dict[ImageFile, list[Descriptor]] = {}
        for item in taken:
            roots.setdefault(item.file, []).append(item.held.root)
        self._absent = {digest: file for file, found in roots.items() for digest in _absent(file, found)}

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        found = self._names.get(reference)
        if found is not None:
            data = found.file.document(found.held.root.digest)
            if data is not None:
                return found.held.root.plain, data
        digest = reference.digest or (found.held.root.digest if found else None)
        if digest is None:
            tag = reference.tag or ""
            digest = Digest(f"sha256:{tag[7:71]}") if ATTACHED.fullmatch(tag) else None
            owner = self._owner(digest) if digest else None
            return self._attached(reference, owner) if owner else super().manifest(reference)
        document = self._document(digest)
        if document is not None:
            return document
        if digest in self._absent:
            raise NotFoundError(f"`{self._absent[digest].where}` has no {digest}")
        return super().manifest(reference)

    def _read_document(self, digest: Digest) -> Optional[tuple[Descriptor, bytes]]:
        for file in self._files:
            data = file.document(digest)
            if data is not None:
                return Descriptor(media_type_of(data, ""), digest, len(data)), data
        return None

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        found = self._names.get(reference)
        return found.held.root.digest if found else super().known_digest(reference)

    def _owner(self, digest: Digest) -> Optional[ImageFile]:
        return next((file for file in self._files if file.size(digest) is not None), None)

    def _attached(self, reference: Reference, file: ImageFile) -> tuple[Descriptor, bytes]:
        """Return what is attached by a tag to a manifest of a file."""
        for each in (file, *self._files):
            root = each.tags.get(str(reference.tag))
            data = each.document(root.digest) if root else None
            if root and data is not None:
                return root.plain, data
        raise NotFoundError(f"`{file.where}` has no `{reference.tag}`")

    def referrers(self, repository: Reference, digest: Digest) -> tuple[bytes, ...]:
        if self._owner(digest) is None:
            return super().referrers(repository, digest)
        entries = [entry for file in self._files for entry in file.referrers.get(digest, ())]
        return (json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode(),)

    def open_blob(self, request: BlobRequest) -> BlobStream:
        descriptor = request.descriptor
        holders = [file for file in self._files if file.size(descriptor.digest) is not None]
        for file in holders if HERE not in request.avoid else ():
            if file.size(descriptor.digest) == descriptor.size:
                return file.open(descriptor.digest, request.offset)
        owner = self.owner_of(request.repository)
        if owner is None or (descriptor.urls and not holders):
            return super().open_blob(request)
        what = f"the blob {descriptor.digest} of `{request.repository.familiar}`"
        if not holders:
            raise NotFoundError(f"`{owner.where}` lacks {what}")
        size = holders[0].size(descriptor.digest)
        if size != descriptor.size:
            raise DamagedArchiveError(f"{what} has {size} bytes in `{holders[0].where}`: expected {descriptor.size}")
        raise DamagedArchiveError(
            f"{what} has other bytes in `{holders[0].where}` than its digest says: it is damaged, or changed while it "
            "was read",
            hint=COPY_AGAIN,
        )

    def owner_of(self, repository: Reference) -> Optional[ImageFile]:
        """Return the file that an image, or what is attached to one, comes from; None when it comes from elsewhere."""
        found = self._names.get(repository)
        if found:
            return found.file
        tag = repository.tag or ""
        return self._owner(Digest(f"sha256:{tag[7:71]}")) if ATTACHED.fullmatch(tag) else None

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether a blob comes from a file."""
        return any(file.size(descriptor.digest) == descriptor.size for file in self._files)


def _absent(file: ImageFile, roots: Sequence[Descriptor]) -> Iterator[Digest]:
    """Find the manifests that the indexes of images name and their file does not have; each index is opened once.

    Raises:
        ContentError: an index is none.
    """
    waiting = list({root.digest: root for root in roots}.values())
    opened = {root.digest for root in waiting}
    while waiting:
        descriptor = waiting.pop()
        data = file.document(descriptor.digest) if descriptor.is_index else None
        if data is None and file.size(descriptor.digest) is None:
            yield descriptor.digest
        elif data is not None:
            try:
                children = parse_index(data)
            except UsageError as error:
                raise ContentError(f"{descriptor.digest} in `{file.where}`: {error.message}") from None
            found = {child.digest: child for child in children if child.digest not in opened}
            opened.update(found)
            waiting += [child for child in found.values() if child.is_index or child.is_manifest]
