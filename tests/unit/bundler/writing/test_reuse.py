"""An archive that is there already: read in place, and touched only when something is wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest

from bundler.create import Options, create
from bundler.writing.journal import journal_of
from bundles.errors import BundleError
from bundles.runtime.progress import Progress, Silent, Task
from tests.support.archives import PROGRAM, Made, example

NAMES = ["offline.tar", "offline.tar.sha256"]
# The same command for ever, until it is killed.
AGAIN = """
import sys
from pathlib import Path
from bundler.create import Options, create
from bundles.runtime.progress import Silent
from tests.support.archives import PROGRAM, example
made = example()
print("ready", flush=True)
while True:
    create(made.spec, Path(sys.argv[1]), made.source, Options(program=PROGRAM), Silent())
"""


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


class Stopped(Progress):
    """Interrupts what is being done as soon as something of the archive was read."""

    class _Task(Task):
        def advance(self, count: int) -> None:
            raise KeyboardInterrupt

    def task(self, name: str, total: int) -> Task:
        return self._Task()

    def message(self, text: str) -> None:
        pass


def write(sample: Made, path: Path, part_size: Optional[int] = None, progress: Optional[Progress] = None) -> bytes:
    """Create it; gives the digest of bundle.json as bytes, which is not what the tests are about."""
    options = Options(program=PROGRAM, part_size=part_size)
    return str(create(sample.spec, path, sample.source, options, progress or Silent()).written.digest).encode()


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file with its inode, its time and its content."""
    found = {}
    for path in sorted(directory.iterdir()):
        status = path.stat()
        found[path.name] = (status.st_ino, status.st_mtime_ns, path.read_bytes())
    return found


@pytest.mark.parametrize("part_size", [None, 100_000])
def test_the_same_again_touches_nothing(sample: Made, tmp_path: Path, part_size: Optional[int]) -> None:
    write(sample, tmp_path / "offline.tar", part_size)
    before = state(tmp_path)
    write(sample, tmp_path / "offline.tar", part_size)
    assert state(tmp_path) == before


def test_the_same_again_interrupted_touches_nothing(sample: Made, tmp_path: Path) -> None:
    write(sample, tmp_path / "offline.tar")
    before = state(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(sample, tmp_path / "offline.tar", progress=Stopped())
    assert state(tmp_path) == before


def test_killed_at_any_moment_the_archive_is_there(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    write(sample, path)
    before = state(tmp_path)
    for number in range(6):
        with subprocess.Popen([sys.executable, "-c", AGAIN, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 0.05 + 0.07 * number
            while time.monotonic() < deadline:
                assert path.exists()
            os.kill(process.pid, signal.SIGKILL)
        after = state(tmp_path)
        assert {name: after[name] for name in NAMES} == before


def test_a_lost_checksum_file_is_written_again(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    write(sample, path)
    inode = path.stat().st_ino
    for spoil in ((tmp_path / NAMES[1]).unlink, lambda: (tmp_path / NAMES[1]).write_text("0  offline.tar\n")):
        spoil()
        write(sample, path)
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  offline.tar\n"
        assert ((tmp_path / NAMES[1]).read_text(), path.stat().st_ino) == (line, inode)


@pytest.mark.parametrize("where", [700, -400])
def test_what_is_wrong_is_put_right(sample: Made, tmp_path: Path, where: int) -> None:
    path = tmp_path / "offline.tar"
    write(sample, path)
    data = path.read_bytes()
    # The first is in bundle.json's checksum or behind it, so the archive is none of ours; the last is in the program.
    where %= len(data)
    path.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    if where < 2000:
        with pytest.raises(BundleError, match="not a complete bundle"):
            write(sample, path)
        return
    write(sample, path)
    assert path.read_bytes() == data
    assert sorted(file.name for file in tmp_path.iterdir()) == NAMES


def test_one_that_got_its_name_before_its_journal_was_removed(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    digest = write(sample, path)
    before = state(tmp_path)
    layer = next(iter(sample.layers))
    journal = f"bundle {digest.decode()} {path.stat().st_size}\nsynced {layer} {len(sample.layers[layer])}\ncomplete\n"
    journal_of(path).write_text(journal)
    with pytest.raises(KeyboardInterrupt):
        write(sample, path, progress=Stopped())
    assert {name: state(tmp_path)[name] for name in NAMES} == before
    write(sample, path)
    assert state(tmp_path) == before
