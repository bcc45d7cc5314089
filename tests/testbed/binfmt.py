"""The kernel's table of foreign program formats: look at it, clear it, put it back.

There is one table for the whole machine and every host on it. Since Linux 6.7 the kernel empties it when the last
mount of binfmt_misc goes away, so a registration lives only while somebody keeps binfmt_misc mounted.

With flag F the kernel opens the interpreter when it is registered and keeps it open. A container that registers its own
emulator leaves an entry whose path only ever meant something in there. Such an entry can be put back because its
program is first had from the kernel: whoever starts a program of that format, becomes the interpreter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .cache import cache_dir, lock
from .commands import run
from .errors import CommandError, SetupError

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


class State(dict[str, Entry]):
    """Registered formats by name, and how often formats had been put aside before."""

    put_aside = 0

    def program(self, name: str) -> Path | None:
        """What was kept of the entry `name` when it was put aside after this was its state; None when it was not."""
        kept = (layer / name for layer in _layers()[self.put_aside :])
        return next((root for root in kept if root.exists()), None)


def binfmt_state() -> State:
    """All registered formats by name, without that of `emulated_arm64`, in the order in which the kernel tries them."""
    with table() as directory:
        state = State(_state(directory))
        state.put_aside = len(_layers())
        return state


def binfmt_clear(arch: str) -> list[str]:
    """Remove every registration for `arch` (such as `arm64`) and return the names removed.

    What `binfmt_restore` needs to put them back is kept. One that could not be put back is switched off instead.
    """
    with _alone(), table() as directory:
        _remove(directory, OUR_NAME)  # of a run that was killed
        entries = [entry for entry in _state(directory).values() if entry.runs(arch)]
        layer = _kept() / f"{len(_layers()):04}"
        for entry in entries:  # the newest first, which is the one that the kernel asks
            possible = True
            if "F" in entry.flags:
                (directory / entry.name).write_text("1")
                possible = _keep_interpreter(entry, layer / entry.name)
            (directory / entry.name).write_text("-1" if possible else "0")
        return [entry.name for entry in entries]


@contextmanager
def binfmt_without(arch: str) -> Iterator[None]:
    """Let the kernel not run `arch` until somebody registers it; meanwhile nobody else who asks here clears it."""
    with lock("binfmt"):
        before = binfmt_state()
        binfmt_clear(arch)
        try:
            yield
        finally:
            binfmt_restore(before)


def binfmt_restore(state: State) -> None:
    """Make the table what `state` says; one after the other, the last one first, as many times as it was changed."""
    with _alone(), table() as directory:
        for name, present in _state(directory).items():
            wanted = state.get(name)
            if wanted is None or state.program(name) or replace(present, enabled=wanted.enabled) != wanted:
                (directory / name).write_text("-1")
        here = _state(directory)
        for name, wanted in reversed(state.items()):  # the kernel tries the newest first
            if name not in here:
                _register(directory, wanted.registration, state.program(name))
            if not wanted.enabled or not here.get(name, wanted).enabled:
                (directory / name).write_text("1" if wanted.enabled else "0")
        for layer in _layers()[state.put_aside :]:
            shutil.rmtree(layer)  # the kernel holds open what it needs


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


def _state(directory: Path) -> dict[str, Entry]:
    names = [path.name for path in directory.iterdir() if path.name not in ("register", "status", OUR_NAME)]
    return {name: Entry.parse(name, (directory / name).read_text()) for name in names}


def _alone() -> AbstractContextManager[None]:
    """Hold the table against every other run on this machine, whatever its cache."""
    return lock("bundle-testbed-binfmt", Path("/run/lock"))


def _kept() -> Path:
    """Where the interpreters are of entries that were put aside: a directory for each time, since an entry of the same
    name may be another one by then. In it each entry has a root directory with nothing in it but its interpreter.
    """
    return cache_dir() / "binfmt" / str(os.getpid())


def _layers() -> list[Path]:
    return sorted(_kept().iterdir()) if _kept().exists() else []


def _keep_interpreter(entry: Entry, root: Path) -> bool:
    """Copy the program that the kernel holds open for `entry`; say whether that succeeded."""
    target = root / entry.interpreter.lstrip("/")
    target.parent.mkdir(parents=True)
    program = root / "program of that format"
    program.write_bytes(bytes(entry.offset) + bytes.fromhex(entry.magic))
    program.chmod(0o755)
    # The kernel stops a traced process when it has become another program, before that does anything.
    become = "import ctypes, os, sys; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen((sys.executable, "-ISc", become, str(program)), stderr=subprocess.DEVNULL)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            shutil.rmtree(root)
            return False
        shutil.copyfile(f"/proc/{process.pid}/exe", target)
        target.chmod(0o755)
    finally:
        process.kill()
        process.wait()
    return True


def _remove(directory: Path, name: str) -> None:
    with suppress(FileNotFoundError), (directory / name).open("r+") as entry:  # "r+" makes no file
        entry.write("-1")


def _register(directory: Path, line: str, root: Path | None = None) -> None:
    """Register the format `line`; the interpreter's path is looked up in `root` if that is given."""
    if root is None:
        try:
            (directory / "register").write_text(line)
        except OSError as error:
            raise SetupError(f"the kernel refuses the format `{line}`: {error}") from error
        return
    write = "import os, sys; os.chroot(sys.argv[1]); os.write(1, sys.argv[2].encode())"
    with (directory / "register").open("wb") as register:
        argv = (sys.executable, "-ISc", write, str(root), line)
        done = subprocess.run(argv, stdout=register, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(argv, f"ended with status {done.returncode}", done.stderr)
