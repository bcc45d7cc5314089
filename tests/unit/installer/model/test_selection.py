"""Archives whose indexes are made to keep an installation busy for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.definition.spec import Spec
from bundler.planning.plan import Plan, Resolved
from bundler.writing.contents import compose
from bundler.writing.writer import ArchiveWriter
from bundles.archive.manifest import Image, PlatformContent
from bundles.archive.reader import Archive
from bundles.errors import DamagedArchiveError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from tests.support.archives import AMD64, PROGRAM, image, made
from tests.support.images import Content, layer


def nested(path: Path, levels: int, times: int = 1) -> Path:
    """An archive of one image whose index stands in an index, each listed so many times in the next."""
    content, reference = Content(), Reference.parse("nested:1")
    manifest = content.image("linux/amd64", [layer("x")])
    config, blob = content.children(manifest)
    indexes = [content.index(manifest)]
    for _ in range(levels):
        indexes.append(content.index(*[indexes[-1]] * times))
    image = Image(reference, "base", indexes[-1], (PlatformContent(AMD64, manifest, config.size + blob.size),))
    documents = {each: content.data(each) for each in (*indexes, manifest, config)}
    plan = Plan.of([Resolved(image, documents, {blob: reference})])
    with ArchiveWriter(path, compose(Spec("test", (AMD64,), (AMD64,), (), {}, False), plan, PROGRAM)) as writer:
        sink = writer.sink(blob)
        sink.write(memoryview(content.data(blob)))
        assert sink.finish()
        return writer.finish().path


def test_an_index_that_is_listed_again_and_again_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    class Counting(Archive):
        def read_document(self, descriptor: Descriptor) -> bytes:
            nonlocal reads
            reads += 1
            assert reads < 1000
            return super().read_document(descriptor)

    with Counting(nested(tmp_path / "x.tar", levels=15, times=8)) as archive:
        reads = 0
        (selected,) = select(archive, Destination.of(Address.parse("localhost:5000")), ())
    assert len(selected.manifests) == 16 + 1
    assert selected.manifests[-1] == selected.root
    assert reads == 16 + 1


def test_indexes_inside_one_another(tmp_path: Path) -> None:
    with Archive(nested(tmp_path / "x.tar", levels=16)) as archive:
        (selected,) = select(archive, Destination.of(Address.parse("localhost:5000")), ())
        assert len(selected.manifests) == 17 + 1
    path = nested(tmp_path / "y.tar", levels=17)
    with Archive(path) as archive, pytest.raises(DamagedArchiveError, match="more than 16 levels"):
        select(archive, Destination.of(Address.parse("localhost:5000")), ())


def test_many_names_of_one_image_are_walked_once(tmp_path: Path, document_reads: list[Digest]) -> None:
    names = [f"app{number}:1" for number in range(20)]
    with Archive(made(*map(image, names)).write(tmp_path / "a.tar").path) as archive:
        place = Destination.of(Address.parse("127.0.0.1:5000"))
        both, one = select(archive, place, ()), select(archive, place, [AMD64])
    assert [each.image.reference.familiar for each in both] == names
    assert {len(each.manifests) for each in both} == {3}
    assert {len(each.manifests) for each in one} == {2}
    assert max(map(document_reads.count, document_reads)) < 5
