"""A source that breaks its contract ends `create` with an error, and never keeps it busy for ever."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

import pytest

from bundler.definition.spec import Spec
from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundler.writing.contents import compose
from bundler.writing.fetch import Layer, export, in_order
from bundler.writing.writer import ArchiveWriter
from bundles.errors import ContentError
from bundles.oci.descriptor import OCI_LAYER, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.runtime.progress import Silent
from tests.support.archives import AMD64, PROGRAM, image, made

# Many more reads than the layers of these archives need: who comes so far goes on for ever.
ENOUGH = 1000


class Broken(Source):
    """Blobs of zeros, `missing` bytes short, from `endpoint`, whomever it is told to avoid."""

    def __init__(self, endpoint: Optional[Endpoint], missing: int) -> None:
        self.sender, self.missing, self.reads = endpoint, missing, 0

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        raise NotImplementedError

    def open_blob(self, request: BlobRequest) -> BlobStream:
        return _Zeros(self, request.descriptor.size - self.missing - request.offset)

    def cancel(self) -> None:
        pass


class _Zeros(BlobStream):
    def __init__(self, source: Broken, left: int) -> None:
        self._source, self._left = source, left

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return self._source.sender

    def readinto(self, buffer: bytearray | memoryview) -> int:
        self._source.reads += 1
        assert self._source.reads < ENOUGH
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("endpoint", "missing", "words"),
    [
        (None, 1, "ends at byte"),
        (Endpoint("r.example"), 1, "ends at byte"),
        (None, 0, "has other bytes than its digest says"),
        (Endpoint("r.example"), 0, "has other bytes than its digest says"),
    ],
)
def test_a_source_that_gives_something_else(
    tmp_path: Path, endpoint: Optional[Endpoint], missing: int, words: str
) -> None:
    contents = made(image("debian:12", platforms=(AMD64,)))
    writer = ArchiveWriter(tmp_path / "offline.tar", contents.contents())
    with pytest.raises(ContentError, match=f"of `debian:12` {words}"), writer:
        export(contents.plan, Broken(endpoint, missing), writer, Silent(), 1)


def test_a_layer_without_bytes_whose_digest_is_not_that_of_nothing(tmp_path: Path) -> None:
    reference = Reference.parse("debian:12")
    empty = Descriptor("text/plain", Digest("sha256:" + "0" * 64), 0)
    plan = dataclasses.replace(made(image("debian:12")).plan, layers=((empty, reference),))
    contents = compose(Spec("test", (AMD64,), (AMD64,), (), {}, False), plan, PROGRAM)
    with pytest.raises(ContentError, match="has other bytes"), ArchiveWriter(tmp_path / "x.tar", contents) as writer:
        export(plan, Broken(None, 0), writer, Silent(), 1)


def layers(*sizes: int) -> list[Layer]:
    """In archive order, as told apart by their digests."""
    repository = Reference.parse("debian:12")
    return [
        (Descriptor(OCI_LAYER, Digest.of(str(number).encode()), size), repository) for number, size in enumerate(sizes)
    ]


def begun(*sizes: int, workers: int = 4) -> list[int]:
    """The sizes in the order in which the layers are begun."""
    given = layers(*sizes)
    order = in_order(given, workers)
    assert sorted(order, key=given.index) == given
    return [descriptor.size for descriptor, _ in order]


def test_layers_are_begun_in_the_order_of_the_archive() -> None:
    assert begun() == []
    assert begun(7, 3, 5, 9, 4, 8, 6, 2, workers=1) == [7, 3, 5, 9, 4, 8, 6, 2]
    assert begun(*range(1, 30))[:25] == list(range(1, 26))


def test_a_layer_is_begun_before_it_could_be_the_last_to_end() -> None:
    assert begun(10, 10, 10, 10, 10, 10, 100) == [100, 10, 10, 10, 10, 10, 10]
    assert begun(20, 20, 15, 15, 15, 15, 25) == [20, 20, 25, 15, 15, 15, 15]
    assert begun(*[5] * 40, 30, *[5] * 4) == [*[5] * 26, 30, *[5] * 18]
