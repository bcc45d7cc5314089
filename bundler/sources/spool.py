"""Blobs that are made here and not fetched: their sizes must be known before an archive is laid out.

They wait in a directory beside the archive until they are copied into their places. What cost a download to make waits
there for the next run too, when this one fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Union

from bundler.definition.spec import Spec
from bundler.sources.mirrors import Endpoint
from bundler.sources.own_files import open_own_directory
from bundler.sources.source import BlobRequest, BlobStream, Source, SourceAround
from bundler.sources.writer_lock import open_for_writer
from bundles.errors import DiskFullError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size
from bundles.runtime.system import system

# What is not whole yet; what was read from the local Docker, which has it still; what was fetched and made smaller.
_UNFINISHED, _READ, _MADE = ".unfinished", ".read", ".made"
_BLOCK = 1 << 20
# Two digests, how the one was made of the other, and one of the above.
_LONGEST_NAME = 2 * 64 + 24


class Spool:
    """Blobs in a directory, each once. Thread-safe.

    Args:
        directory: where they wait; None to learn their sizes and digests only, and keep nothing.
    """

    def __init__(self, directory: Optional[Path]) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._names: dict[Digest, str] = {}

    @property
    def keeps(self) -> bool:
        """Whether blobs can be had from it, and not only their sizes and digests."""
        return self._directory is not None

    def has(self, digest: Digest) -> bool:
        with self._lock:
            return digest in self._names

    def add(self, media_type: str, pieces: Iterator[bytes]) -> Descriptor:
        """Keep a blob, whose digest is not known before its end.

        Raises:
            DiskFullError: no space is left.
        """
        hashed, size = Hashed(pieces), 0
        handle, name = self._create()
        try:
            for piece in hashed:
                size += len(piece)
                if handle is not None:
                    handle.write(piece)
            descriptor = Descriptor(media_type, hashed.digest, size)
            if handle is not None:
                handle.close()
            self._named(Path(name), descriptor.digest, descriptor.digest.hex + _READ)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no space left for compressed layers in `{self._directory}`",
                    hint="make room there, or choose another place with -o FILE",
                ) from None
            raise
        finally:
            if handle is not None:
                handle.close()
        return descriptor

    def keep(self, digest: Digest, origin: str) -> None:
        """Let a later run `take_up` what was added, which is right.

        Args:
            digest: of what was added.
            origin: what it was made of and how; only digits, letters and `-`.
        """
        self._named(None, digest, f"{origin}.{digest.hex}{_MADE}")

    def take_up(self, media_type: str, origin: str) -> Optional[Descriptor]:
        """Return what an earlier run made of `origin`, when it is still what it was; else None."""
        for path in self._directory.glob(f"{origin}.*{_MADE}") if self._directory else ():
            with path.open("rb") as file:
                hashed = Hashed(iter(lambda: file.read(_BLOCK), b""))
                size = sum(map(len, hashed))
            if path.name == f"{origin}.{hashed.digest.hex}{_MADE}":
                self._named(path, hashed.digest, path.name)
                return Descriptor(media_type, hashed.digest, size)
        return None

    def clear(self, *, all_of_it: bool) -> int:
        """Remove what waits here, or only what no later run can take up; gives the bytes that are still here."""
        left = 0
        unwanted = (_UNFINISHED, _READ, *([_MADE] if all_of_it else []))
        for path in self._directory.iterdir() if self._directory else ():
            if path.suffix in unwanted:
                path.unlink()
            elif path.suffix == _MADE:
                left += path.stat().st_size
        return left

    def _named(self, path: Optional[Path], digest: Digest, name: str) -> None:
        """Give the file of a blob its name; None for `path` means the one it has. Two may become the same one."""
        with self._lock:
            if self._directory is not None:
                system.replace(path or self._path(digest), self._directory / name)
            self._names[digest] = name

    def open(self, digest: Digest, offset: int) -> BlobStream:
        """Read a blob that was kept, from `offset` on."""
        return _File(self._path(digest), offset)

    def _create(self) -> tuple[Optional[tempfile._TemporaryFileWrapper[bytes]], str]:
        if self._directory is None:
            return None, ""
        handle = tempfile.NamedTemporaryFile(dir=self._directory, suffix=_UNFINISHED, delete=False)  # noqa: SIM115  closed by `add`
        return handle, handle.name

    def _path(self, digest: Digest) -> Path:
        if self._directory is None:
            raise ValueError("this spool keeps nothing")
        return self._directory / self._names[digest]


class _File(BlobStream):
    def __init__(self, path: Path, offset: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return None

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        return self._file.readinto(buffer) or 0

    def close(self) -> None:
        self._file.close()


class _Bytes(BlobStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return None

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Local:
    """An image that is here: what its name stands for, and its indexes, manifests and configs."""

    root: Descriptor
    documents: Mapping[Descriptor, bytes]


class SpooledSource(SourceAround):
    """Images that are here, under the names they are to have, before those of another source.

    `add` comes before anything is read.
    """

    def __init__(self, source: Source, spool: Spool) -> None:
        super().__init__(source)
        self.spool = spool
        self._names: dict[Reference, Descriptor] = {}
        self._documents: dict[Digest, tuple[Descriptor, bytes]] = {}

    def add(self, reference: Reference, local: Local) -> None:
        """Serve `local` as `reference`."""
        self._names[reference] = local.root
        self._documents.update({known.digest: (known, data) for known, data in local.documents.items()})

    @property
    def documents(self) -> tuple[bytes, ...]:
        """The indexes, manifests and configs of the images that are here."""
        return tuple(data for _, data in self._documents.values())

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        digest = reference.digest
        if digest is None and reference in self._names:
            digest = self._names[reference].digest
        if digest in self._documents:
            return self._documents[digest]
        return super().manifest(reference)

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        return None if reference in self._names else super().known_digest(reference)

    def open_blob(self, request: BlobRequest) -> BlobStream:
        digest = request.descriptor.digest
        if digest in self._documents:
            return _Bytes(self._documents[digest][1][request.offset :])
        if not (self.spool.keeps and self.spool.has(digest)):
            return super().open_blob(request)
        return self.spool.open(digest, request.offset)


class Hashed:
    """Pieces of bytes that know, once all of them have passed, what their digest is."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._digest = pieces, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._digest.update(piece)
            yield piece

    @property
    def digest(self) -> Digest:
        return Digest(f"sha256:{self._digest.hexdigest()}")


@contextlib.contextmanager
def spool_beside(target: Path, spec: Spec, progress: Progress) -> Iterator[Spool]:
    """Make a spool in a directory beside the archive, removed at the end; what a failed run recompressed waits there.

    Args:
        target: the archive.
        spec: whether anything is to be made at all.
        progress: is told what waits for the next run.

    Raises:
        BundleError: another process makes the same archive.
        UsageError: no directory can be made there.
    """
    directory = system.full_path(target.with_name(f"{target.name}.spool"), _LONGEST_NAME)
    # What a run has left is removed by the next one that ends well, whether or not that makes anything itself.
    fetches = not all(record.is_complete for record in spec.records)
    if not (spec.from_daemon or spec.files or spec.recompress or fetches or directory.is_dir()):
        yield Spool(None)
        return
    with contextlib.ExitStack() as stack:
        handle = open_for_writer(directory, target.name, lambda: _open_directory(directory))
        # What else somebody has put there is not ours to remove: it then stays.
        stack.callback(system.remove_directory, directory, handle)
        spool = Spool(directory)
        spool.clear(all_of_it=False)
        done = False
        try:
            yield spool
            done = True
        finally:
            left = spool.clear(all_of_it=done)
            if left:
                what = f"{human_size(left)} of recompressed layers"
                progress.message(f"note: {what} wait in {directory} for the next run")


def _open_directory(directory: Path) -> int:
    directory.mkdir(mode=0o700, exist_ok=True)
    return open_own_directory(directory)
