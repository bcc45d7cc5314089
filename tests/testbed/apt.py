"""The machine's own apt: its mirror, what it installs, and packages fetched without installing them."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .commands import run
from .durations import timed
from .errors import CommandError, SetupError

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_one_at_a_time = threading.Lock()


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


def install(packages: tuple[str, ...]) -> None:
    """Install what is missing of `packages` with the machine's own apt."""
    with _one_at_a_time:
        absent = [package for package in packages if not _installed(package)]
        if not absent:
            return
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        argv = ("apt-get", "install", "-y", "--no-install-recommends", *absent)
        try:
            with timed(f"installing with apt: {' '.join(absent)}", "installed"):
                run("apt-get", "update", env=quiet)
                run(*argv, env=quiet)
        except CommandError as error:
            if "Could not get lock" not in str(error):
                raise
            raise SetupError(f"another apt runs on this machine; wait for it and run this again\n{error}") from error


def _installed(package: str) -> bool:
    done = subprocess.run(
        ("dpkg-query", "-W", "-f", "${db:Status-Status}", package), capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and done.stdout == "installed"


@dataclass(frozen=True, slots=True)
class Archive:
    """Debian's packages of one suite and architecture, fetched with a state apart from the machine's.

    apt checks their signatures as always. `directory` keeps what is fetched. Get one from `archive()`.
    """

    directory: Path
    arch: str

    def package(self, name: str) -> Path:
        """Fetch the package `name` alone and return its file."""
        target = self.directory / name
        target.mkdir()
        self._apt("download", name, cwd=target)
        (file,) = target.glob("*.deb")
        return file

    def packages(self, names: tuple[str, ...], status: bytes) -> list[Path]:
        """Fetch `names` and what they need beyond what dpkg's file `status` says is installed; return the files."""
        (self.directory / "status").write_bytes(status)
        self._apt("install", "--yes", "--download-only", *names)
        return sorted((self.directory / "archives").glob("*.deb"))

    def source(self, name: str) -> Path:
        """Fetch the source of the package `name` and return the file of the original, without Debian's changes."""
        target = self.directory / name
        target.mkdir()
        self._apt("source", "--download-only", name, cwd=target)
        (file,) = target.glob("*.orig.tar.*")
        return file

    def _apt(self, *argv: str, cwd: Path | None = None) -> None:
        options = []
        for option in (
            f"Dir::Etc::SourceList={self.directory}/sources.list", "Dir::Etc::SourceParts=/dev/null",
            f"Dir::State::Lists={self.directory}/lists", f"Dir::State::Status={self.directory}/status",
            f"Dir::Cache={self.directory}", f"Dir::Cache::Archives={self.directory}/archives",
            f"APT::Architecture={self.arch}", f"APT::Architectures={self.arch}", "APT::Install-Recommends=false",
            "APT::Sandbox::User=root", "Acquire::Languages=none", "Debug::NoLocking=true",
            # An archive's signed date may be past its end on a machine whose mirror stands still.
            "Acquire::Check-Valid-Until=false",
        ):  # fmt: skip
            options += ["-o", option]
        run("apt-get", *options, *argv, cwd=cwd)


@contextmanager
def archive(suite: str, arch: str = "amd64", kind: str = "deb") -> Iterator[Archive]:
    """Debian's archive of `suite`, as long as the `with` block lasts; `kind` is `deb`, or `deb-src` for sources."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        directory = Path(scratch)
        for folder in ("lists/partial", "archives/partial"):
            (directory / folder).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(f"{kind} [signed-by={_KEYRING}] {mirror()} {suite} main\n")
        found = Archive(directory, arch)
        found._apt("update")
        yield found


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
