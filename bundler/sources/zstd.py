"""Layers as zstd: the only module that imports zstandard, and the only place where bytes are compressed at all.

Files that somebody else compressed are unpacked here, too.

The bytes depend on the content, the level and the version of the zstd library, and on nothing else: the work is always
split into jobs as libzstd does with workers, which gives the same frame for every number of threads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

import zstandard

from bundler.definition.spec import Compression
from bundles.errors import ContentError
from bundles.runtime.program import quote

if TYPE_CHECKING:
    import bz2
    import lzma

CHUNK = 1 << 20
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP = 16 + zlib.MAX_WBITS
_XZ_MAGIC, _BZIP2_MAGIC = b"\xfd7zXZ\0", b"BZh"
_XZ_MEMORY = 512 << 20
# What comes out of zstd at once has no limit of its own: 128 KiB may come of four bytes.
_STEP = 2048
# How a compressed file begins, and what unpacks it.
_UNPACK = {GZIP_MAGIC: "gunzip -k", ZSTD_MAGIC: "zstd -d", _XZ_MAGIC: "unxz -k", _BZIP2_MAGIC: "bunzip2 -k"}


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


def is_packed(start: bytes) -> bool:
    """Tell whether a file that begins like this is compressed, as far as `unpacked` understands it."""
    return start.startswith(tuple(_UNPACK))


def unpack_command(path: str) -> Optional[str]:
    """Return the command that unpacks a file; None for one that is not compressed."""
    with Path(path).open("rb") as file:
        start = file.read(8)
    found = (f"{command} {quote(path)}" for magic, command in _UNPACK.items() if start.startswith(magic))
    return next(found, None)


def unpacked(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    """Unpack a file in gzip, zstd, xz or bzip2, all its members; anything else comes as it is.

    What comes out comes in pieces of limited size, whatever a hostile file holds.

    Raises:
        ContentError: it is broken; the message names `what`.
    """
    first = next(pieces, b"")
    rest = again(first, pieces)
    try:
        if first.startswith(ZSTD_MAGIC):
            yield from _frames(rest)
        elif first.startswith(_XZ_MAGIC):
            yield from _xz(rest)
        elif first.startswith(_BZIP2_MAGIC):
            yield from _bzip2(rest)
        else:
            yield from decompress(rest, what)
    except (zstandard.ZstdError, EOFError, OSError, ValueError, ImportError) as error:
        raise ContentError(f"{what} cannot be unpacked: {error}") from None


def _xz(pieces: Iterator[bytes]) -> Iterator[bytes]:
    # Not every Python has it.
    import lzma

    try:
        yield from _streams(pieces, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    except lzma.LZMAError as error:
        raise ValueError(error) from None


def _bzip2(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import bz2

    yield from _streams(pieces, bz2.BZ2Decompressor)


def _frames(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack zstd frames, all of them; skippable ones give nothing."""
    decompressor = zstandard.ZstdDecompressor()
    unpacker = decompressor.decompressobj()
    for data in pieces:
        for start in range(0, len(data), _STEP):
            rest = data[start : start + _STEP]
            while rest:
                if unpacker.eof:
                    unpacker = decompressor.decompressobj()
                yield unpacker.decompress(rest)
                rest = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise EOFError("it ends early")


def _streams(
    pieces: Iterator[bytes], new: Callable[[], Union[lzma.LZMADecompressor, bz2.BZ2Decompressor]]
) -> Iterator[bytes]:
    unpacker = new()
    for data in pieces:
        rest = data
        while rest or not (unpacker.needs_input or unpacker.eof):
            if unpacker.eof:
                unpacker = new()
            yield unpacker.decompress(rest, CHUNK)
            rest = unpacker.unused_data.lstrip(b"\0") if unpacker.eof else b""
    if not unpacker.eof:
        raise EOFError("it ends early")


def again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Put back a piece that was looked at."""
    if first:
        yield first
    yield from rest


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
