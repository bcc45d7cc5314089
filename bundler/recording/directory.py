"""The record's directory while it is written: an OCI image layout that a later run goes on with. docs/network.md."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

from bundler.definition.record import NEXT_TAPE_FILE, TAPE_FILE
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.manifest import ARTIFACT_TYPE, manifest_of, split
from bundles.archive.tape.record import FILE, Recorded
from bundles.archive.tape.url import hides
from bundles.errors import BundleError, ContentError, UsageError, reason
from bundles.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json, parse_manifest
from bundles.runtime.closeable import Closeable
from bundles.runtime.filesystem import open_locked, replace_file
from bundles.runtime.system import system

_BLOCK = 1 << 20
_REF_NAME = "org.opencontainers.image.ref.name"
_SPOOL = "spool"


class Spool:
    """Content on its way in, in a file that has no name of its own yet."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{threading.get_ident()}-{os.urandom(8).hex()}"
        self._file = self.path.open("wb")
        self._hash, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def close(self, media_type: str) -> Optional[Descriptor]:
        """End the file and return what is in it; None for nothing."""
        self._file.close()
        return Descriptor(media_type, Digest(f"sha256:{self._hash.hexdigest()}"), self.size) if self.size else None


class RecordDirectory(Closeable):
    """Takes answers in as they come; `finish` makes a record of them. Thread-safe; one process at a time.

    Args:
        path: is made when it is not there. What an interrupted recording has left there is gone on with; a whole
            record stays whole, and as it is, until `finish` replaces it, and what did not change is not written again.

    `caches` are the manifests of BuildKit's caches, by build.

    Raises:
        BundleError: another process is at it.
        UsageError: it cannot be written, or is something else than a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not (path.is_dir() and (_is_record(path) or not any(path.iterdir()))):
            raise UsageError(f"`{path}` is there and is not a record", hint="choose another place with -o DIRECTORY")
        try:
            path.mkdir(exist_ok=True)
            busy = BundleError(f"`{path}` is being recorded by another `bundle record`", hint="choose another -o")
            self._descriptor = open_locked(path, lambda: os.open(path, os.O_RDONLY), busy)
            self._blobs = path / "blobs" / "sha256"
            self._blobs.mkdir(parents=True, exist_ok=True)
            replace_file(path / "oci-layout", [b'{"imageLayoutVersion":"1.0.0"}'])
            shutil.rmtree(path / _SPOOL, ignore_errors=True)
            (path / _SPOOL).mkdir()
            self.replaces = (path / FILE).exists() and not (path / TAPE_FILE).exists()
            # Contents are called by their digests: more of them do a whole record no harm.
            self._tape_file = path / (NEXT_TAPE_FILE if self.replaces else TAPE_FILE)
            self.tape = Tape(self._answers_left())
            self._lines = self._tape_file.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"`{error.filename or path}` cannot be written: {reason(error)}", hint="choose another -o DIRECTORY"
            ) from None
        self._lock = threading.Lock()
        self.caches: dict[str, bytes] = {}
        self._taken: dict[Digest, int] = {}

    def _answers_left(self) -> Iterator[Answer]:
        """Read the answers of an interrupted recording; the last line may be cut, and a content lost."""
        file = self._tape_file
        for line in file.read_bytes().splitlines() if file.exists() else ():
            try:
                answer = Answer.from_json(parse_json(line, "a line"))
            except UsageError:
                continue
            blob = self._blob(answer.content.digest) if answer.content else None
            if not blob or (answer.content and blob.exists() and blob.stat().st_size == answer.content.size):
                yield answer

    def _blob(self, digest: Digest) -> Path:
        return self._blobs / digest.hex

    def spool(self) -> Spool:
        """Return a place for content that is about to come."""
        return Spool(self.path / _SPOOL)

    def add(self, answer: Answer, spool: Spool) -> None:
        """Take in an answer and its content."""
        with self._lock:
            if self._lines.closed:
                # It was asked for by a client that has left, and the record is being made already.
                return
            if answer.content:
                spool.path.replace(self._blob(answer.content.digest))
            self.tape.add(answer)
            self._lines.write(json.dumps(answer.to_json()) + "\n")
            self._lines.flush()

    def read(self, content: Descriptor, start: int, size: int) -> Iterator[bytes]:
        """Give bytes of a content that was taken in."""
        with self._blob(content.digest).open("rb") as file:
            file.seek(start)
            while size and (data := file.read(min(size, _BLOCK))):
                size -= len(data)
                yield data

    def size_of(self, digest: Digest) -> Optional[int]:
        """Return the size of a cache's blob that was taken in by now; None when it was not.

        What an interrupted run left may be cut.
        """
        return self._taken.get(digest)

    def take_blob(self, spool: Spool, digest: Optional[Digest]) -> bool:
        """Take in a blob of a cache; tell whether it has that digest."""
        content = spool.close("application/octet-stream")
        if content is None or content.digest != digest:
            return False
        spool.path.replace(self._blob(content.digest))
        self._taken[content.digest] = content.size
        return True

    def take_cache(self, build: str, manifest: bytes) -> None:
        """Take in the manifest of a build's cache. A build that changes nothing has none."""
        self.caches[build] = manifest

    def finish(self, recorded: Recorded) -> int:
        """Make a record of what was taken in and of BuildKit's caches, drop what is not of it; return the caches' size.

        Raises:
            ContentError: a content has changed on the disk.
        """
        with self._lock:
            self._lines.close()
        self._write(recorded.to_bytes())
        entries = [self._tape_entry(number, tape, recorded) for number, tape in enumerate(split(self.tape), 1)]
        caches = [(build.cache, self.caches[build.name]) for build in recorded.builds if build.name in self.caches]
        for _, manifest in caches:
            self._write(manifest)
        entries += [_entry(manifest, parse_manifest(manifest).config.media_type, name) for name, manifest in caches]
        for content in self.tape.contents:
            self._check(content)
        # From here on the record is not whole until the end, and a later run can finish it.
        self._tape_file.replace(self.path / TAPE_FILE)
        system.sync_directory(self.path)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        replace_file(self.path / "index.json", [json.dumps(index, indent=2).encode()])
        self._drop_others(entries)
        replace_file(self.path / FILE, [recorded.to_bytes()])
        for rest in (NEXT_TAPE_FILE, TAPE_FILE):
            (self.path / rest).unlink(missing_ok=True)
        layers = {layer for _, manifest in caches for layer in parse_manifest(manifest).layers}
        return sum(layer.size for layer in layers)

    def _write(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        replace_file(self._blob(digest), [data])
        return digest

    def _tape_entry(self, number: int, tape: Tape, recorded: Recorded) -> dict[str, Any]:
        self._write(tape.to_bytes())
        manifest = manifest_of(tape, recorded if number == 1 else None)
        self._write(manifest)
        return _entry(manifest, ARTIFACT_TYPE, "tape" if number == 1 else f"tape-{number}")

    def _check(self, content: Descriptor) -> None:
        digest = hashlib.sha256()
        for data in self.read(content, 0, content.size):
            digest.update(data)
        if digest.hexdigest() != content.digest.hex:
            raise ContentError(
                f"`{self._blob(content.digest)}` is not what was downloaded any more",
                hint=f"see whether the disk is sound; then begin anew: rm -r {shlex.quote(str(self.path))}",
            )

    def _drop_others(self, entries: Iterable[dict[str, Any]]) -> None:
        wanted: set[str] = set()
        for entry in entries:
            digest = Digest(entry["digest"])
            manifest = parse_manifest(self._blob(digest).read_bytes())
            wanted |= {digest.hex, manifest.config.digest.hex, *(layer.digest.hex for layer in manifest.layers)}
        for blob in self._blobs.iterdir():
            if blob.name not in wanted:
                blob.unlink()
        shutil.rmtree(self.path / _SPOOL, ignore_errors=True)

    def close(self) -> None:
        self._lines.close()
        if self.replaces and not len(self.tape):
            self._tape_file.unlink(missing_ok=True)
        os.close(self._descriptor)
        shutil.rmtree(self.path / _SPOOL, ignore_errors=True)


def is_lost(tape: Tape, answer: Answer) -> bool:
    """Tell whether an answer leads to a signed address that is not on the tape: it must be asked for again."""
    location = answer.headers.get("location", "")
    return hides(location) and tape.find("GET", location, {}) is None


def _entry(manifest: bytes, artifact_type: str, name: str) -> dict[str, Any]:
    value = Descriptor.of(OCI_MANIFEST, manifest).to_json()
    return {**value, "artifactType": artifact_type, "annotations": {_REF_NAME: name}}


def _is_record(path: Path) -> bool:
    return any((path / name).exists() for name in (FILE, TAPE_FILE))
