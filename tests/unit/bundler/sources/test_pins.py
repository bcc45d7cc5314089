"""References by the digests that they stood for."""

from __future__ import annotations

from pathlib import Path

from bundler.definition.file_request import FileRequest
from bundler.sources.files.contents import Directory
from bundler.sources.files.layout import LayoutFile
from bundler.sources.files.source import FilesSource, Taken
from bundler.sources.pins import PinnedSource
from bundler.sources.source import Source
from bundles.oci.reference import Reference
from tests.support.archives import ContentSource
from tests.support.image_files import REF_NAME, layout, write_directory
from tests.support.images import Content


def test_what_a_name_stands_for_is_not_known_where_a_pin_says_otherwise(tmp_path: Path) -> None:
    content = Content()
    image, other = content.image(seed=1), content.image(seed=2)
    names = [Reference.parse(f"app{number}:1") for number in range(3)]
    write_directory(tmp_path / "dir", layout(content, *((image, {REF_NAME: name.familiar}) for name in names)))
    request = FileRequest.parse("oci:dir", tmp_path)
    assert request
    with LayoutFile(request.path, Directory(request.path)) as file:
        taken = [Taken(name, held, file, request) for name, held in zip(names, file.images)]
        source: Source = FilesSource(ContentSource(content, {"registry.example/a:1": other}), [file], taken)
        assert [source.known_digest(name) for name in names] == [image.digest] * 3
        assert source.known_digest(Reference.parse("registry.example/a:1")) is None
        pinned = PinnedSource(source, {names[0]: image.digest, names[1]: other.digest}, str)
        assert [pinned.known_digest(name) for name in names] == [image.digest, None, image.digest]
        assert pinned.manifest(names[1])[0].digest == other.digest
