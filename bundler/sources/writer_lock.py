"""The lock of the one `bundle create` that works on an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bundles.errors import BundleError, UsageError, reason
from bundles.runtime.filesystem import open_locked


def open_for_writer(path: Path, archive: str, opened: Callable[[], int]) -> int:
    """Open and lock what belongs to the one writer of the archive of that name, as `open_locked` does.

    Raises:
        BundleError: another process has it.
        UsageError: it cannot be made there.
    """
    busy = BundleError(
        f"`{archive}` is being written by another `bundle create`",
        hint="wait for it to end, or choose another -o FILE",
    )
    try:
        return open_locked(path, opened, busy)
    except OSError as error:
        hint = "choose another place with -o FILE"
        raise UsageError(f"`{path}` cannot be written: {reason(error)}", hint=hint) from None
