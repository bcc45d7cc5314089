"""Whether every byte of an archive is right: its headers, its documents, its blobs."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Optional, Union

from bundles.archive.layout import BLOCK, END_OF_TAR, SIGNATURE_NAME, Entry, header, padding
from bundles.archive.manifest import Image
from bundles.archive.reader import CHUNK, Archive
from bundles.archive.signature import is_well_formed
from bundles.errors import DamagedArchiveError, Problem
from bundles.oci.descriptor import CONFIG_TYPES, Descriptor
from bundles.oci.digest import Digest
from bundles.runtime.progress import Progress, Silent, Task
from bundles.runtime.workers import in_parallel


def check_documents(archive: Archive) -> None:
    """Check everything but the layers: the small files, the program, and every image's tree of documents.

    Fast whatever the size of the layers. Raises:
        DamagedArchiveError: with every problem found.
    """
    problems = [problem for file in archive.manifest.files for problem in _try(archive.read_file, file.name)]
    problems += _try(archive.read_program)
    for image in archive.manifest.images:
        problems += _try(check_image, archive, image)
    if problems:
        raise archive.damaged(list(dict.fromkeys(problems)))


def verify_archive(archive: Archive, progress: Optional[Progress] = None) -> None:
    """Check every byte: headers, padding, files, program, blobs against their digests.

    Hashes on all cores. Raises:
        DamagedArchiveError: with every problem found.
    """
    stop = threading.Event()
    with (progress or Silent()).task("verify", archive.layout.size) as task:
        # The largest first, so that no core is left alone with one at the end.
        blobs = sorted(archive.manifest.blobs, key=lambda blob: -blob.size)
        checks = in_parallel(lambda blob: _check_blob(archive, blob, task, stop), blobs, os.cpu_count() or 1, stop.set)
    problems = [problem for found in checks for problem in found]
    for entry in archive.layout.entries:
        problems += _check_frame(archive, entry)
    if archive.manifest.signed and not is_well_formed(archive.read_signature() or b""):
        problems.append(Problem(SIGNATURE_NAME, "is not a signature"))
    if archive.volume.read(archive.layout.end_of_entries, len(END_OF_TAR)) != END_OF_TAR:
        problems.append(Problem("the end of the tar", "its two blocks are not zero"))
    problems += _try(check_documents, archive)
    if problems:
        raise archive.damaged(list(dict.fromkeys(problems)))


def check_image(archive: Archive, image: Image) -> None:
    """Check an image's documents, and that its platforms are its root's: what is shown is what is installed.

    Raises:
        DamagedArchiveError: with what is wrong.
    """
    below = _below(archive, image.root.media_type, image.root.digest, image.root.size)
    if isinstance(below, DamagedArchiveError):
        raise below
    for content in image.platforms:
        if content.manifest.digest not in below:
            problem = f"{content.manifest.digest}, which it lists for {content.platform}, is not below its root"
            raise archive.damaged([Problem(image.reference.familiar, problem)])


@functools.lru_cache(maxsize=64)
def _below(
    archive: Archive, media_type: str, digest: Digest, size: int
) -> Union[frozenset[Digest], DamagedArchiveError]:
    """Check the documents below a root, once however many images have it: all that is below it, or what is wrong."""
    found = set()
    try:
        for blob in archive.walk(Descriptor(media_type, digest, size)):
            found.add(blob.digest)
            if blob.media_type in CONFIG_TYPES:
                archive.read_document(blob)
    except DamagedArchiveError as error:
        return error
    return frozenset(found)


def _try(check: Callable[..., object], *arguments: object) -> list[Problem]:
    try:
        check(*arguments)
    except DamagedArchiveError as error:
        return list(error.problems)
    return []


def _check_blob(archive: Archive, blob: Descriptor, task: Task, stop: threading.Event) -> list[Problem]:
    reader = archive.open_blob(blob)
    buffer = memoryview(bytearray(min(CHUNK, blob.size)))
    try:
        count = reader.readinto(buffer)
        while count and not stop.is_set():
            task.advance(count)
            count = reader.readinto(buffer)
    except DamagedArchiveError as error:
        return list(error.problems)
    if blob.size == 0 and blob.digest != Digest.of(b""):
        return [archive.blob_problem(blob)]
    return []


def _check_frame(archive: Archive, entry: Entry) -> list[Problem]:
    """Check the tar header before an entry and the zero bytes behind it."""
    problems = []
    if archive.volume.read(entry.offset, BLOCK) != header(entry.name, entry.size):
        problems.append(Problem(f"tar header of {entry.name} at offset {entry.offset}", "is damaged"))
    size = padding(entry.size)
    if archive.volume.read(entry.data_offset + entry.size, size) != bytes(size):
        problems.append(Problem(f"padding after {entry.name}", "is not zero"))
    return problems
