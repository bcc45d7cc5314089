"""A tape as OCI content: an image manifest whose config is the tape and whose layers are what was downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bundles.archive.tape.answer import Answer, Tape
from bundles.oci.descriptor import OCI_MANIFEST, Descriptor

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


def manifest_of(tape: Tape) -> bytes:
    """Return the manifest of a tape; its config is `tape.to_bytes()`."""
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": Descriptor.of(CONFIG_TYPE, tape.to_bytes()).to_json(),
        "layers": [content.to_json() for content in tape.contents],
    }
    return json.dumps(value, separators=(",", ":")).encode()
