"""The kernel's table of foreign program formats: look at it, clear it, put it back.

There is one table for the whole machine and every host on it. Since Linux 6.7 the kernel empties it when the last
mount of binfmt_misc goes away, so a registration lives only while somebody keeps binfmt_misc mounted.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .cache import lock
from .commands import run
from .errors import SetupError

OUR_NAME = "bundle-testbed-arm64"
QEMU_ARM64 = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_MACHINES = {"arm64": "b7", "amd64": "3e", "riscv64": "f3"}  # e_machine of the ELF header, byte 18


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered format, as the kernel shows it."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int
    magic: str
    mask: str

    @classmethod
    def parse(cls, name: str, text: str) -> Entry:
        """Read the text of /proc/sys/fs/binfmt_misc/<name>."""
        lines = text.splitlines()
        words = dict(line.split(None, 1) for line in lines if " " in line)
        return cls(
            name=name,
            enabled=lines[:1] == ["enabled"],
            interpreter=words.get("interpreter", ""),
            flags=words.get("flags:", "").strip(),
            offset=int(words.get("offset", "0")),
            magic=words.get("magic", ""),
            mask=words.get("mask", ""),
        )

    @property
    def registration(self) -> str:
        """The line that registers this format again."""
        magic, mask = (re.sub("(..)", r"\\x\1", digits) for digits in (self.magic, self.mask))
        return f":{self.name}:M:{self.offset}:{magic}:{mask}:{self.interpreter}:{self.flags}"

    def runs(self, arch: str) -> bool:
        """Whether this is the format of `arch`'s ELF programs."""
        return self.magic.startswith("7f454c46") and self.magic[36:38] == _MACHINES.get(arch)


def binfmt_state() -> dict[str, Entry]:
    """All registered formats by name, without that of `emulated_arm64`; empty when binfmt_misc is mounted nowhere."""
    with table() as directory:
        names = [path.name for path in directory.iterdir() if path.name not in ("register", "status", OUR_NAME)]
        return {name: Entry.parse(name, (directory / name).read_text()) for name in sorted(names)}


def binfmt_clear(arch: str) -> list[str]:
    """Remove every registration for `arch` (such as `arm64`) and return the names removed."""
    with _alone(), table() as directory:
        names = [name for name, entry in binfmt_state().items() if entry.runs(arch)]
        for name in names:
            (directory / name).write_text("-1")
        return names


def binfmt_restore(state: dict[str, Entry]) -> None:
    """Make the table what `state` says. Entries that keep their file open (flag F) need the file to be here."""
    with _alone(), table() as directory:
        present = binfmt_state()
        for name, entry in present.items():
            if state.get(name) != entry:
                (directory / name).write_text("-1")
        for name, entry in state.items():
            if present.get(name) != entry:
                _register(directory, entry.registration)
                if not entry.enabled:
                    (directory / name).write_text("0")


@contextmanager
def emulated_arm64() -> Iterator[None]:
    """Let the machine run arm64 programs inside the `with` block; what was registered before stays as it was.

    The registration has a name of its own, and `binfmt_clear` waits for it, so that no test takes it away.
    """
    with _alone(), table() as directory:
        _remove(directory, OUR_NAME)  # of a run that was killed
        _register(directory, QEMU_ARM64.read_text().strip().replace(":qemu-aarch64:", f":{OUR_NAME}:", 1))
        try:
            yield
        finally:
            _remove(directory, OUR_NAME)


@contextmanager
def table() -> Iterator[Path]:
    """The table as a directory, mounted apart from /proc/sys/fs/binfmt_misc for as long as the `with` block lasts."""
    with tempfile.TemporaryDirectory(prefix="binfmt-") as directory:
        run("mount", "-t", "binfmt_misc", "binfmt_misc", directory)
        try:
            yield Path(directory)
        finally:
            run("umount", "--lazy", directory)


def _alone() -> AbstractContextManager[None]:
    """Hold the table against every other run on this machine, whatever its cache."""
    return lock("bundle-testbed-binfmt", Path("/run/lock"))


def _remove(directory: Path, name: str) -> None:
    with suppress(FileNotFoundError), (directory / name).open("r+") as entry:  # "r+" makes no file
        entry.write("-1")


def _register(directory: Path, line: str) -> None:
    try:
        (directory / "register").write_text(line)
    except OSError as error:
        raise SetupError(f"the kernel refuses the format `{line}`: {error}") from error
