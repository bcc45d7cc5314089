"""The tar that Docker loads: composed while it is read, the same bytes as in the archive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.errors import DamagedArchiveError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from tests.support.archives import example

NAME = "localhost:5000/library/registry:3"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return example().write(tmp_path / "offline.tar").path


def saved(archive: Archive, image: Image, name: str) -> SavedImage:
    manifest = image.platforms[0].manifest
    return SavedImage(manifest, archive.read_image(manifest), Reference.parse(name))


def entries(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def test_the_stream_is_a_docker_archive_and_an_oci_layout(path: Path) -> None:
    with Archive(path) as archive:
        image = saved(archive, archive.manifest.with_role("registry")[0], NAME)
        moved: list[int] = []
        tar = docker_archive([image])
        data = b"".join(tar.stream(archive, moved.append))
        content = entries(data)
        assert list(content)[:3] == ["oci-layout", "index.json", "manifest.json"]
        assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        (entry,) = json.loads(content["manifest.json"])
        assert entry["RepoTags"] == [NAME]
        assert entry["Config"] == "blobs/sha256/" + image.content.config.digest.hex
        assert entry["Layers"] == ["blobs/sha256/" + layer.digest.hex for layer in image.content.layers]
        (listed,) = json.loads(content["index.json"])["manifests"]
        assert listed["digest"] == str(image.manifest.digest)
        assert listed["annotations"] == {
            "io.containerd.image.name": NAME,
            "org.opencontainers.image.ref.name": "3",
        }
        for blob in (image.manifest, image.content.config, *image.content.layers):
            where = archive.layout.blob(blob.digest)
            assert content["blobs/sha256/" + blob.digest.hex] == archive.volume.read(where.data_offset, where.size)
        assert sum(moved) == tar.content_size == sum(len(content[name]) for name in list(content)[3:])
        assert len(data) == tar.size


def test_images_that_share_layers_carry_them_once(path: Path) -> None:
    with Archive(path) as archive:
        base = [saved(archive, image, image.reference.familiar) for image in archive.manifest.with_role("base")]
        content = entries(b"".join(docker_archive(base).stream(archive, lambda count: None)))
        listed = json.loads(content["manifest.json"])
        assert [each["RepoTags"] for each in listed] == [["debian:12"], ["ghcr.io/team/gcc:12"]]
        assert listed[0]["Layers"][0] == listed[1]["Layers"][0]
        named = [each["annotations"] for each in json.loads(content["index.json"])["manifests"]]
        assert [each["io.containerd.image.name"] for each in named] == [
            "docker.io/library/debian:12",
            "ghcr.io/team/gcc:12",
        ]


@pytest.mark.parametrize(("digest", "tags"), [("debian@", []), ("debian:12@", ["debian:12"])])
def test_a_digest_is_no_tag(path: Path, digest: str, tags: list[str]) -> None:
    with Archive(path) as archive:
        image = archive.manifest.with_role("base")[0]
        files = docker_archive([saved(archive, image, f"{digest}{Digest.of(b'')}")]).files
        (entry,), (listed,) = json.loads(files["manifest.json"]), json.loads(files["index.json"])["manifests"]
        assert entry["RepoTags"] == tags
        assert ("annotations" in listed) == bool(tags)


def test_a_damaged_layer_never_comes_whole(path: Path) -> None:
    with Archive(path) as archive:
        image = saved(archive, archive.manifest.with_role("registry")[0], NAME)
        place = archive.layout.blob(image.content.layers[0].digest)
        with path.open("r+b") as file:
            file.seek(place.data_offset + 100)
            byte = file.read(1)
            file.seek(place.data_offset + 100)
            file.write(bytes([byte[0] ^ 1]))
        received = bytearray()
        tar = docker_archive([image])
        with pytest.raises(DamagedArchiveError, match="registry:3"):
            for chunk in tar.stream(archive, lambda count: None):
                received += chunk
        assert len(received) < place.size + tar.content_size
