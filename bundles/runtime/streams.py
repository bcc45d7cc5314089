"""Streams of bytes that come in pieces, as files to read from."""

from __future__ import annotations

from collections.abc import Iterator


class PieceStream:
    """Pieces of bytes as the object with `read` that tarfile wants."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            parts.append(self._rest[:missing])
            missing -= len(parts[-1])
            self._rest = self._rest[len(parts[-1]) :]
        return b"".join(parts)
