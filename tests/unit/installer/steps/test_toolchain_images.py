"""The stream that Docker loads: composed while it is read, the same bytes as in the archive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bundles.archive.reader import Archive
from bundles.errors import DamagedArchiveError
from bundles.oci.image import parse_manifest
from installer.steps.toolchain_images import content_size, stream
from tests.support.archives import example

NAME = "localhost:5000/library/registry:3"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return example().write(tmp_path / "offline.tar").path


def test_the_stream_is_a_docker_archive_and_an_oci_layout(path: Path) -> None:
    with Archive(path) as archive:
        manifest = archive.manifest.with_role("registry")[0].platforms[0].manifest
        moved: list[int] = []
        data = b"".join(stream(archive, manifest, NAME, moved.append))
        image = parse_manifest(archive.read_document(manifest))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
            content = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        assert names[:3] == ["oci-layout", "index.json", "manifest.json"]
        assert len(names) == len(set(names))
        assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        (entry,) = json.loads(content["manifest.json"])
        assert entry["RepoTags"] == [NAME]
        assert entry["Config"] == "blobs/sha256/" + image.config.digest.hex
        assert entry["Layers"] == ["blobs/sha256/" + layer.digest.hex for layer in image.layers]
        (listed,) = json.loads(content["index.json"])["manifests"]
        assert listed["digest"] == str(manifest.digest)
        assert listed["annotations"]["io.containerd.image.name"] == NAME
        for blob in (manifest, image.config, *image.layers):
            where = archive.layout.blob(blob.digest)
            assert content["blobs/sha256/" + blob.digest.hex] == archive.volume.read(where.data_offset, where.size)
        assert sum(moved) == content_size(archive, manifest) == sum(len(content[name]) for name in names[3:])


def test_a_damaged_layer_never_comes_whole(path: Path) -> None:
    with Archive(path) as archive:
        manifest = archive.manifest.with_role("registry")[0].platforms[0].manifest
        layer = parse_manifest(archive.read_document(manifest)).layers[0]
        place = archive.layout.blob(layer.digest)
        with path.open("r+b") as file:
            file.seek(place.data_offset + 100)
            byte = file.read(1)
            file.seek(place.data_offset + 100)
            file.write(bytes([byte[0] ^ 1]))
        received = bytearray()
        with pytest.raises(DamagedArchiveError, match="registry:3"):
            for chunk in stream(archive, manifest, NAME, lambda count: None):
                received += chunk
        assert len(received) < place.size + content_size(archive, manifest)
