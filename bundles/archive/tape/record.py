"""record.json: what a record says of the build that it was made of. docs/network.md has the format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Optional

from bundles.archive.manifest import check_name
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

VERSION = 1
FILE = "record.json"
MEDIA_TYPE = "application/vnd.offline-bundle.record.v1+json"
_MOST_TEXT = 1000


@dataclasses.dataclass(frozen=True)
class RecordedImage:
    """An image that the build took: its name, the digest that this stood for, and for which platforms.

    The digest is mostly an index's. There are no platforms where the build does not say: a frontend is such.
    """

    reference: Reference
    digest: Digest
    platforms: tuple[Platform, ...] = ()


@dataclasses.dataclass(frozen=True)
class RecordedStep:
    """A RUN instruction of a build, as bundles/dockerfile/steps.py knows it again: alone, and with what it is on."""

    step: Digest
    chain: Digest


@dataclasses.dataclass(frozen=True)
class RecordedBuild:
    """One build of a record.

    Args:
        name: among the builds of the record.
        dockerfile: what people call it; a path is relative to the context.
        target: the stage that was built; None is the last.
        platforms: that were built for.
        steps: its RUN instructions, those of the stages that the target needs.
    """

    name: str
    dockerfile: str
    target: Optional[str]
    platforms: tuple[Platform, ...]
    steps: tuple[RecordedStep, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        for text in (self.dockerfile, self.target or ""):
            # These go to a terminal, which must not take orders from a record.
            if not isinstance(text, str) or not text.isprintable() or len(text) > _MOST_TEXT:
                raise UsageError(f"{FILE} has a text that cannot be shown")

    @property
    def cache(self) -> str:
        """The annotation `org.opencontainers.image.ref.name` of its cache in the record's index.json."""
        return f"cache-{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Return its object in record.json."""
        return {
            "name": self.name,
            "dockerfile": self.dockerfile,
            "target": self.target,
            "platforms": _texts(self.platforms),
            "steps": [{"step": str(step.step), "chain": str(step.chain)} for step in self.steps],
        }

    @classmethod
    def from_json(cls, value: Any) -> RecordedBuild:
        """Read its object in record.json."""
        steps = tuple(RecordedStep(Digest(step["step"]), Digest(step["chain"])) for step in value["steps"])
        return cls(value["name"], value["dockerfile"], value.get("target"), _platforms(value), steps)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a record holds besides its blobs. `notes` are for people: what was not recorded, what was behind a login."""

    name: str
    buildkit: str
    platforms: tuple[Platform, ...]
    images: tuple[RecordedImage, ...]
    notes: tuple[str, ...] = ()
    builds: tuple[RecordedBuild, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [build.name for build in self.builds]
        if len(set(names)) != len(names):
            raise UsageError(f"{FILE} has two builds of one name")

    def cache_of(self, build: str) -> str:
        """Return the name of a build's cache among those of all records: the record's, with several builds both."""
        return f"{self.name}.{build}" if len(self.builds) > 1 else self.name

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
            "builds": [build.to_json() for build in self.builds],
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
            builds = tuple(map(RecordedBuild.from_json, value.get("builds", ())))
            return cls(value["name"], str(value["buildkit"]), _platforms(value), images, notes, builds)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{FILE} is not what `bundle record` writes ({type(error).__name__}: {error})") from None


def _platforms(value: Any) -> tuple[Platform, ...]:
    return tuple(map(Platform.parse, value["platforms"]))


def _texts(platforms: Sequence[Platform]) -> list[str]:
    return [str(platform) for platform in platforms]
