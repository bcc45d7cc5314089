"""Compressing layers: the same bytes whatever the machine, and every gzip there is."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator

import pytest
import zstandard

from bundler.sources import zstd
from bundles.errors import ContentError


def test_the_number_of_threads_does_not_change_the_bytes() -> None:
    data = b"".join(hashlib.sha256(bytes([n % 251, n // 251])).digest() * 8 for n in range(40_000))
    packed = [b"".join(zstd.compress(zstd.chunks(io.BytesIO(data).read), zstd.Compression(3, n))) for n in (1, 2, 3)]
    assert packed[0] == packed[1] == packed[2]
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed[0]) == data


def test_gzip_with_several_members_and_padding_is_read_whole() -> None:
    data = gzip.compress(b"one" * 100) + gzip.compress(b"two" * 100) + bytes(600)

    def pieces(size: int) -> Iterator[bytes]:
        return (data[start : start + size] for start in range(0, len(data), size))

    for size in (2, 7, 50, len(data)):
        assert b"".join(zstd.decompress(pieces(size), "it")) == b"one" * 100 + b"two" * 100
    with pytest.raises(ContentError, match="it is not valid gzip: it ends early"):
        list(zstd.decompress(iter([data[:20]]), "it"))


def test_all_frames_of_zstd_are_read_in_pieces_of_limited_size_up_to_an_end() -> None:
    data = bytes(50_000_000)
    packed = (
        zstandard.compress(data) + zstandard.compress(b"") + b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstandard.compress(b"x")
    )
    for size in (5, 1000, len(packed)):
        pieces = (packed[start : start + size] for start in range(0, len(packed), size))
        sizes, total = [], 0
        for piece in zstd.unpacked(pieces, "it"):
            sizes.append(len(piece))
            total += len(piece)
        assert total == len(data) + 1
    assert max(sizes) <= 512 * 131_072
    for end in (10, len(packed) - 1):
        with pytest.raises(ContentError, match="it cannot be unpacked: it ends early"):
            for _ in zstd.unpacked(iter([packed[:end]]), "it"):
                pass
