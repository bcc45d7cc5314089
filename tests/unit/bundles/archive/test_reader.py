"""Reading an archive: every damage is found, named, and never handed out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bundles.archive.layout import header
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import (
    ArchiveError,
    DamagedArchiveError,
    IncompleteArchiveError,
    NewerFormatError,
    NotABundleError,
    UsageError,
)
from tests.support.archives import Made, example


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


@pytest.fixture
def archive(sample: Made, tmp_path: Path) -> Path:
    return sample.write(tmp_path / "offline.tar").path


def test_every_flipped_byte_is_found(sample: Made, archive: Path) -> None:
    """A sample of the metadata, of the layers, and of the frame at the end."""
    data = archive.read_bytes()
    with Archive(archive) as opened:
        first_layer = min(opened.layout.blob(digest).data_offset for digest in sample.layers)
    offsets = [
        *range(0, first_layer, 251),
        *range(first_layer, len(data), 2999),
        *range(len(data) - 1100, len(data), 31),
    ]
    with archive.open("r+b", buffering=0) as file:
        for offset in offsets:
            file.seek(offset)
            file.write(bytes([data[offset] ^ 0x20]))
            with pytest.raises(ArchiveError), Archive(archive) as opened:
                verify_archive(opened)
            file.seek(offset)
            file.write(data[offset : offset + 1])
    assert archive.read_bytes() == data


def test_damage_is_named_by_blob_and_image(sample: Made, archive: Path) -> None:
    with Archive(archive) as opened:
        shared = next(blob for blob in opened.manifest.blobs if len(opened.users_of(blob.digest)) == 2)
        offset = opened.layout.blob(shared.digest).data_offset
    with archive.open("r+b") as file:
        file.seek(offset + 5)
        byte = file.read(1)[0]
        file.seek(offset + 5)
        file.write(bytes([byte ^ 1]))
    with Archive(archive) as opened, pytest.raises(DamagedArchiveError) as caught:
        verify_archive(opened)
    assert len(caught.value.problems) == 1
    text = str(caught.value)
    assert str(shared.digest) in text
    assert "debian:12, ghcr.io/team/gcc:12" in text
    assert f"at offset {offset}" in text


def test_a_damaged_blob_never_reads_to_its_end(sample: Made, archive: Path) -> None:
    with Archive(archive) as opened:
        blob = opened.manifest.blobs[-1]
        offset = opened.layout.blob(blob.digest).data_offset
    with archive.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0")
    with Archive(archive) as opened, pytest.raises(DamagedArchiveError):
        reader = opened.open_blob(blob)
        count = 0
        while chunk := reader.read(4096):
            count += len(chunk)
            assert count < blob.size


def test_truncation_anywhere_is_incomplete(archive: Path) -> None:
    data = archive.read_bytes()
    for size in [*range(0, 6000, 250), *range(6000, len(data), 5000), len(data) - 1]:
        archive.write_bytes(data[:size])
        expected = (IncompleteArchiveError, NotABundleError) if size < 512 else IncompleteArchiveError
        with pytest.raises(expected):
            Archive(archive)


def test_extra_bytes_at_the_end(archive: Path) -> None:
    with archive.open("ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedArchiveError, match="1 bytes too many"):
        Archive(archive)


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04" * 1000, header("oci-layout", 5) * 9, bytes(100_000)])
def test_other_files_are_not_bundles(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises((NotABundleError, DamagedArchiveError)):
        Archive(path)


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    for path, error in ((tmp_path, ArchiveError), (tmp_path / "missing", UsageError)):
        with pytest.raises(error, match=path.name):
            Archive(path)


def test_what_is_named_as_for_create_has_its_path_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my images.tar").touch()
    for name, step in (
        (f"bundle:{archive}", f"give its path alone: {archive}"),
        ("oci-archive:my images.tar", "bundle create 'oci-archive:my images.tar' makes an archive"),
        ("bundle:none.tar", "give the path of the archive that `bundle create` wrote"),
    ):
        with pytest.raises(UsageError, match="is not there") as caught:
            Archive(Path(name))
        assert caught.value.hint == step


def test_a_pipe_is_to_be_saved_first() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(UsageError, match="is a pipe: expected a file") as caught:
            Archive(Path(f"/dev/fd/{read}"))
        assert str(caught.value.hint).startswith("save what comes out of it to a file first")
    finally:
        os.close(read)
        os.close(write)


def test_a_newer_format_says_what_to_do(sample: Made, tmp_path: Path) -> None:
    data = sample.contents().manifest.to_bytes().replace(b'"format": 1', b'"format": 2')
    path = tmp_path / "new.tar"
    line = f"{hashlib.sha256(data).hexdigest()}  bundle.json\n".encode()
    path.write_bytes(
        header("oci-layout", 30)
        + b'{"imageLayoutVersion":"1.0.0"}'.ljust(512, b"\0")
        + header("bundle.json.sha256", len(line))
        + line.ljust(512, b"\0")
        + header("bundle.json", len(data))
        + data
    )
    with pytest.raises(NewerFormatError, match="format `2`") as caught:
        Archive(path)
    assert "python3 ARCHIVE install" in str(caught.value)
