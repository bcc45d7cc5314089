"""The emulators: Debian's qemu-aarch64, and one that can start other programs without the kernel's help.

moby/buildkit carries its own emulators for machines where nothing is registered with binfmt_misc. They differ from
plain QEMU in one thing: a program that starts another one starts it through the emulator. Debian has no such QEMU, so
it is built here, from Debian's source.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .apt import archive, install
from .commands import run
from .errors import SetupError
from .product import Product

EMULATION = ("qemu-user-static",)
COMPILER = (
    "binutils", "gcc", "libc6-dev", "libglib2.0-dev", "meson", "ninja-build", "pkg-config", "python3", "xz-utils",
)  # fmt: skip
PATCH = Path(__file__).parent / "images/buildkit/execve.c.inc"
_CONFIGURE = (
    "--static", "--target-list=aarch64-linux-user", "--without-default-features", "--enable-linux-user",
    "--disable-system", "--disable-tools", "--disable-docs", "--disable-guest-agent", "--disable-install-blobs",
    "--disable-werror",
    # A position-independent emulator leaves a program's own addresses to it, as Debian's does. One that stands at
    # 0x400000 itself moves the program elsewhere, and QEMU 7.2 measures that hole without the 4 MiB below the program:
    # where the kernel, which chooses at random, has put the heap that near, the program is mapped over it.
    "--enable-pie",
    # What a build step in a test needs is an emulator that is soon there, not a fast one.
    "--disable-debug-info", "--disable-stack-protector", "--extra-cflags=-O1 -w",
)  # fmt: skip


def _copy(directory: Path) -> None:
    install(EMULATION)
    shutil.copy2("/usr/bin/qemu-aarch64-static", directory / "qemu-aarch64")


def _build(directory: Path) -> None:
    install(COMPILER)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        with archive("bookworm", kind="deb-src") as debian:
            run("tar", "--extract", "--file", str(debian.source("qemu")), "--directory", scratch)
        (source,) = Path(scratch).glob("qemu-*")
        shutil.copy2(PATCH, source / "linux-user")
        _patch(source / "linux-user/syscall.c")
        build = source / "build-user"
        build.mkdir()
        run("../configure", *_CONFIGURE, cwd=build)
        run("ninja", "qemu-aarch64", cwd=build)
        run("strip", "-o", str(directory / "buildkit-qemu-aarch64"), "qemu-aarch64", cwd=build)


def _patch(file: Path) -> None:
    text = file.read_text()
    helper = "/* This is an internal helper for do_syscall so that it is easier\n"
    for old, new in (
        (helper, f'#include "{PATCH.name}"\n\n{helper}'),
        ("get_errno(safe_execve(exec_path, argp, envp))", "get_errno(direct_execve(exec_path, argp, envp))"),
        ("get_errno(safe_execve(p, argp, envp))", "get_errno(direct_execve(p, argp, envp))"),
    ):
        if text.count(old) != 1:
            raise SetupError(f"QEMU's {file.name} has changed: no single `{old.strip()}` in it")
        text = text.replace(old, new)
    file.write_text(text)


QEMU = Product("qemu/debian", "1", _copy)
BUILDKIT_QEMU = Product("qemu/buildkit", f"1 {_CONFIGURE} {PATCH.read_text()}", _build, seconds=60)
NONE = Product("qemu/none", "1", lambda directory: None)
