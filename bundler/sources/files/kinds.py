"""Opening a file as what it is said to be. One of another kind is an error that says what it is and what reads it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from bundler.definition.file_request import KINDS, FileRequest
from bundler.definition.spec import Compression
from bundler.sources.files.bundle import BundleFile
from bundler.sources.files.contents import Contents, Directory, Tar, files_of, open_contents
from bundler.sources.files.docker_archive import MANIFEST, open_saved
from bundler.sources.files.hauler import HaulFile, is_haul
from bundler.sources.files.image_file import ImageFile
from bundler.sources.files.layout import INDEX, LayoutFile
from bundler.sources.spool import Spool
from bundles.archive.layout import MANIFEST_NAME
from bundles.archive.signature import Signers
from bundles.errors import BundleError, DamagedArchiveError, NotABundleError, UsageError, reason
from bundles.oci.image import parse_index
from bundles.runtime.closeable import Closeable
from bundles.runtime.filesystem import probe, without_tilde
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
        self._files: dict[tuple[str, Path], Union[ImageFile, BundleError]] = {}

    def check(self, requests: Sequence[FileRequest]) -> None:
        """Make sure that signers are asked for where there is somebody to ask.

        Raises:
            UsageError: none of the requests is for an archive of ours.
        """
        if self._reading.signers and not any(request.kind == "bundle" for request in requests):
            raise UsageError(
                "--allowed-signers says who must have signed a bundle:FILE, and none is named",
                hint="name the archive as bundle:FILE, or leave --allowed-signers out",
            )

    def open(self, request: FileRequest) -> ImageFile:
        """Open the file of a request; another request for it gets the same, and the same error.

        Raises:
            UsageError: it is not there or of another kind, or must not be read.
            ArchiveError: it cannot be used.
            ContentError: something in it has other bytes than its digest says.
        """
        key = (request.kind, request.path)
        if key not in self._files:
            try:
                self._files[key] = self._open(request)
            except BundleError as error:
                self._files[key] = error
        found = self._files[key]
        if isinstance(found, BundleError):
            raise found
        return found

    def _open(self, request: FileRequest) -> ImageFile:
        path = request.path
        _check_readable(path)
        if (path.name == "-" and not path.exists()) or (path.exists() and not path.is_file() and not path.is_dir()):
            raise UsageError(
                f"`{request.text}` is not a file: expected one, since it is read at many places",
                hint=f"save it first, as with `docker save -o FILE IMAGE`, and name that: {request.kind}:FILE",
            )
        return self._bundle(request) if request.kind == "bundle" else self._other(request)

    def _bundle(self, request: FileRequest) -> ImageFile:
        if not request.path.exists() and _misread(request):
            raise _absent(request)
        if request.path.is_dir():
            raise self._of_another_kind(request, self._contents_of(request.path))
        try:
            return BundleFile(request.path, self._reading.directories, self._reading.signers)
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
        if not any(part.exists() for part in files_of(request.path)):
            raise _absent(request)
        contents = self._contents_of(request.path)
        is_directory = request.path.is_dir()
        found = _kind_of(contents, is_directory)
        if found == "bundle" and self._reading.signers:
            raise self._of_another_kind(request, contents)
        layout = "oci" if is_directory else "oci-archive"
        if found == "hauler" and request.kind in ("hauler", layout):
            return HaulFile(request.path, contents)
        if found == request.kind == "docker-archive":
            return open_saved(request.path, contents, self._spool, self._compression)
        # Others are layouts besides: an archive of ours, and what docker saves since 25.0.
        if request.kind == layout and contents.size(INDEX) is not None:
            return LayoutFile(request.path, contents)
        raise self._of_another_kind(request, contents)

    def _contents_of(self, path: Path) -> Contents:
        if path not in self._contents:
            self._progress.message(f"reading {path}")
            self._contents[path] = open_contents(path, self._spool, self._compression)
        return self._contents[path]

    def _of_another_kind(self, request: FileRequest, contents: Contents) -> UsageError:
        path = request.path
        found = _kind_of(contents, path.is_dir())
        if found is None:
            what, show = ("a directory", f"ls {quote(path)}") if path.is_dir() else ("a tar", f"tar -tf {quote(path)}")
            return UsageError(
                f"`{path}` is {what} without {INDEX} or {MANIFEST}: expected {KINDS[request.kind]}",
                hint="see what is in it: " + show,
            )
        return UsageError(
            f"`{path}` is {KINDS[found]}: `{request.kind}:` reads {KINDS[request.kind]}", hint=f"{found}:{quote(path)}"
        )

    def close(self) -> None:
        for opened in (*self._files.values(), *self._contents.values()):
            if not isinstance(opened, BundleError):
                opened.close()


def _check_readable(path: Path) -> None:
    """Raise UsageError when this user may not read a file or directory, or what is below it; it need not be there."""
    try:
        probe(path)
        if path.is_dir():
            probe(path / INDEX)
        elif path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise UsageError(
            f"`{path}` cannot be read: {reason(error)}", hint=f"see who may read it: ls -ld {quote(path)}"
        ) from None


def _absent(request: FileRequest) -> UsageError:
    path = request.path
    hint = _misread(request)
    if hint is None:
        near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
        hint = f"see what is there: ls {quote(path.parent)}"
        if near:
            hint = f"did you mean {request.kind}:{quote(path.with_name(near[0]))}?"
    return UsageError(f"`{path}` is not there: expected {KINDS[request.kind]}", hint=hint)


def _misread(request: FileRequest) -> Optional[str]:
    """Say what to type instead of a path that a shell or the colons in it made another one; None when neither did."""
    written_out = without_tilde(request.path)
    if written_out is not None:
        return f"no shell has replaced the `~`: write {request.kind}:{written_out}"
    path, *more = [str(request.path), *request.choice.split(":")] if request.choice else [str(request.path)]
    for word in more:
        path += f":{word}"
        if Path(path).exists():
            return f"a path ends at its first colon: name a link to it that has none: ln -s {quote(path)} images"
    return None


def _names_in(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def prefix_of(path: Path) -> Optional[str]:
    """Return the prefix that reads a file or directory; None when that is not found out without unpacking it."""
    try:
        if path.is_dir():
            return _kind_of(Directory(path), is_directory=True)
        with Tar(path) as contents:
            return _kind_of(contents, is_directory=False)
    except BundleError:
        return None


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
