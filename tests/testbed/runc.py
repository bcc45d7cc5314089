#!/usr/bin/python3 -IS
"""Stands before the runc of an old engine on a machine that itself lacks some capability.

Docker 20.10 gives a privileged container every capability that the kernel knows, and runc fails when the machine may
not give one of them. Newer engines ask only for what they have; this does the same for the old one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]


def bounding_set() -> set[str]:
    """The names of the capabilities that this process could ever have."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    bits = int(status["CapBnd"], 16)
    return {f"CAP_{name}" for number, name in enumerate(_NAMES) if bits >> number & 1}


def complete() -> bool:
    """Whether no capability is missing."""
    return len(bounding_set()) == len(_NAMES)


def reduce(file: Path, path_to_process: list[str]) -> None:
    """Take the capabilities that are not to be had out of an OCI runtime file."""
    content = json.loads(file.read_text())
    process = content
    for key in path_to_process:
        process = process.get(key) or {}
    given = process.get("capabilities") or {}
    for kind, names in given.items():
        given[kind] = [name for name in names or () if name in bounding_set()]
    file.write_text(json.dumps(content))


def main(arguments: list[str]) -> None:
    """Adapt the files that `arguments` name and become the real runc."""
    for option, value in zip(arguments, arguments[1:]):
        if option == "--bundle" and "create" in arguments:
            reduce(Path(value) / "config.json", ["process"])
        elif option == "--process" and "exec" in arguments:
            reduce(Path(value), [])
    os.execv("/usr/sbin/runc", ["runc", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
