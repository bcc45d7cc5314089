"""Opening a file as what it is said to be. One of another kind is an error that says what it is and what reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundler.definition.file_request import KINDS, FileRequest
from bundler.definition.spec import Compression
from bundler.sources.files.bundle import BundleFile
from bundler.sources.files.contents import Contents, files_of, open_contents
from bundler.sources.files.docker_archive import MANIFEST, open_saved
from bundler.sources.files.hauler import HaulFile, is_haul
from bundler.sources.files.image_file import ImageFile
from bundler.sources.files.layout import INDEX, LayoutFile
from bundler.sources.spool import Spool
from bundles.archive.layout import MANIFEST_NAME
from bundles.archive.signature import Signers
from bundles.errors import BundleError, DamagedArchiveError, NotABundleError, UsageError
from bundles.oci.image import parse_index
from bundles.runtime.closeable import Closeable
from bundles.runtime.program import quote
from bundles.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Reading:
    """How archives of ours are read: where else their parts are, and who must have signed them."""

    directories: Sequence[Path] = ()
    signers: Optional[Signers] = None


class Opener(Closeable):
    """Opens files, each once however often it is named; closes what it opened.

    Args:
        spool: keeps layers of compressed files, and those that are made.
        compression: how raw layers of Docker archives are compressed.
        reading: how archives of ours are read.
        progress: is told which file is read, since that may take its time.
    """

    def __init__(self, spool: Spool, compression: Compression, reading: Reading, progress: Progress) -> None:
        self._spool, self._compression, self._reading, self._progress = spool, compression, reading, progress
        self._contents: dict[Path, Contents] = {}
        self._files: list[ImageFile] = []

    def open(self, request: FileRequest) -> ImageFile:
        """Open the file of a request.

        Raises:
            UsageError: it is not there, or of another kind.
            ArchiveError: it cannot be used.
            ContentError: something in it has other bytes than its digest says.
        """
        file = self._bundle(request) if request.kind == "bundle" else self._other(request)
        self._files.append(file)
        return file

    def _bundle(self, request: FileRequest) -> ImageFile:
        if request.path.is_dir():
            raise self._of_another_kind(request, self._contents_of(request.path))
        try:
            return BundleFile(request, self._reading.directories, self._reading.signers)
        except (NotABundleError, DamagedArchiveError) as error:
            # Many a layout begins nearly as an archive of ours does.
            try:
                contents = self._contents_of(request.path)
            except BundleError:
                raise error from None
            if _kind_of(contents, is_directory=False) == "bundle":
                raise
            raise self._of_another_kind(request, contents) from None

    def _other(self, request: FileRequest) -> ImageFile:
        contents = self._contents_of(request.path)
        is_directory = request.path.is_dir()
        found = _kind_of(contents, is_directory)
        layout = "oci" if is_directory else "oci-archive"
        if found == "hauler" and request.kind in ("hauler", layout):
            return HaulFile(request, contents)
        if found == request.kind == "docker-archive":
            return open_saved(request, contents, self._spool, self._compression)
        # Others are layouts besides: an archive of ours, and what docker saves since 25.0.
        if request.kind == layout and contents.size(INDEX) is not None:
            return LayoutFile(request, contents)
        raise self._of_another_kind(request, contents)

    def _contents_of(self, path: Path) -> Contents:
        if path not in self._contents:
            if not any(part.exists() for part in files_of(path)):
                raise UsageError(f"`{path}` is not there")
            self._progress.message(f"reading {path}")
            self._contents[path] = open_contents(path, self._spool, self._compression)
        return self._contents[path]

    def _of_another_kind(self, request: FileRequest, contents: Contents) -> UsageError:
        path = request.path
        found = _kind_of(contents, path.is_dir())
        if found is None:
            what = "a directory" if path.is_dir() else "a tar"
            return UsageError(f"`{path}` is {what} without {INDEX} or {MANIFEST}: expected {KINDS[request.kind]}")
        return UsageError(
            f"`{path}` is {KINDS[found]}: `{request.kind}:` reads {KINDS[request.kind]}", hint=f"{found}:{quote(path)}"
        )

    def close(self) -> None:
        for closeable in (*self._files, *self._contents.values()):
            closeable.close()


def _kind_of(contents: Contents, is_directory: bool) -> Optional[str]:
    """Return the prefix that reads this; None when none does."""
    if not is_directory and contents.size(MANIFEST_NAME) is not None:
        return "bundle"
    if contents.size(INDEX) is not None:
        try:
            if is_haul(parse_index(contents.read(INDEX))):
                return "hauler"
        except UsageError:
            pass
        if not is_directory and contents.size(MANIFEST) is not None:
            return "docker-archive"
        return "oci" if is_directory else "oci-archive"
    return "docker-archive" if not is_directory and contents.size(MANIFEST) is not None else None
