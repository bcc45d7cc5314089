"""What is closed at the end of a `with` block."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Optional, TypeVar

_Self = TypeVar("_Self", bound="Closeable")


class Closeable(abc.ABC):
    """A context manager that calls its own `close`, whatever ended the block."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()
