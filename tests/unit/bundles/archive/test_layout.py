"""The layout against real tar readers."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from bundles.archive.layout import BLOCK, END_OF_TAR, Layout, header, padding


def test_tar_readers_find_what_the_layout_says(tmp_path: Path) -> None:
    contents = {"oci-layout": b"x", "empty": b"", "blobs/sha256/" + "0" * 64: b"y" * 1025, "block": b"z" * 512}
    layout = Layout([(name, len(data)) for name, data in contents.items()], program_size=9)
    archive = bytearray(layout.size)
    for name, data in contents.items():
        entry = layout.entry(name)
        archive[entry.offset : entry.offset + BLOCK] = header(name, len(data))
        archive[entry.data_offset : entry.data_offset + len(data)] = data
    archive[layout.end_of_entries : layout.program_offset] = END_OF_TAR
    archive[layout.program_offset :] = b"PK\x03\x04 tail"[:9]
    with tarfile.open(fileobj=io.BytesIO(archive)) as reader:
        assert {member.name: reader.extractfile(member).read() for member in reader} == contents  # type: ignore[union-attr]
        assert {(member.mode, member.uid, member.gid, member.mtime) for member in reader} == {(0o644, 0, 0, 0)}
    path = tmp_path / "archive.tar"
    path.write_bytes(archive)
    listing = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    assert listing.stdout.split() == list(contents)
    assert listing.stderr == ""


def test_sizes_from_8_gib_are_in_base_256() -> None:
    block = header("blobs/sha256/" + "0" * 64, 9 << 30)
    assert block[124] == 0x80
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 << 30


def test_padding_fills_the_last_block() -> None:
    assert [padding(size) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
