"""Writing the small files that a command leaves for its user: a lock, a packing list, a list of what is wanted."""

from __future__ import annotations

import errno
from pathlib import Path

from bundles.errors import UsageError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, then give it its name: it is whole or as it was.

    Raises:
        UsageError: it cannot be written.
        OSError: no space (errno ENOSPC), which the command line reports as such.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(
            f"`{path}` cannot be written: {(error.strerror or str(error)).lower()}",
            hint="name a file in a directory that exists and that you may write to",
        ) from None
