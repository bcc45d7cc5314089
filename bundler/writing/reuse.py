"""The archive that is there already is used again when it is the one that is asked for, with every byte of it right.

It is read in place. Only what is wrong in it makes a run write, so that there is no moment without a whole archive
under its name, however a run ends that has nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from bundler.writing.contents import Contents
from bundler.writing.journal import Journal, journal_of
from bundler.writing.writer import Written, WrittenFile, is_there, names_and_sizes
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import ArchiveError
from bundles.runtime.filesystem import replace_file
from bundles.runtime.progress import Progress

_CHUNK = 1 << 20


def reuse_archive(path: Path, contents: Contents, split: Optional[int], progress: Progress) -> Optional[Written]:
    """Return the archive `path` when it is there with these contents, whole and right; None when it has to be written.

    A checksum file that is missing or differs is written anew.

    Args:
        path: its name.
        contents: what is to be in it.
        split: the most bytes that a part may have; None for one file.
        progress: is told of the bytes that are read.

    Raises:
        BundleError: another process is writing it.
        OSError: the checksum file cannot be written.
    """
    paths, sizes = names_and_sizes(path, contents.layout, split)
    if not is_there(paths, sizes, contents.digest):
        return None
    with _locked(path, contents, sizes) as journal:
        # A run that wrote it and was ended when it had given it its name leaves a journal that claims everything.
        if (journal.claims and not journal.renaming) or not _is_right(paths[0], contents, progress):
            return None
        files = tuple(WrittenFile(file, size, _sha256(file)) for file, size in zip(paths, sizes))
        written = Written(path, contents.layout.size, files, contents.digest)
        if not _has_content(written.checksums, written.checksum_lines):
            replace_file(written.checksums, [written.checksum_lines])
        if journal.renaming:
            journal.remove()
        return written


@contextlib.contextmanager
def _locked(path: Path, contents: Contents, sizes: Sequence[int]) -> Iterator[Journal]:
    journal = Journal(journal_of(path), contents.digest, ",".join(map(str, sizes)))
    try:
        yield journal
    finally:
        journal.give_up()


def _is_right(path: Path, contents: Contents, progress: Progress) -> bool:
    try:
        with Archive(path) as archive:
            # bundle.json says only that there is a signature: another key's is replaced.
            if contents.signature is not None and archive.read_signature() != contents.signature:
                return False
            verify_archive(archive, progress)
    except (ArchiveError, OSError):
        return False
    return True


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _has_content(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False
