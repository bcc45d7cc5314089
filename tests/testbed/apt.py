"""The machine's own apt: which mirror it uses, and the packages that the testbed needs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .commands import run
from .errors import CommandError, SetupError
from .progress import say

PACKAGES = (
    "arch-test", "busybox-static", "ca-certificates", "iproute2", "iptables", "kmod", "mmdebstrap", "procps",
    "qemu-user-static", "runc", "shellcheck", "skopeo", "util-linux",
    # to assemble what installer/steps/emulation_init.py has as code
    "binutils-aarch64-linux-gnu",
    # to build QEMU
    "binutils", "gcc", "libc6-dev", "libglib2.0-dev", "meson", "ninja-build", "pkg-config", "xz-utils",
)  # fmt: skip


def mirror(root: Path = Path("/")) -> str:
    """The address of the Debian archive that this machine installs from, as its apt sources give it."""
    etc = root / "etc/apt"
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text()
        found = _deb822(text) if file.suffix == ".sources" else _one_line(text) if file.suffix == ".list" else ()
        for address, suites in found:
            if any(re.fullmatch(r"bookworm|stable|oldstable|trixie|sid|testing|unstable", suite) for suite in suites):
                return address
    raise SetupError(f"no Debian archive in the apt sources under {etc}; looked for `URIs:` and `deb` lines")


def install(packages: tuple[str, ...] = PACKAGES) -> None:
    """Install what is missing of `packages` with the machine's own apt."""
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    say(f"installing with apt: {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    argv = ("apt-get", "install", "-y", "--no-install-recommends", *missing)
    try:
        run("apt-get", "update", env=quiet)
        run(*argv, env=quiet)
    except CommandError as error:
        if "Could not get lock" not in str(error):
            raise
        raise SetupError(f"another apt is running on this machine; wait for it and run this again\n{error}") from error


def _installed(package: str) -> bool:
    done = subprocess.run(
        ("dpkg-query", "-W", "-f", "${db:Status-Status}", package), capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and done.stdout == "installed"


def _deb822(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `URIs:` address of a .sources file with the suites of its stanza."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.setdefault(name, []).extend(line.split())
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.split()
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            for address in fields.get("uris", []):
                yield address, fields.get("suites", [])


def _one_line(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each address of the `deb` lines of a .list file with its suite."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
        if found:
            yield found[1], [found[2]]
