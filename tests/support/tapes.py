"""Tapes made of nothing: pages by URL, and where a registry has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.manifest import CONFIG_TYPE, manifest_of
from bundles.oci.descriptor import OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from tests.support.fake_registry import FakeRegistry

REPOSITORY = "offline-bundle/tape"


def page(url: str, text: bytes, **more: Any) -> tuple[Answer, bytes]:
    """An answer to GET, and its body."""
    return Answer("GET", url, 200, {"content-type": "text/plain"}, Descriptor.of("text/plain", text), **more), text


def pages(texts: Mapping[str, bytes]) -> list[tuple[Answer, bytes]]:
    return [page(url, text) for url, text in texts.items()]


def put_tape(registry: FakeRegistry, name: str, *answers: tuple[Answer, bytes], repository: str = REPOSITORY) -> Digest:
    """Have a registry hold a tape of these answers; gives the digest of its manifest."""
    tape = Tape(answer for answer, _ in answers)
    registry.add(CONFIG_TYPE, tape.to_bytes())
    for answer, text in answers:
        if answer.content:
            registry.add(answer.content.media_type, text)
    return registry.tag(repository, name, registry.add(OCI_MANIFEST, manifest_of(tape))).digest
