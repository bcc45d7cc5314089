"""Writing an archive: laid out before the first byte arrives, each blob written once, at its final offset.

The file is called `NAME.partial` until every byte is in place, verified and synced. A run that is interrupted leaves
it, with a journal, and the next run for the same bundle goes on. When that very bundle is there and something in it is
wrong (bundler/writing/reuse.py), it is taken back: what is right in it is not fetched.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from bundler.writing.contents import Contents
from bundler.writing.journal import Journal, journal_of
from bundler.writing.partial_files import Unfinished, disk_usage, unfinished_files
from bundler.writing.running_hash import FrontierHasher
from bundler.writing.syncer import Syncer
from bundles.archive.layout import (
    CHECKSUM_NAME,
    END_OF_TAR,
    MANIFEST_NAME,
    OCI_LAYOUT,
    OCI_LAYOUT_NAME,
    SIGNATURE_NAME,
    Entry,
    Layout,
    checksum_line,
    header,
    padding,
)
from bundles.archive.parts import begins_an_archive, cut, further_parts, part_name
from bundles.archive.reader import Archive
from bundles.errors import ArchiveError, DiskFullError, UsageError, reason
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.runtime.closeable import Closeable
from bundles.runtime.filesystem import check_name, free_space, largest_file, no_directory, probe, replace_file
from bundles.runtime.program import quote
from bundles.runtime.signals import held
from bundles.runtime.sizes import human_size
from bundles.runtime.system import system

CHUNK = 1 << 20
# The longest of the names that belong to an archive, and with a temporary name's dot and end the longest of all.
_LONGEST = ".previous.001.partial"
LONGEST_SUFFIX = len(_LONGEST) + len("..partial")
# How much a blob grows between two lines of the journal: what an interruption can cost.
_JOURNAL_STEP = 1 << 20


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A file of a finished archive: its path, its size in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Written:
    """A finished archive: its name, its size in bytes, its files (one, or the parts) and the digest of bundle.json."""

    path: Path
    size: int
    files: tuple[WrittenFile, ...]
    digest: Digest

    @property
    def is_split(self) -> bool:
        """Whether the files are parts."""
        return self.files[0].path != self.path

    @property
    def checksums(self) -> Path:
        """The file for `sha256sum -c`."""
        return self.path.with_name(self.path.name + ".sha256")

    @property
    def checksum_lines(self) -> bytes:
        """What stands in it."""
        return "".join(f"{file.sha256}  {file.path.name}\n" for file in self.files).encode()


class BlobSink:
    """Where one blob is written, from front to back.

    `position` is how many bytes are in place: more than zero at the start when an earlier run left some, all of them
    when there is nothing to fetch. Not for use by several threads at once.
    """

    def __init__(
        self, writer: ArchiveWriter, descriptor: Descriptor, claimed: int, stopped: Callable[[], bool]
    ) -> None:
        self.descriptor = descriptor
        self.position = 0
        self.resumed = 0
        self._writer = writer
        self._entry = writer.layout.blob(descriptor.digest)
        self._hash = hashlib.sha256()
        self._journaled = 0
        self._adopt(min(claimed, descriptor.size), stopped)
        self.resumed = self._journaled = self.position

    def _adopt(self, claimed: int, stopped: Callable[[], bool]) -> None:
        """Hash what an earlier run wrote, as the medium has it."""
        self._writer.files.forget(self._entry.data_offset, claimed)
        buffer = memoryview(bytearray(min(CHUNK, claimed)))
        while self.position < claimed and not stopped():
            view = buffer[: claimed - self.position]
            count = self._writer.files.readinto(self._entry.data_offset + self.position, view)
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


class ArchiveWriter(Closeable):
    """Writes the archive `path` with these contents. A context manager.

        with ArchiveWriter(path, contents) as writer:
            for layer in writer.layers: ...fill writer.sink(layer)...
            written = writer.finish()

    Args:
        path: its name; the parts of a split one have a number behind it.
        contents: what goes in.
        split: the most bytes that a part may have; None for one file.

    Raises:
        UsageError: `path` is a file that is no bundle, its directory cannot be written, or its file system does not
            take files of that size.
        DiskFullError: the file system has less space than the archive needs; nothing was written.
        BundleError: another process is writing the same archive.
    """

    def __init__(self, path: Path, contents: Contents, split: Optional[int] = None) -> None:
        self.path = path
        self._contents = contents
        self.digest, self.layout = contents.digest, contents.layout
        self.layers = tuple(blob for blob in contents.manifest.blobs if blob.digest not in contents.documents)
        paths, sizes = names_and_sizes(path, self.layout, split)
        check_directory(path)
        check_limit(path, self.layout, split)
        self.journal = Journal(journal_of(path), self.digest, ",".join(map(str, sizes)))
        try:
            if not self.journal.renaming:
                _check_target(path, split is not None)
            partials = unfinished_files(path)
            if not self.journal.claims and is_there(paths, sizes, self.digest):
                for partial in partials:
                    partial.unlink()
                self.journal.adopt({layer.digest: layer.size for layer in self.layers})
            else:
                self._check_space(disk_usage(partials))
            self.files = Unfinished(paths, sizes, renaming=self.journal.renaming)
        except BaseException:
            self.journal.give_up()
            raise
        try:
            self.journal.begin()
            if not self.journal.claims:
                # Nothing of an earlier run was touched until here: what could be refused has been.
                self.files.clear()
                for partial in partials:
                    if partial not in self.files.partials:
                        partial.unlink()
            self._hasher = FrontierHasher(self.files, self.layout)
            self._syncer = Syncer(self.files, self.journal)
            self._write_metadata()
        except BaseException:
            self.files.close()
            self.journal.close()
            raise
        with held():
            self._hasher.start()
            self._syncer.start()

    def _check_space(self, used: int) -> None:
        """Refuse what does not fit where `used` bytes are taken by what this run takes over or replaces."""
        if self.journal.renaming:
            return
        free = free_space(self.path.parent) + used
        if free < self.layout.size:
            raise DiskFullError(
                f"`{self.path.parent}` has {human_size(free)} free and the archive needs "
                f"{human_size(self.layout.size)}",
                hint="make room there, or choose another place with -o FILE",
            )

    def _write_metadata(self) -> None:
        small = {
            OCI_LAYOUT_NAME: OCI_LAYOUT,
            CHECKSUM_NAME: checksum_line(self.digest),
            MANIFEST_NAME: self._contents.manifest_bytes,
            **({SIGNATURE_NAME: self._contents.signature} if self._contents.signature is not None else {}),
            **self._contents.files,
            **{digest.blob_path: data for digest, data in self._contents.documents.items()},
        }
        for name, data in small.items():
            entry = self.layout.entry(name)
            self.write_at(entry.offset, memoryview(header(name, entry.size) + data + bytes(padding(entry.size))))
            self._hasher.complete(entry)

    def sink(self, descriptor: Descriptor, stopped: Callable[[], bool] = lambda: False) -> BlobSink:
        """Return where to write that layer; one of `layers`, each once.

        What an earlier run wrote of it is read again first, until `stopped` says that it is no longer wanted.
        """
        entry = self.layout.blob(descriptor.digest)
        self.write_at(entry.offset, memoryview(header(entry.name, entry.size)))
        return BlobSink(self, descriptor, self.journal.claims.get(descriptor.digest, 0), stopped)

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset of the archive, whole.

        Raises:
            DiskFullError: no space is left.
            ArchiveError: the medium failed.
        """
        self.files.write(offset, data)
        self._syncer.wrote(len(data))

    def grown(self, entry: Entry, position: int) -> None:
        """Note that the first `position` bytes of an entry are written; fewer than before when it begins again."""
        self._hasher.grown(entry, position)
        self._syncer.reached(entry, position)

    def complete(self, entry: Entry) -> None:
        """Pad an entry, whose bytes are written and right."""
        self.write_at(entry.data_offset + entry.size, memoryview(bytes(padding(entry.size))))
        self._hasher.complete(entry)

    def finish(self) -> Written:
        """Complete the archive: tail, sync, sha256 file, final names.

        Raises:
            DiskFullError, ArchiveError: as for `write_at`.
        """
        tail = END_OF_TAR + self._contents.program
        self.write_at(self.layout.end_of_entries, memoryview(tail))
        self._syncer.stop()
        self._syncer.check()
        self.files.end()
        # Last, so that the rest is hashed while the sync waits for the medium.
        hashes = self._hasher.result(tail)
        files = tuple(map(WrittenFile, self.files.paths, self.files.sizes, hashes))
        written = Written(self.path, self.layout.size, files, self.digest)
        # The checksums first: whoever sees the archive under its final name finds them beside it.
        replace_file(written.checksums, [written.checksum_lines])
        self.journal.complete()
        for stale in further_parts(self.path, len(files)) if self.files.paths != (self.path,) else ():
            stale.unlink()
        self.files.rename()
        self.journal.remove()
        system.sync_directory(self.path.parent)
        return written

    def close(self) -> None:
        """End without finishing; what is written stays for the next run."""
        self._hasher.stop()
        self._syncer.stop()
        self.files.close()
        self.journal.close()


def check_directory(path: Path) -> None:
    """Raise UsageError when an archive cannot be written at `path`: said before the network is asked for anything."""
    check_name(path, "choose another -o FILE")
    try:
        probe(path.with_name(path.name + _LONGEST))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"the name `{path.name[:40]}...` is too long", hint="choose another -o FILE") from None
        if isinstance(error, PermissionError):
            raise UsageError(f"`{path}` cannot be written: {reason(error)}", hint="choose another -o FILE") from None
        raise
    if path.is_dir():
        raise UsageError(f"`{path}` is a directory", hint=f"name a file: -o {quote(path / 'offline.tar')}")
    if path.exists() and not path.is_file():
        raise UsageError(f"`{path}` is a device, a pipe or a socket", hint="name a file: -o offline.tar")
    if not path.parent.is_dir():
        raise no_directory(path.parent)
    if not path.name.isprintable():
        raise UsageError(f"the name {path.name!a} has letters that cannot be printed", hint="choose another -o FILE")
    if path.with_name(path.name + ".sha256").is_dir():
        raise UsageError(f"`{path}.sha256` is a directory, and the checksums go there", hint="choose another -o FILE")


def check_limit(path: Path, layout: Layout, split: Optional[int]) -> None:
    """Raise UsageError when the file system of `path` cannot hold a file of the archive's, or of a part's, size."""
    _, sizes = names_and_sizes(path, layout, split)
    limit = largest_file(path.parent)
    if limit is not None and max(sizes) > limit:
        raise UsageError(
            f"`{path.parent}` is a FAT file system, where a file has at most {limit} bytes: "
            f"the {'largest part' if len(sizes) > 1 else 'archive'} has {max(sizes)}",
            hint="--split 4000MiB",
        )


def _check_target(path: Path, split: bool) -> None:
    """Refuse to replace a file that is not an archive of ours, and to put parts beside a whole of the same name."""
    parts = further_parts(path, 0)
    if split and path.exists():
        raise UsageError(
            f"`{path}` is there, and parts beside it could be taken for it",
            hint=f"choose another -o FILE, or rm {quote(path)}",
        )
    if parts and not split:
        raise UsageError(
            f"`{parts[0]}` is there, and the whole beside it could be taken for it",
            hint=f"choose another -o FILE, or rm {quote(path)}.???",
        )
    if parts and not begins_an_archive(parts[0]):
        raise _not_replaced(parts[0])
    if path.exists() and path.stat().st_size:
        try:
            Archive(path).close()
        except ArchiveError:
            raise _not_replaced(path) from None


def names_and_sizes(path: Path, layout: Layout, split: Optional[int]) -> tuple[Sequence[Path], Sequence[int]]:
    """Return the files of the archive `path`, and the size in bytes of each.

    Raises:
        UsageError: it cannot be cut into parts of at most `split` bytes.
    """
    if not split:
        return (path,), (layout.size,)
    sizes = cut(layout, split)
    return tuple(path.with_name(part_name(path.name, number)) for number in range(1, len(sizes) + 1)), sizes


def is_there(paths: Sequence[Path], sizes: Sequence[int], digest: Digest) -> bool:
    """Tell whether this very bundle is there already, by its bundle.json: an earlier run got to its end."""
    try:
        if [path.stat().st_size for path in paths] != list(sizes):
            return False
        with Archive(paths[0]) as archive:
            return archive.digest == digest
    except (OSError, ArchiveError):
        return False


def _not_replaced(path: Path) -> UsageError:
    return UsageError(
        f"`{path}` exists and is not a complete bundle, so it is not replaced",
        hint="choose another -o FILE, or remove it first",
    )
