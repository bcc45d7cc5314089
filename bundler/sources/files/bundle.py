"""Archives of `bundle create`: read and checked as everywhere, whole or in parts. Their images keep their roles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundler.sources.files.contents import VolumeBlob
from bundler.sources.files.image_file import Held, ImageFile
from bundler.sources.files.layout import ATTACHED
from bundler.sources.source import BlobStream
from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.archive.signature import Signers
from bundles.errors import ContentError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE


class BundleFile(ImageFile):
    """An archive of ours.

    Args:
        path: where it is.
        directories: where to look for parts besides the archive's own.
        signers: who must have signed it.

    Raises:
        ArchiveError: it cannot be used, or is not signed by whom it must be.
        HostError: signatures cannot be checked on this machine.
    """

    def __init__(self, path: Path, directories: Sequence[Path] = (), signers: Optional[Signers] = None) -> None:
        super().__init__(path)
        self.archive = Archive(path, directories, signers)
        manifest = self.archive.manifest
        self.images = tuple(
            _held(image, number) for number, image in enumerate(manifest.images) if not _is_attached(image)
        )
        self.notes = tuple(
            f"{held.label} of `{self.where}` was recompressed, and is called {held.reference.familiar}"
            for held in self.images
            if held.reference and held.label != held.reference.familiar
        )
        self.bases = frozenset(base.digest for base in manifest.bases)
        attached = [image for image in manifest.images if _is_attached(image)]
        self.tags = {str(image.reference.tag): image.root for image in attached}

    def size(self, digest: Digest) -> Optional[int]:
        return self.archive.layout.blob(digest).size if self.archive.has(digest) else None

    def open(self, digest: Digest, offset: int = 0) -> BlobStream:
        entry = self.archive.layout.blob(digest)
        return VolumeBlob(self.archive.volume, entry.data_offset + offset, entry.size - offset)

    def document(self, digest: Digest) -> Optional[bytes]:
        size = self.size(digest)
        if size is None:
            return None
        if size > MAX_CONFIG_SIZE:
            raise ContentError(f"{digest} in `{self.where}` is too large for a document")
        return self.archive.read_document(Descriptor("", digest, size))

    def missing(self) -> Optional[str]:
        bases = self.archive.manifest.bases
        if not bases:
            return None
        names = " and ".join(f"{base.name} {base.digest}" for base in bases)
        return f"`{self.where}` is a delta: what it leaves out is in its base, {names}"

    def close(self) -> None:
        self.archive.close()


def _held(image: Image, number: int) -> Held:
    platforms = tuple(content.platform for content in image.platforms if content.platform)
    reference = image.reference
    if reference.digest not in (None, image.root.digest):
        # As --recompress leaves it, or as somebody claims: the name is to say what the image is.
        reference = dataclasses.replace(reference, digest=image.root.digest)
    return Held(image.reference.familiar, image.root, reference, reference.tag, image.role, platforms, number)


def _is_attached(image: Image) -> bool:
    return bool(ATTACHED.fullmatch(image.reference.tag or "")) and all(not each.platform for each in image.platforms)
