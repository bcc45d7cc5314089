"""Writing an archive: laid out before the first byte arrives, each blob written once, at its final offset.

The file is called `NAME.partial` until every byte is in place, verified and synced. A run that is interrupted leaves
it, with a journal, and the next run for the same bundle goes on.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Optional

from bundles.descriptor import Descriptor
from bundles.digest import Digest
from bundles.errors import ArchiveError, BundleError, DiskFullError, UsageError
from bundles.frontier import FrontierHasher
from bundles.journal import Journal
from bundles.layout import (
    CHECKSUM_NAME,
    END_OF_TAR,
    MANIFEST_NAME,
    OCI_LAYOUT,
    OCI_LAYOUT_NAME,
    Entry,
    checksum_line,
    header,
    padding,
)
from bundles.manifest import Manifest
from bundles.progress import human_size
from bundles.reader import Archive
from bundles.syncer import Syncer

CHUNK = 1 << 20
# How much a blob grows between two lines of the journal: what an interruption can cost.
_JOURNAL_STEP = 4 << 20


@dataclasses.dataclass(frozen=True)
class Contents:
    """All of an archive but its layers: `files`, `documents` (manifests and configs) and `program` as raw bytes."""

    manifest: Manifest
    files: Mapping[str, bytes]
    documents: Mapping[Digest, bytes]
    program: bytes


@dataclasses.dataclass(frozen=True)
class Written:
    """A finished archive: its path, its size in bytes, the SHA-256 of the whole file and the digest of bundle.json."""

    path: Path
    size: int
    sha256: str
    digest: Digest


class BlobSink:
    """Where one blob is written, from front to back.

    `position` is how many bytes are in place: more than zero at the start when an earlier run left some, all of them
    when there is nothing to fetch. Not for use by several threads at once.
    """

    def __init__(self, writer: ArchiveWriter, descriptor: Descriptor, claimed: int) -> None:
        self.descriptor = descriptor
        self.position = 0
        self.resumed = 0
        self._writer = writer
        self._entry = writer.layout.blob(descriptor.digest)
        self._hash = hashlib.sha256()
        self._journaled = 0
        self._adopt(min(claimed, descriptor.size))
        self.resumed = self._journaled = self.position

    def _adopt(self, claimed: int) -> None:
        """Hash what an earlier run wrote."""
        buffer = memoryview(bytearray(min(CHUNK, claimed)))
        while self.position < claimed:
            view = buffer[: claimed - self.position]
            count = os.preadv(self._writer.file, [view], self._entry.data_offset + self.position)
            if count == 0:
                break
            self._hash.update(view[:count])
            self.position += count

    def write(self, data: memoryview) -> None:
        """Append bytes.

        Raises:
            DiskFullError: no space is left; what is written stays for the next run.
        """
        self._hash.update(data)
        self._writer.write_at(self._entry.data_offset + self.position, data)
        self.position += len(data)
        self._writer.grown(self._entry, self.position)
        if self.position - self._journaled >= _JOURNAL_STEP:
            self._journaled = self.position
            self._writer.journal.written(self.descriptor.digest, self.position)

    def finish(self) -> bool:
        """End the blob: True when its bytes are right; when not, False, and the blob begins again at position 0."""
        if self.position == self.descriptor.size and self._hash.hexdigest() == self.descriptor.digest.hex:
            self._writer.journal.written(self.descriptor.digest, self.position)
            self._writer.complete(self._entry)
            return True
        self._hash = hashlib.sha256()
        self.position = self.resumed = self._journaled = 0
        self._writer.journal.written(self.descriptor.digest, 0)
        self._writer.grown(self._entry, 0)
        return False


class ArchiveWriter:
    """Writes the archive `path` with these contents. A context manager.

        with ArchiveWriter(path, contents) as writer:
            for layer in writer.layers: ...fill writer.sink(layer)...
            written = writer.finish()

    Raises:
        UsageError: `path` is a file that is no bundle, or its directory cannot be written.
        DiskFullError: the file system has less space than the archive needs; nothing was written.
        BundleError: another process is writing the same archive.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self._contents = contents
        self._manifest_bytes = contents.manifest.to_bytes()
        self.digest = Digest.of(self._manifest_bytes)
        self.layout = contents.manifest.layout(len(self._manifest_bytes))
        self.layers = tuple(blob for blob in contents.manifest.blobs if blob.digest not in contents.documents)
        self._partial = path.with_name(path.name + ".partial")
        _check_target(path)
        try:
            self.file = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"`{self._partial}` cannot be written: {(error.strerror or str(error)).lower()}",
                hint="choose another place with -o FILE",
            ) from None
        try:
            self._lock()
            self.journal = Journal(path.with_name(path.name + ".journal"), self.digest)
            if not self.journal.claims:
                os.ftruncate(self.file, 0)
            self._check_space()
            self._hasher = FrontierHasher(self.file, self.layout)
            self._syncer = Syncer(self.file, self.journal)
            self._write_metadata()
        except BaseException:
            os.close(self.file)
            raise
        self._hasher.start()
        self._syncer.start()

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks: two runs at once are then the user's to avoid
            raise BundleError(
                f"`{self._partial}` is being written by another `bundle create`",
                hint="wait for it to end, or choose another -o FILE",
            ) from None

    def _check_space(self) -> None:
        status = os.fstatvfs(self.file)
        free = status.f_bavail * status.f_frsize + os.fstat(self.file).st_blocks * 512
        needed = self.layout.size
        if free < needed:
            self.journal.close()
            if os.fstat(self.file).st_size == 0:
                self._partial.unlink()
                self.journal.remove()
            raise DiskFullError(
                f"`{self.path.parent}` has {human_size(free)} free and the archive needs {human_size(needed)}",
                hint="make room there, or choose another place with -o FILE",
            )

    def _write_metadata(self) -> None:
        small = {
            OCI_LAYOUT_NAME: OCI_LAYOUT,
            CHECKSUM_NAME: checksum_line(self.digest),
            MANIFEST_NAME: self._manifest_bytes,
            **self._contents.files,
            **{digest.blob_path: data for digest, data in self._contents.documents.items()},
        }
        for name, data in small.items():
            entry = self.layout.entry(name)
            self.write_at(entry.offset, memoryview(header(name, entry.size) + data + bytes(padding(entry.size))))
            self._hasher.complete(entry)

    def sink(self, descriptor: Descriptor) -> BlobSink:
        """Where to write that layer; one of `layers`, each once."""
        entry = self.layout.blob(descriptor.digest)
        self.write_at(entry.offset, memoryview(header(entry.name, entry.size)))
        return BlobSink(self, descriptor, self.journal.claims.get(descriptor.digest, 0))

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset of the archive, whole.

        Raises:
            DiskFullError: no space is left.
        """
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self.file, data[done:], offset + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"no space left for `{self._partial}`; the archive needs {human_size(self.layout.size)} in all",
                    hint="make room and run the same command again; it goes on where it stopped",
                ) from None
            if error.errno == errno.EFBIG:
                raise DiskFullError(
                    f"the file system under `{self._partial}` does not take a file of {human_size(offset)}",
                    hint="choose a place with another file system (FAT32 ends at 4 GiB) with -o FILE",
                ) from None
            raise ArchiveError(f"`{self._partial}` cannot be written: {error.strerror}") from None
        self._syncer.wrote(done)

    def grown(self, entry: Entry, position: int) -> None:
        """The first `position` bytes of an entry are written; fewer than before when it begins again."""
        self._hasher.grown(entry, position)
        self._syncer.reached(entry, position)

    def complete(self, entry: Entry) -> None:
        """An entry's bytes are written and right."""
        self.write_at(entry.data_offset + entry.size, memoryview(bytes(padding(entry.size))))
        self._hasher.complete(entry)

    def finish(self) -> Written:
        """Complete the archive: tail, sync, sha256 file, final name.

        Raises:
            DiskFullError, ArchiveError: as for `write_at`.
        """
        self.write_at(self.layout.end_of_entries, memoryview(END_OF_TAR + self._contents.program))
        os.ftruncate(self.file, self.layout.size)
        sha256 = self._hasher.result(END_OF_TAR + self._contents.program)
        self._syncer.stop()
        os.fsync(self.file)
        # The checksum first: whoever sees the archive under its final name finds the checksum beside it.
        checksum = self.path.with_name(self.path.name + ".sha256")
        _write_synced(checksum, f"{sha256}  {self.path.name}\n".encode())
        self._partial.replace(self.path)
        _sync_directory(self.path.parent)
        self.journal.remove()
        return Written(self.path, self.layout.size, sha256, self.digest)

    def close(self) -> None:
        """End without finishing; what is written stays for the next run."""
        self._hasher.stop()
        self._syncer.stop()
        self.journal.close()
        os.close(self.file)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


def _check_target(path: Path) -> None:
    """Refuse to replace a file that is not an archive of ours."""
    if path.is_dir():
        raise UsageError(f"`{path}` is a directory", hint=f"name a file: -o {path / 'offline.tar'}")
    if not path.parent.is_dir():
        raise UsageError(f"the directory `{path.parent}` does not exist", hint=f"mkdir -p {path.parent}")
    if path.exists() and path.stat().st_size:
        try:
            Archive(path).close()
        except ArchiveError:
            raise UsageError(
                f"`{path}` exists and is not a complete bundle, so it is not replaced",
                hint="choose another -o FILE, or remove it first",
            ) from None


def _write_synced(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems (FUSE, CIFS) cannot sync a directory; the file itself is synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO):
            raise
    finally:
        os.close(directory)
