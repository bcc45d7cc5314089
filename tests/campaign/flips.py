"""Every byte of an archive is turned over, one after the other, and `verify` finds each.

python3 -m tests.campaign.flips --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import ArchiveError
from tests.support.archives import example


def flips(path: Path, choice: random.Random) -> list[int]:
    """Turn over one bit of each byte in turn; gives the offsets where nothing was found."""
    missed = []
    with path.open("r+b", buffering=0) as file:
        for offset in range(path.stat().st_size):
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1 << choice.randrange(8)]))
            try:
                with Archive(path) as archive:
                    verify_archive(archive)
                missed.append(offset)
            except ArchiveError:
                pass
            file.seek(offset)
            file.write(bytes([byte]))
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.campaign.flips", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = example().write(Path(directory) / "offline.tar").path
        size = path.stat().st_size
        with Archive(path) as archive:
            count = len(archive.layout.entries)
            verify_archive(archive)
        missed = flips(path, random.Random(seed))
    print(f"seed {seed}: {size} bytes, {count} entries: {len(missed)} missed, {time.monotonic() - begun:.0f} s")
    print(*missed[:100])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
