"""What an upload sends, in tests."""

from __future__ import annotations

import io


class Body:
    """Bytes to upload, read in pieces."""

    def __init__(self, data: bytes) -> None:
        self._stream, self._size = io.BytesIO(data), len(data)

    def __len__(self) -> int:
        return self._size

    def read(self, count: int, /) -> bytes:
        return self._stream.read(count)
