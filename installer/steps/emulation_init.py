"""The first process of the container that brings emulation back: it registers emulators, then waits for ever.

The binfmt image (tonistiigi/binfmt) registers and ends, and has no shell; Docker starts a container again after a
reboot only when it was still running. So the image gets one more program, of less than 300 bytes, that

1. mounts binfmt_misc inside the container: since Linux 6.7 the kernel's table is emptied when its last mount goes, and
   hosts without systemd may have none; where this fails, the next step says so in the container's log;
2. starts the program that its arguments name, with the rest of them, and waits for its end;
3. sleeps. A container's first process ends with SIGKILL at once, and at no other signal.

It is assembled from the listings below (GNU as, LLVM), and stored as code because nothing is compiled on the host.
"""

from __future__ import annotations

from typing import Optional

from installer.host import kernel

PATH = "/bundle-keeper"

# lea rdi,[type]; lea rsi,[table]; mov rdx,rdi; xor r10d,r10d; xor r8d,r8d; mount(type, table, type, 0, 0)
# fork(); test eax,eax; jnz parent
# mov rdi,[rsp+16]; lea rsi,[rsp+16]; mov rax,[rsp]; lea rdx,[rsp+rax*8+16]; execve(argv[1], argv+1, envp); exit(127)
# parent: mov edi,eax; xor esi,esi; xor edx,edx; xor r10d,r10d; wait4(child, 0, 0, 0)
# wait: pause(); jmp wait
_AMD64 = """
488d3d61000000 488d3566000000 4889fa 4531d2 4531c0 b8a5000000 0f05
b839000000 0f05 85c0 7526
488b7c2410 488d742410 488b0424 488d54c410 b83b000000 0f05 bf7f000000 b83c000000 0f05
89c7 31f6 31d2 4531d2 b83d000000 0f05
b822000000 0f05 ebf7
"""
# adr x0,type; adr x1,table; mov x2,x0; mov x3,0; mov x4,0; mount
# mov x0,SIGCHLD; mov x1,0; clone; cbnz x0,parent
# ldr x0,[sp,16]; add x1,sp,16; ldr x2,[sp]; add x2,x1,x2,lsl 3; execve; mov x0,127; exit
# parent: mov x1,0; mov x2,0; mov x3,0; wait4
# wait: mov x0..x3,0; ppoll; b wait
_ARM64 = """
20040010 61040010 e20300aa 030080d2 040080d2 080580d2 010000d4
200280d2 010080d2 881b80d2 010000d4 400100b5
e00b40f9 e1430091 e20340f9 220c028b a81b80d2 010000d4 e00f80d2 a80b80d2 010000d4
010080d2 020080d2 030080d2 882080d2 010000d4
000080d2 010080d2 020080d2 030080d2 280980d2 010000d4 faffff17
"""
_CODE = {"amd64": _AMD64, "arm64": _ARM64}
_STRINGS = b"binfmt_misc\0/proc/sys/fs/binfmt_misc\0"


def keeper(architecture: str) -> Optional[bytes]:
    """The program for hosts of that architecture, None when there is none for it."""
    code = _CODE.get(architecture)
    return None if code is None else kernel.program(architecture, bytes.fromhex("".join(code.split())) + _STRINGS)
