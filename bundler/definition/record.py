"""Reading a record, the directory that `bundle record` writes. docs/network.md has the format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from bundler.definition.oci_layout import LayoutContent, cache_reference, read_index
from bundles.archive.tape.record import FILE, Recorded
from bundles.errors import UsageError, reason
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command, quote

# Where tapes stand on the registry.
TAPES = "offline-bundle/tape"
# The file that a recording appends to; while it is there, the record is not whole.
TAPE_FILE = "tape.jsonl"
# The same of a recording into a whole record, which stays whole until its end.
NEXT_TAPE_FILE = "next.jsonl"


@dataclasses.dataclass(frozen=True)
class Record:
    """A whole record: its directory, what it says of itself, and what is in it under which names."""

    path: Path
    recorded: Recorded
    tapes: Mapping[Reference, LayoutContent]
    caches: Mapping[Reference, LayoutContent]

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record's documents; its contents may be absent.

        Raises:
            UsageError: it is none, or not whole.
        """
        recorded = read_record(path)
        tapes: dict[Reference, LayoutContent] = {}
        caches: dict[Reference, LayoutContent] = {}
        for name, descriptor in read_index(path):
            content = LayoutContent(path, descriptor, record_again(path))
            kind, _, rest = name.partition("-")
            if kind == "tape":
                # Further pieces of a long tape are tape-2, tape-3, ...
                tapes[Reference.parse(f"{TAPES}:{recorded.name}{'.' + rest if rest else ''}")] = content
            elif kind == "cache":
                caches[cache_reference(recorded.cache_of(rest))] = content
        return cls(path, recorded, tapes, caches)

    @property
    def contents(self) -> Mapping[Reference, LayoutContent]:
        return {**self.tapes, **self.caches}

    @property
    def is_complete(self) -> bool:
        """Tell whether all contents are here, by their sizes; a record may have been kept without them."""
        return all(
            self.has(layer)
            for content in self.tapes.values()
            for layer in parse_manifest(content.read(content.root)).layers
        )

    def has(self, content: Descriptor) -> bool:
        """Tell whether a content is here, by its size."""
        path = self.path / content.digest.blob_path
        return path.is_file() and path.stat().st_size == content.size


def record_again(path: Path) -> str:
    """Return what to type when a record is damaged or too old."""
    return f"record it again, with the same options as then: {own_command('record')} WHAT -o {quote(path)}"


def pins_of(records: Iterable[Record]) -> dict[Reference, Digest]:
    """Return what the names of images stand for: what the first build that used them found."""
    pins: dict[Reference, Digest] = {}
    for image in (image for record in records for image in record.recorded.images):
        if image.reference.digest is None:
            pins.setdefault(image.reference, image.digest)
    return pins


def read_record(directory: Path) -> Recorded:
    """Read what a whole record says of itself.

    Raises:
        UsageError: there is none, or its recording did not end.
    """
    if (directory / TAPE_FILE).exists():
        raise UsageError(
            f"the record `{directory}` is not whole: its recording was interrupted",
            hint="run the same `bundle record` again; it goes on",
        )
    try:
        return Recorded.parse((directory / FILE).read_bytes())
    except OSError as error:
        raise UsageError(
            f"`{directory}` is not a record: {FILE} cannot be read ({reason(error)})",
            hint=f"make one: {own_command('record')} app/ -o app.record",
        ) from None
