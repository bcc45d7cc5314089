"""Which foreign programs this kernel runs, asked of the kernel itself: a program of a few bytes is started.

/proc/sys/fs/binfmt_misc would say it too where it is mounted, and the emulators there have no fixed names. The probe
tells the truth everywhere, as BuildKit's own does (buildkit: util/archutil), needs no permission, and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess

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


def knows(platform: Platform) -> bool:
    """Tell whether there is a probe for that platform; `runs` says False of all others."""
    return platform.os == "linux" and platform.architecture in _EXITS


def runs(platform: Platform) -> bool:
    """Tell whether this kernel starts programs of that platform, itself or through an emulator."""
    if not knows(platform):
        return False
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
