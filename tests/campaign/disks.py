"""Small real disks: ext4 on a loop device, which can fill up, lose their power, or be pulled."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Optional

# ext4's and xfs' way to stop at once, for tests of power losses: what is neither on the medium nor in the log is gone.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = 2


class Disk:
    """An ext4 file system of `size` bytes, mounted on `directory`/mnt. A context manager."""

    def __init__(self, directory: Path, size: int) -> None:
        self.image = directory / "disk.img"
        self.mount_point = directory / "mnt"
        self.mount_point.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)

    def __enter__(self) -> Disk:
        self.mount()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if os.path.ismount(self.mount_point):
            self.unmount()
        self.image.unlink()

    def mount(self, *options: str) -> None:
        command = ["mount", "-o", ",".join(["loop", *options]), self.image, self.mount_point]
        # Whoever looks for a free loop device at the same time may take it first.
        for _ in range(10):
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.2)
        subprocess.run(command, check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mount_point], check=True)

    def fill(self, leaving: int) -> Path:
        """Use up all space but `leaving` bytes at most; gives the file to remove."""
        filler = self.mount_point / "filler"
        free = shutil.disk_usage(self.mount_point).free
        with filler.open("wb") as file:
            if free > leaving:
                try:
                    os.posix_fallocate(file.fileno(), 0, free - leaving)
                except OSError as error:
                    # Who writes at the same time got some of it: the file has all of the rest, and the disk is full.
                    if error.errno != errno.ENOSPC:
                        raise
        return filler

    def pull(self) -> None:
        """Take the medium out: reading fails with EIO. What is in the system's memory can still be read."""
        shutil.copyfile(self.image, self._kept)
        os.truncate(self.image, 0)

    def put_back(self) -> None:
        """Put it in again."""
        if self._kept.exists():
            with self._kept.open("rb") as source, self.image.open("r+b") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            self._kept.unlink()

    @property
    def _kept(self) -> Path:
        return self.image.with_suffix(".pulled")

    def lose_power(self) -> None:
        """From now on nothing reaches the medium, and all access fails."""
        directory = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(directory)
