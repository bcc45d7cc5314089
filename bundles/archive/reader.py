"""Reading an archive: its manifest, its documents and its blobs, each checked when it is read.

An archive is never extracted and no tar reader runs over it: the layout follows from bundle.json, so each header is
compared with the one that must be there, and content is read from where it must be.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.layout import (
    BLOCK,
    CHECKSUM_NAME,
    MANIFEST_NAME,
    OCI_LAYOUT,
    OCI_LAYOUT_NAME,
    SIGNATURE_NAME,
    SIGNATURE_SIZE,
    checksum_line,
    header,
    padding,
)
from bundles.archive.manifest import MAX_SIZE, BundleManifest, Image
from bundles.archive.parts import is_first_part
from bundles.archive.signature import Signers
from bundles.archive.volume import Volume, check_parts
from bundles.errors import (
    ArchiveError,
    DamagedArchiveError,
    IncompleteArchiveError,
    NotABundleError,
    Problem,
    UsageError,
    reason,
)
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, ImageManifest, parse_manifest, walk
from bundles.runtime.closeable import Closeable
from bundles.runtime.listing import listed
from bundles.runtime.system import system

CHUNK = 1 << 20
_SHOWN = 20
_COPY_AGAIN = "copy the archive again from where it was created, and compare"


class BlobReader:
    """A blob's bytes, checked against its digest while they are read.

    The last bytes are handed out only when all of them were right, so whoever passes them on never completes a damaged
    blob. `len()` is the size in bytes; `read` and `readinto` give nothing at the end.

    Raises (while reading):
        DamagedArchiveError: the bytes are not those of the digest.
    """

    def __init__(self, archive: Archive, descriptor: Descriptor) -> None:
        self._archive = archive
        self._descriptor = descriptor
        self._offset = archive.layout.blob(descriptor.digest).data_offset
        self._done = 0
        self._hash = hashlib.sha256()

    def __len__(self) -> int:
        return self._descriptor.size

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), self._descriptor.size - self._done)
        if size == 0:
            return 0
        view = buffer[:size]
        count = self._archive.volume.readinto(self._offset + self._done, view)
        if count < size:
            raise self._archive.cut_short()
        self._hash.update(view)
        self._done += count
        if self._done == self._descriptor.size and self._hash.hexdigest() != self._descriptor.digest.hex:
            raise self._archive.damaged([self._archive.blob_problem(self._descriptor)])
        return count

    def read(self, size: int = CHUNK) -> bytes:
        buffer = bytearray(max(0, min(size if size >= 0 else CHUNK, self._descriptor.size - self._done)))
        count = self.readinto(memoryview(buffer))
        return bytes(buffer[:count])


class Archive(Closeable):
    """An archive opened for reading. A context manager; methods may be called from several threads.

        with Archive(path) as archive:
            for image in archive.manifest.images: ...

    Opening reads bundle.json only and compares the size of the file, so it is fast whatever the size.

    Args:
        path: the archive, or any of its parts.
        directories: where to look for parts besides the directory of `path`.
        signers: who must have signed it; that is seen to before anything in bundle.json is used.

    Raises:
        NotABundleError, NewerFormatError, IncompleteArchiveError, DamagedArchiveError, UntrustedArchiveError
        UsageError, HostError: as `Signers.check`.
    """

    def __init__(self, path: Path, directories: Sequence[Path] = (), signers: Optional[Signers] = None) -> None:
        self.path = path
        self.volume = Volume(path, directories)
        self._is_split = is_first_part(self.volume.paths[0])
        try:
            data = self._read_manifest()
            self._manifest_size = len(data)
            self.digest = Digest.of(data)
            """The digest of bundle.json, which names the bundle."""
            self.signer = signers.check(data, self.read_signature()) if signers else None
            """Who signed it, when that was asked."""
            self.manifest = BundleManifest.parse(data)
            self.layout = self.manifest.layout(len(data))
            if self._is_split:
                check_parts(self.volume, self.layout, self.manifest.program.digest)
            if self.volume.size < self.layout.size:
                raise self.incomplete()
            if self.volume.size > self.layout.size:
                extra = self.volume.size - self.layout.size
                raise DamagedArchiveError(
                    f"`{path}` has {extra} bytes too many: expected {self.layout.size}", hint=self._copy_again
                )
        except BaseException:
            self.volume.close()
            raise

    def _read_manifest(self) -> bytes:
        start = header(OCI_LAYOUT_NAME, len(OCI_LAYOUT)) + OCI_LAYOUT.ljust(BLOCK, b"\0")
        checksum_offset = len(start)
        offset = checksum_offset + 2 * BLOCK
        head = self.volume.read(0, offset + BLOCK)
        checksum_header = header(CHECKSUM_NAME, 64 + 2 + len(MANIFEST_NAME) + 1)
        if len(head) < len(start) or not _alike(head[:BLOCK], start[:BLOCK]):
            if 0 < len(head) < len(start) and start.startswith(head):
                raise self.cut_short()
            raise NotABundleError(
                f"`{self.path}` is not a bundle: it does not begin as `bundle create` begins one",
                hint="give the archive that `bundle create` wrote (an image saved by docker is not one)",
            )
        if len(head) < offset + BLOCK:
            raise self.cut_short()
        if head[:checksum_offset] != start or head[checksum_offset : checksum_offset + BLOCK] != checksum_header:
            raise self.damaged([Problem(OCI_LAYOUT_NAME, "the first blocks are not those of a bundle")])
        size = manifest_size(head[offset:])
        if size is None:
            raise self.damaged([Problem(MANIFEST_NAME, "its tar header is damaged")])
        data = self.volume.read(offset + BLOCK, size)
        if len(data) < size:
            raise self.cut_short()
        line = checksum_line(Digest.of(data))
        if head[checksum_offset + BLOCK : offset] != line.ljust(BLOCK, b"\0"):
            raise self.damaged([Problem(MANIFEST_NAME, f"its bytes differ from {CHECKSUM_NAME}")])
        return data

    def read_signature(self) -> Optional[bytes]:
        """Return the entry of the signature behind bundle.json; None when there is none."""
        offset = 5 * BLOCK + self._manifest_size + padding(self._manifest_size)
        if self.volume.read(offset, BLOCK) != header(SIGNATURE_NAME, SIGNATURE_SIZE):
            return None
        return self.volume.read(offset + BLOCK, SIGNATURE_SIZE)

    def cut_short(self) -> IncompleteArchiveError:
        """Return the error for an archive of which nothing can be said but that its end is missing."""
        return IncompleteArchiveError(
            f"`{self.path}` is cut short: only {self.volume.size} bytes are there", hint=self._copy_again
        )

    @property
    def _copy_again(self) -> str:
        name = self.volume.paths[0].name
        return f"{_COPY_AGAIN}: {system.compare_checksums(name[:-4] if self._is_split else name)}"

    def incomplete(self) -> IncompleteArchiveError:
        """Return the error for an archive whose end is missing, naming the images that suffer."""
        missing = [
            blob
            for blob in self.manifest.blobs
            if self.layout.blob(blob.digest).data_offset + blob.size > self.volume.size
        ]
        return IncompleteArchiveError(
            f"`{self.path}` is cut short: {self.volume.size} of {self.layout.size} bytes are there",
            hint=self._copy_again,
            problems=[self.blob_problem(blob, "is missing or cut short") for blob in missing[:_SHOWN]],
        )

    def damaged(self, problems: list[Problem]) -> DamagedArchiveError:
        """Return the error for an archive in which these entries are wrong."""
        return DamagedArchiveError(f"`{self.path}` is damaged", hint=self._copy_again, problems=problems)

    def blob_problem(self, blob: Descriptor, what: str = "differs from its digest") -> Problem:
        """Say what is wrong with a blob, with the images that use it and where it stands."""
        entry = self.layout.blob(blob.digest)
        users = [image.reference.familiar for image in self.users_of(blob.digest)]
        names = listed(users, _SHOWN) or "no image"
        place = f"{blob.size} bytes at offset {entry.data_offset}"
        if self._is_split:
            place += f" in {self.volume.names(entry.data_offset, blob.size)}"
        return Problem(f"blob {blob.digest} ({place}; used by {names})", what)

    def users_of(self, digest: Digest) -> tuple[Image, ...]:
        """Find the images that need this blob, as far as their documents can be read."""
        images, above = self._users
        places = {place for start in above.get(digest, ()) for place in images[start]}
        return tuple(self.manifest.images[place] for place in sorted(places))

    @functools.cached_property
    def _users(self) -> tuple[dict[Descriptor, list[int]], dict[Digest, dict[Descriptor, None]]]:
        """The images of each root and manifest, by their places, and of each blob those that it is below."""
        images: dict[Descriptor, list[int]] = {}
        for place, image in enumerate(self.manifest.images):
            for start in (image.root, *(content.manifest for content in image.platforms)):
                images.setdefault(start.plain, []).append(place)
        above: dict[Digest, dict[Descriptor, None]] = {}
        # A loop of its own for each: a damaged document hides only what is below it.
        for start in images:
            with contextlib.suppress(ArchiveError, UsageError):
                for blob, _ in walk(start, self._document, lambda child: self.has(child.digest)):
                    above.setdefault(blob.digest, {})[start] = None
        return images, above

    def walk(self, root: Descriptor) -> Iterator[Descriptor]:
        """Go through the content below `root` that is in the archive, `root` first, parents before children.

        What a delta requires from its bases is passed over.

        Raises:
            DamagedArchiveError: a document is wrong, or something that a manifest needs is missing.
        """
        try:
            for blob, parent in walk(root, self.read_document, lambda child: self.has(child.digest)):
                if blob.digest in self._required:
                    continue
                if not self.has(blob.digest):
                    raise self.damaged([Problem(f"{blob.digest}, which {parent and parent.digest} needs", "missing")])
                size = self.layout.blob(blob.digest).size
                if size != blob.size:
                    what = f"{parent and parent.digest} says that it has {blob.size} bytes, and it has {size}"
                    raise self.damaged([Problem(str(blob.digest), what)])
                yield blob
        except UsageError as error:
            raise self.damaged([Problem(f"the image {root.digest}", error.message)]) from None

    def read_document(self, descriptor: Descriptor) -> bytes:
        """Read a manifest, index or config, verified.

        Raises:
            DamagedArchiveError: it differs from its digest, or is too large to be one.
        """
        try:
            return self._document(descriptor)
        except DamagedArchiveError:
            raise self.damaged([self.blob_problem(descriptor)]) from None

    def read_image(self, descriptor: Descriptor) -> ImageManifest:
        """Read an image manifest, verified.

        Raises:
            DamagedArchiveError: it differs from its digest, or is none.
        """
        try:
            return parse_manifest(self.read_document(descriptor))
        except UsageError as error:
            raise self.damaged([Problem(f"the image {descriptor.digest}", error.message)]) from None

    def _document(self, descriptor: Descriptor) -> bytes:
        """Read as `read_document` does, with an error that names no images: finding those needs this."""
        if descriptor.size > MAX_CONFIG_SIZE:
            raise DamagedArchiveError(f"{descriptor.digest} is too large for a document")
        data = self.volume.read(self.layout.blob(descriptor.digest).data_offset, descriptor.size)
        if Digest.of(data) != descriptor.digest:
            raise DamagedArchiveError(f"{descriptor.digest} differs from its digest")
        return data

    def has(self, digest: Digest) -> bool:
        """Tell whether that blob is in the archive (children of a sparse index are not)."""
        return self.layout.holds(digest)

    @functools.cached_property
    def _required(self) -> frozenset[Digest]:
        return frozenset(blob.digest for blob in self.manifest.required)

    def left_to_base(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        """Return what an image manifest needs and a delta leaves to its bases: none of an archive that is whole."""
        image = self.read_image(descriptor)
        needed = dict.fromkeys(Descriptor(blob.media_type, blob.digest, blob.size) for blob in image.layers)
        return tuple(blob for blob in needed if blob.digest in self._required)

    def open_blob(self, descriptor: Descriptor) -> BlobReader:
        """Read a blob; what is read is verified."""
        return BlobReader(self, descriptor)

    def read_program(self) -> bytes:
        """Read the zip behind the tar, verified."""
        data = self.volume.read(self.layout.program_offset, self.layout.program_size)
        if Digest.of(data) != self.manifest.program.digest:
            raise self.damaged([Problem("the program behind the tar", "differs from its digest")])
        return data

    def read_file(self, name: str) -> bytes:
        """Read one of the small files that bundle.json lists, verified.

        Raises:
            KeyError: there is none of that name.
        """
        file = next((file for file in self.manifest.files if file.name == name), None)
        if file is None:
            raise KeyError(name)
        data = self.volume.read(self.layout.entry(name).data_offset, file.size)
        if Digest.of(data) != file.digest:
            raise self.damaged([Problem(name, "differs from its digest")])
        return data

    def close(self) -> None:
        self.volume.close()


def manifest_size(block: bytes) -> Optional[int]:
    """Return the size of bundle.json when that is its tar header, or None."""
    digits = block[124:136].rstrip(b"\0 ")
    size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
    return size if 0 < size <= MAX_SIZE and block == header(MANIFEST_NAME, size) else None


def _alike(found: bytes, expected: bytes) -> bool:
    """Tell whether a damaged first block still shows a bundle: most of it is right."""
    return sum(a == b for a, b in zip(found, expected)) >= len(expected) - 8


def read_json_start(path: Path) -> Optional[bytes]:
    """Read the file when it begins as JSON does, else return None: then it is an archive, or nothing.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1)
            return first + file.read(MAX_SIZE) if first == b"{" else None
    except FileNotFoundError:
        return None  # perhaps an archive in parts
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {reason(error)}") from None


def read_manifest(path: Path) -> tuple[Digest, BundleManifest]:
    """Read the digest and the manifest of a bundle.

    Raises:
        UsageError: it cannot be read.
        ArchiveError: it is neither an archive nor a bundle.json, or damaged.
    """
    data = read_json_start(path)
    if data is not None:
        return Digest.of(data), BundleManifest.parse(data)
    with Archive(path) as archive:
        return archive.digest, archive.manifest
