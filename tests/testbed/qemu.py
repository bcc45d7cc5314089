"""The emulators: Debian's qemu-aarch64, and one that can start other programs without the kernel's help.

moby/buildkit carries its own emulators for machines where nothing is registered with binfmt_misc. They differ from
plain QEMU in one thing: a program that starts another one starts it through the emulator. Debian has no such QEMU, so
it is built here, from Debian's source.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .apt import mirror
from .cache import Product
from .commands import run
from .errors import SetupError

PATCH = Path(__file__).parent / "images/buildkit/execve.c.inc"
_CONFIGURE = (
    "--static", "--target-list=aarch64-linux-user", "--without-default-features", "--enable-linux-user",
    "--disable-system", "--disable-tools", "--disable-docs", "--disable-guest-agent", "--disable-install-blobs",
    "--disable-werror", "--disable-pie",
)  # fmt: skip


def _copy(directory: Path) -> None:
    shutil.copy2("/usr/bin/qemu-aarch64-static", directory / "qemu-aarch64")


def _build(directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        source = _source(Path(scratch))
        shutil.copy2(PATCH, source / "linux-user")
        _patch(source / "linux-user/syscall.c")
        build = source / "build-user"
        build.mkdir()
        run("../configure", *_CONFIGURE, cwd=build)
        run("ninja", "qemu-aarch64", cwd=build)
        run("strip", "-o", str(directory / "buildkit-qemu-aarch64"), "qemu-aarch64", cwd=build)


def _source(scratch: Path) -> Path:
    """QEMU's source, unpacked; apt checks its signature in a state of its own, apart from the machine's."""
    (scratch / "lists/partial").mkdir(parents=True)
    (scratch / "cache/archives/partial").mkdir(parents=True)
    sources = scratch / "sources.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb-src [signed-by={keyring}] {mirror()} bookworm main\n")
    options: list[str] = []
    for option in (
        f"Dir::Etc::SourceList={sources}", "Dir::Etc::SourceParts=/dev/null", f"Dir::State::Lists={scratch}/lists",
        f"Dir::Cache={scratch}/cache", f"Dir::Cache::Archives={scratch}/cache/archives", "APT::Sandbox::User=root",
        "Acquire::Check-Valid-Until=false",
    ):  # fmt: skip
        options += ["-o", option]
    run("apt-get", *options, "update")
    run("apt-get", *options, "source", "--download-only", "qemu", cwd=scratch)
    (archive,) = scratch.glob("qemu_*.orig.tar.xz")
    run("tar", "--extract", "--file", str(archive), cwd=scratch)
    (source,) = (path for path in scratch.glob("qemu-*") if path.is_dir())
    return source


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
BUILDKIT_QEMU = Product("qemu/buildkit", f"1 {_CONFIGURE} {PATCH.read_text()}", _build)
