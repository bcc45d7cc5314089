"""What of an unfinished archive is already written, so that a second run goes on where the first one stopped.

A text file beside the `.partial`: the first line names the bundle, the others say how many leading bytes of a blob are
in place. A claim is a hint and never trusted: the bytes are hashed again, and a wrong claim costs a download, not a
wrong archive. Claims of written but not yet synced bytes count only while the machine has not been started anew.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from bundles.digest import Digest
from bundles.errors import UsageError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


class Journal:
    """Opens or begins the journal of one bundle at `path`.

    `claims` are what an earlier run left: digest to number of bytes. A journal of another bundle is begun anew.
    """

    def __init__(self, path: Path, bundle: Digest) -> None:
        self.path = path
        self._lock = threading.Lock()
        boot = _boot_id()
        self.claims = _read(path, bundle, boot)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        lines = [f"bundle {bundle} {boot}"] + [f"synced {digest} {size}" for digest, size in self.claims.items()]
        os.write(self._file, ("\n".join(lines) + "\n").encode())

    def written(self, digest: Digest, size: int) -> None:
        """Claim that the first `size` bytes of a blob are written (they survive the end of this process)."""
        self._append(f"written {digest} {size}\n")

    def synced(self, sizes: dict[Digest, int]) -> None:
        """Claim that these leading bytes are on the medium (they survive a power cut)."""
        self._append("".join(f"synced {digest} {size}\n" for digest, size in sizes.items()))

    def _append(self, text: str) -> None:
        with self._lock:
            if self._file >= 0:
                os.write(self._file, text.encode())

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def remove(self) -> None:
        """The archive is complete: nothing to remember."""
        self.close()
        self.path.unlink(missing_ok=True)


def _read(path: Path, bundle: Digest, boot: str) -> dict[Digest, int]:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return {}
    first = lines[0].split(" ")
    if first[:2] != ["bundle", str(bundle)]:
        return {}
    same_boot = first[2:] == [boot] and boot != "unknown"
    claims: dict[Digest, int] = {}
    # The text behind the last newline is a line that was being written when the process ended.
    for line in lines[1:-1]:
        kind, _, rest = line.partition(" ")
        digest, _, size = rest.partition(" ")
        if (kind == "synced" or (kind == "written" and same_boot)) and size.isdigit():
            try:
                claims[Digest(digest)] = int(size)
            except UsageError:
                continue
    return claims
