"""What OCI image layouts on this machine have (image-spec v1.1, image-layout.md), before another source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from bundler.definition.oci_layout import LayoutContent
from bundler.sources.files.contents import HERE, OpenFile
from bundler.sources.source import BlobRequest, BlobStream, Source, SourceAround
from bundles.errors import ContentError, NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference


class LayoutSource(SourceAround):
    """Another source, before which layouts are looked through. Thread-safe.

    Args:
        source: is asked for what the layouts do not have, but never for one of `contents`.
        contents: what names stand for in the layouts.
    """

    def __init__(self, source: Source, contents: Mapping[Reference, LayoutContent]) -> None:
        super().__init__(source)
        self._contents = contents
        self._repositories = {reference.name: content for reference, content in contents.items()}
        self._directories = list(dict.fromkeys(content.directory for content in contents.values()))

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        if reference.name not in self._repositories:
            return super().manifest(reference)
        for name, content in self._contents.items():
            if name.name == reference.name and (
                reference.digest == content.root.digest if reference.digest else reference == name
            ):
                return content.root.plain, content.read(content.root)
        directories = ", ".join(f"`{directory}`" for directory in self._directories)
        raise NotFoundError(f"{directories} has no {reference.familiar}")

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        return None if reference.name in self._repositories else super().known_digest(reference)

    def open_blob(self, request: BlobRequest) -> BlobStream:
        descriptor = request.descriptor
        if HERE not in request.avoid:
            for directory in self._directories:
                path = directory / descriptor.digest.blob_path
                if path.is_file() and path.stat().st_size == descriptor.size:
                    return OpenFile(path, request.offset)
        content = self._repositories.get(request.repository.name)
        if content is None:
            return super().open_blob(request)
        raise ContentError(f"`{content.blob(descriptor.digest)}` is missing or damaged", hint=content.hint)
