"""A tape as OCI content: an image manifest whose config is the tape and whose layers are what was downloaded.

The first layer of the first piece is record.json, so that whoever has the tape can say what it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Optional

from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.record import MEDIA_TYPE, Recorded
from bundles.oci.descriptor import OCI_MANIFEST, Descriptor
from bundles.oci.image import ImageManifest

ARTIFACT_TYPE = "application/vnd.offline-bundle.tape.v1"
CONFIG_TYPE = "application/vnd.offline-bundle.tape.v1+json"
# A registry takes a manifest of 4 MiB; a layer of one has some 170 bytes in it, and at most 400.
_MOST_CONTENTS = 10_000


def split(tape: Tape, most: int = _MOST_CONTENTS) -> Iterator[Tape]:
    """Cut a tape into tapes of at most so many contents, by URL: mostly it is one. An empty tape is one, too."""
    part: list[Answer] = []
    for answer in tape:
        if len(part) == most:
            yield Tape(part)
            part = []
        part.append(answer)
    yield Tape(part)


def manifest_of(tape: Tape, recorded: Optional[Recorded] = None) -> bytes:
    """Return the manifest of a tape, its first piece with what was recorded.

    Its config is `tape.to_bytes()`, its first layer `recorded.to_bytes()`.
    """
    first = [Descriptor.of(MEDIA_TYPE, recorded.to_bytes())] if recorded else []
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": Descriptor.of(CONFIG_TYPE, tape.to_bytes()).to_json(),
        "layers": [layer.to_json() for layer in (*first, *tape.contents)],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def record_of(manifest: ImageManifest) -> Optional[Descriptor]:
    """Return where a tape's manifest has record.json; None for the later pieces of a tape that was cut."""
    first = manifest.layers[0] if manifest.layers else None
    return first if first and first.media_type == MEDIA_TYPE else None
