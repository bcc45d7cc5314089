"""What an archive holds of recorded builds: every URL, and what people are to know of it."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import Any, Optional
from urllib.parse import urlsplit

from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.manifest import record_of
from bundles.archive.tape.record import Recorded
from bundles.errors import ArchiveError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.image import parse_manifest
from bundles.runtime.sizes import human_size
from bundles.runtime.terminal import one_line


@dataclasses.dataclass(frozen=True)
class TapeContent:
    """A tape in an archive. `recorded` is None in its later pieces, and where a delta leaves it to its base."""

    image: Image
    tape: Tape
    recorded: Optional[Recorded]

    @property
    def notes(self) -> tuple[str, ...]:
        """What people are to know of the recording."""
        return self.recorded.notes if self.recorded else ()

    def to_json(self) -> dict[str, Any]:
        """Return it as an object: reference, notes, and for each answer what was asked and what came."""
        return {
            "reference": str(self.image.reference),
            "notes": list(self.notes),
            "answers": [
                {
                    "method": answer.method,
                    "url": answer.url,
                    "status": answer.status,
                    "digest": str(answer.content.digest) if answer.content else None,
                    "size": answer.content.size if answer.content else 0,
                    "contentType": answer.headers.get("content-type"),
                    "location": answer.headers.get("location"),
                }
                for answer in self.tape
            ],
        }

    def lines(self) -> list[str]:
        """Return what people read: how many answers came from each host, and how large they are."""
        counts: Counter[str] = Counter()
        contents: defaultdict[str, dict[object, int]] = defaultdict(dict)
        for answer in self.tape:
            host = urlsplit(answer.url).netloc
            counts[host] += 1
            contents[host].update(_content_size(answer))
        return [
            f"{self.image.reference.familiar}: {count} answers of {host}, {human_size(sum(contents[host].values()))}"
            for host, count in sorted(counts.items())
        ] + [f"{self.image.reference.familiar}: note: {one_line(note)}" for note in self.notes]


def _content_size(answer: Answer) -> dict[object, int]:
    return {answer.content.digest: answer.content.size} if answer.content else {}


def tapes_of(archive: Archive) -> list[TapeContent]:
    """Read the tapes of an archive.

    Raises:
        ArchiveError: one cannot be read, or is damaged.
    """
    found = []
    for image in archive.manifest.with_role("tape"):
        manifest = parse_manifest(archive.read_document(image.root))
        recorded = _recorded(archive, image, record_of(manifest))
        found.append(TapeContent(image, Tape.parse(archive.read_document(manifest.config)), recorded))
    return found


def _recorded(archive: Archive, image: Image, record: Optional[Descriptor]) -> Optional[Recorded]:
    if record is None or not archive.has(record.digest):
        return None
    try:
        return Recorded.parse(archive.read_document(record))
    except UsageError as error:
        raise ArchiveError(f"`{image.reference.familiar}` cannot be read: {error.message}", hint=error.hint) from None
