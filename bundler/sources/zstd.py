"""Layers as zstd: the only module that imports zstandard, and the only place where bytes are compressed at all.

The bytes depend on the content, the level and the version of the zstd library, and on nothing else: the work is always
split into jobs as libzstd does with workers, which gives the same frame for every number of threads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator

import zstandard

from bundler.definition.spec import Compression
from bundles.errors import ContentError

CHUNK = 1 << 20
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP = 16 + zlib.MAX_WBITS


def chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Read to the end, in pieces of exactly CHUNK bytes, the last one shorter."""
    while True:
        piece = bytearray()
        while len(piece) < CHUNK:
            more = read(CHUNK - len(piece))
            if not more:
                break
            piece += more
        if piece:
            yield bytes(piece)
        if len(piece) < CHUNK:
            return


def compress(pieces: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Make one zstd frame with a content checksum."""
    threads = compression.threads or os.cpu_count() or 1
    frame = zstandard.ZstdCompressor(level=compression.level, threads=threads, write_checksum=True).compressobj()
    for piece in pieces:
        yield frame.compress(piece)
    yield frame.flush()


def read_frame(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack what `compress` made.

    Raises:
        ContentError: it is not one whole zstd frame.
    """
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        for piece in pieces:
            yield frame.decompress(piece)
    except zstandard.ZstdError as error:
        raise ContentError(f"it is not valid zstd: {error}") from None
    if not frame.eof or frame.unused_data:
        raise ContentError("it is not one whole zstd frame")


def decompress(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    """Unpack a gzip file, all its members; anything else comes as it is. The first piece has two bytes or more.

    Raises:
        ContentError: the gzip data is broken or ends early; the message names `what`.
    """
    first = next(pieces, b"")
    if not first.startswith(GZIP_MAGIC):
        yield first
        yield from pieces
        return
    try:
        yield from _members(first, pieces)
    except zlib.error as error:
        raise ContentError(f"{what} is not valid gzip: {error}") from None


def _members(rest: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(_GZIP)
    while True:
        while rest:
            yield member.decompress(rest, CHUNK)
            rest = member.unconsumed_tail
            if member.eof:
                # Another member, or the zero bytes that some tools pad a gzip file with.
                rest = member.unused_data.lstrip(b"\0")
                if rest:
                    member = zlib.decompressobj(_GZIP)
        more = next(pieces, None)
        if more is None:
            break
        if member.eof:
            more = more.lstrip(b"\0")
            if more:
                member = zlib.decompressobj(_GZIP)
        rest = more
    if not member.eof:
        raise zlib.error("it ends early")
