"""The first process of the container that brings emulation back: it registers emulators, then waits for ever.

The binfmt image (tonistiigi/binfmt) registers and ends, and has no shell; Docker starts a container again after a
reboot only when it was still running. So the image gets one more program, of less than 300 bytes, that

1. mounts binfmt_misc inside the container: since Linux 6.7 the kernel's table is emptied when its last mount goes, and
   hosts without systemd may have none; where this fails, the next step says so in the container's log;
2. starts the program that its arguments name, with the rest of them, and waits for its end;
3. sleeps. A container's first process ends with SIGKILL at once, and at no other signal.

Its source is in emulation_init.*.s; it is stored as code because nothing is assembled on the host.
"""

from __future__ import annotations

from typing import Optional

from installer.host import kernel

PATH = "/bundle-keeper"

_AMD64 = """
488d3d61000000 488d3566000000 4889fa 4531d2 4531c0 b8a5000000 0f05
b839000000 0f05 85c0 7526
488b7c2410 488d742410 488b0424 488d54c410 b83b000000 0f05 bf7f000000 b83c000000 0f05
89c7 31f6 31d2 4531d2 b83d000000 0f05
b822000000 0f05 ebf7
"""
_ARM64 = """
20040010 61040010 e20300aa 030080d2 040080d2 080580d2 010000d4
200280d2 010080d2 881b80d2 010000d4 400100b5
e00b40f9 e1430091 e20340f9 220c028b a81b80d2 010000d4 e00f80d2 a80b80d2 010000d4
010080d2 020080d2 030080d2 882080d2 010000d4
000080d2 010080d2 020080d2 030080d2 280980d2 010000d4 faffff17
"""
_CODE = {"amd64": _AMD64, "arm64": _ARM64}
_STRINGS = b"binfmt_misc\0/proc/sys/fs/binfmt_misc\0"


def init_program(architecture: str) -> Optional[bytes]:
    """Return the program for hosts of that architecture, None when there is none for it."""
    code = _CODE.get(architecture)
    return None if code is None else kernel.program(architecture, bytes.fromhex(code) + _STRINGS)
