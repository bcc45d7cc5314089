"""record.json: what a record says of the build that it was made of. docs/network.md has the format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.definition.oci_layout import LayoutContent, cache_reference, read_index
from bundles.archive.manifest import check_name
from bundles.errors import UsageError, reason
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json, parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command, quote

VERSION = 1
# Where tapes stand on the registry.
TAPES = "offline-bundle/tape"
FILE = "record.json"
# The file that a recording appends to; while it is there, the record is not whole.
TAPE_FILE = "tape.jsonl"


@dataclasses.dataclass(frozen=True)
class RecordedImage:
    """An image that the build took: its name, the digest that this stood for, and for which platforms.

    The digest is mostly an index's. There are no platforms where the build does not say: a frontend is such.
    """

    reference: Reference
    digest: Digest
    platforms: tuple[Platform, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a record holds besides its blobs. `notes` are for people: what was not recorded, what was behind a login."""

    name: str
    buildkit: str
    platforms: tuple[Platform, ...]
    images: tuple[RecordedImage, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)

    def to_json(self) -> dict[str, Any]:
        """Return the object that record.json holds."""
        return {
            "version": VERSION,
            "name": self.name,
            "buildkit": self.buildkit,
            "platforms": _texts(self.platforms),
            "images": [
                {
                    "reference": str(image.reference),
                    "digest": str(image.digest),
                    "platforms": _texts(image.platforms),
                }
                for image in self.images
            ],
            "notes": list(self.notes),
        }

    def to_bytes(self) -> bytes:
        """Return the content of record.json."""
        return json.dumps(self.to_json(), indent=2).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Recorded:
        """Read the content of record.json.

        Raises:
            UsageError: it is none, or of a later version.
        """
        value = parse_json(data, FILE)
        if value.get("version") != VERSION:
            raise UsageError(f"{FILE} has version `{str(value.get('version'))[:20]}`: this program reads {VERSION}")
        try:
            images = tuple(
                RecordedImage(Reference.parse(image["reference"]), Digest(image["digest"]), _platforms(image))
                for image in value["images"]
            )
            notes = tuple(map(str, value.get("notes", ())))
            return cls(value["name"], str(value["buildkit"]), _platforms(value), images, notes)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{FILE} is not what `bundle record` writes ({type(error).__name__}: {error})") from None


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
                caches[cache_reference(rest or recorded.name)] = content
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

    @property
    def pins(self) -> Mapping[Reference, Digest]:
        """What the images' names stood for."""
        return {image.reference: image.digest for image in self.recorded.images if image.reference.digest is None}


def record_again(path: Path) -> str:
    """Return what to type when a record is damaged or too old."""
    return f"record it again, with the same options as then: {own_command('record')} CONTEXT -o {quote(path)}"


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
            hint="make one: bundle record CONTEXT -o app.record",
        ) from None


def _platforms(value: Any) -> tuple[Platform, ...]:
    return tuple(map(Platform.parse, value["platforms"]))


def _texts(platforms: Sequence[Platform]) -> list[str]:
    return [str(platform) for platform in platforms]
