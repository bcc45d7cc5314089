"""Which foreign programs this kernel runs, asked of the kernel itself: a program of a few bytes is started.

/proc/sys/fs/binfmt_misc would say it too where it is mounted, and the emulators there have no fixed names. The probe
is what BuildKit does, too (buildkit: util/archutil), needs no permission, and writes nothing. Where not even a program
of this kernel's own platform can be started like that (vm.memfd_noexec, see proc_sys_vm(5)), nothing is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.oci.platform import Platform

# architecture -> (ELF machine, 64 bits, big endian, code of `exit(0)`)
_EXITS = {
    "amd64": (62, True, False, "31ff b83c000000 0f05"),
    "386": (3, False, False, "31db b801000000 cd80"),
    "arm64": (183, True, False, "000080d2 a80b80d2 010000d4"),
    "arm": (40, False, False, "0000a0e3 0170a0e3 000000ef"),
    "riscv64": (243, True, False, "9308d005 13050000 73000000"),
    "ppc64le": (21, True, False, "01000038 00006038 02000044"),
    "s390x": (22, True, True, "a7290000 0a01"),
    "mips64le": (8, True, False, "00000424 c2130224 0c000000"),
    "loong64": (258, True, False, "04008002 0b748102 00002b00"),
}
_BASE = 0x10000
_MFD_EXEC = 0x10  # memfd_create(2), since Linux 6.3; older kernels refuse it


def knows(platform: Platform) -> bool:
    """Tell whether there is a probe for that platform; `runs` says False of all others."""
    return platform.os == "linux" and platform.architecture in _EXITS


def runs(platform: Platform) -> Optional[bool]:
    """Tell whether this kernel starts programs of that platform, itself or through an emulator; None: not known."""
    if not knows(platform):
        return False
    if _starts(platform):
        return True
    own = Platform("linux", os.uname().machine)
    return None if knows(own) and not _starts(own) else False


def _starts(platform: Platform) -> bool:
    try:
        file = os.memfd_create("probe", _MFD_EXEC)
    except OSError:
        file = os.memfd_create("probe", 0)
    try:
        os.write(file, exit_program(platform.architecture))
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            path = f"/proc/self/fd/{file}"
            done = subprocess.run([path], pass_fds=[file], capture_output=True, check=False, timeout=10)
            return done.returncode == 0
        return False
    finally:
        os.close(file)


def exit_program(architecture: str) -> bytes:
    """Return the probe: it ends at once with 0."""
    return program(architecture, bytes.fromhex(_EXITS[architecture][3].replace(" ", "")))


def program(architecture: str, code: bytes) -> bytes:
    """Make a static executable for Linux: one segment that holds everything, `code` as its beginning and its end."""
    machine, wide, big, _ = _EXITS[architecture]
    order = ">" if big else "<"
    header_size, segment_size = (64, 56) if wide else (52, 32)
    start = header_size + segment_size
    size = start + len(code)
    # ELFv2 for POWER, EABI version 5 for ARM, MIPS64 release 2, LoongArch's hard floats: what their kernels ask for.
    flags = {21: 2, 40: 0x05000000, 8: 0x80000000, 258: 0x43}.get(machine, 0)
    identity = b"\x7fELF" + bytes([2 if wide else 1, 2 if big else 1, 1, 0]) + bytes(8)
    word = "Q" if wide else "I"
    header = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(2, machine, 1, _BASE + start, header_size, 0, flags, header_size, segment_size, 1, 0, 0, 0),
    )
    if wide:
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    else:
        segment = struct.pack(f"{order}IIIIIIII", 1, 0, _BASE, _BASE, size, size, 5, 0x10000)
    return identity + header + segment + code


@dataclasses.dataclass(frozen=True)
class Emulator:
    """One that is registered with the kernel: `interpreter` is its path, as it was for whoever registered it."""

    name: str
    interpreter: str
    machine: Optional[int]

    @classmethod
    def parse(cls, name: str, text: str) -> Emulator:
        """Read what the kernel shows of an entry."""
        values = dict(line.partition(" ")[::2] for line in text.splitlines())
        return cls(name, values.get("interpreter", ""), _machine(values.get("magic", "")))


def emulators(directory: Path, platform: Platform) -> Optional[Sequence[Emulator]]:
    """Return those for programs of a platform, from the kernel's table; None when it is not mounted there."""
    if not (directory / "register").exists():
        return None
    found = []
    for path in sorted(directory.iterdir()):
        if path.name not in ("register", "status"):
            # Others may take an entry away meanwhile.
            with contextlib.suppress(OSError):
                found.append(Emulator.parse(path.name, path.read_text(errors="replace")))
    return [entry for entry in found if knows(platform) and entry.machine == _EXITS[platform.architecture][0]]


def _machine(magic: str) -> Optional[int]:
    """Read e_machine of an ELF header, of which the beginning is given; None when it is none."""
    with contextlib.suppress(ValueError):
        header = bytes.fromhex(magic)
        if header[:4] == b"\x7fELF" and len(header) >= 20:
            return int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")
    return None
