"""Debian trees made from the machine's own apt mirror: whole systems, and the layers of bigger images."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from .apt import mirror
from .binfmt import emulated_arm64
from .cache import Product
from .commands import run

ARCHITECTURES = ("amd64", "arm64")

# An archive's signed date may be past its end on a machine whose mirror stands still.
_APT = ('--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"')
_NO_DOCUMENTS = tuple(
    f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "lintian", "locale", "man")
)
_MERGED_USR = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"

_BASE_RECIPE = "2 minbase bookworm"
_GCC = ("gcc", "g++", "make", "git", "python3")
_JDK = ("openjdk-17-jdk-headless",)
_PYTHON = ("python3",)
_BUILDKIT = ("ca-certificates", "git", "iptables", "openssh-client", "pigz", "runc", "xz-utils")
_ENGINE = ("containerd", "docker.io", "iproute2", "iptables", "kmod", "procps", "python3", "runc", "tini")
ENGINE_SUITES = {
    "bookworm": (*_ENGINE, "ca-certificates"),
    "trixie": (*_ENGINE, "ca-certificates", "docker-cli"),
    "sid": (*_ENGINE, "ca-certificates", "docker-cli"),
}


def mmdebstrap(suite: str, target: Path, *options: str, arch: str = "amd64", packages: tuple[str, ...] = ()) -> None:
    """Make a Debian tree at `target`: a tar file when the name ends in .tar, a directory otherwise."""
    include = (f"--include={','.join(packages)}",) if packages else ()
    run(
        "mmdebstrap", "--mode=root", f"--architectures={arch}", *_APT, *options, *include, suite, str(target), mirror(),
        env={"TMPDIR": "/var/tmp"},
    )  # fmt: skip


def _make_base(directory: Path) -> None:
    with emulated_arm64():
        for arch in ARCHITECTURES:
            whole = directory / "whole.tar"
            mmdebstrap("bookworm", whole, "--variant=minbase", *_NO_DOCUMENTS, arch=arch)
            _copy_members(whole, directory / f"rootfs-{arch}.tar", lambda member: not _of_the_machine(member.name))
            whole.unlink()


def _make_buildkit(directory: Path) -> None:
    whole = directory / "whole.tar"
    mmdebstrap("bookworm", whole, "--variant=minbase", *_NO_DOCUMENTS, packages=_BUILDKIT)
    _copy_members(whole, directory / "rootfs.tar", lambda member: not _of_the_machine(member.name))
    whole.unlink()


def _layer(name: str, packages: tuple[str, ...], links: dict[str, str]) -> Product:
    """A tar for each architecture with what `packages` add to Debian 12, their files only, nothing configured."""

    def build(directory: Path) -> None:
        base = BASE.make()
        for arch in ARCHITECTURES:
            whole = directory / "whole.tar"
            mmdebstrap(
                "bookworm", whole, "--variant=extract", _MERGED_USR, *_NO_DOCUMENTS, arch=arch, packages=packages
            )
            here = {link.format(arch=arch): to.format(arch=arch) for link, to in links.items()}
            _subtract(whole, base / f"rootfs-{arch}.tar", directory / f"layer-{arch}.tar", here)
            whole.unlink()

    return Product(f"debian/{name}", f"2 {packages} {links} on {_BASE_RECIPE}", build)


def _make_busybox(directory: Path) -> None:
    for arch in ARCHITECTURES:
        extracted(directory / f"busybox-{arch}", "bookworm", "busybox-static", "bin/busybox", arch)


def _make_old_registry(directory: Path) -> None:
    extracted(directory / "docker-registry", "sid", "docker-registry", "usr/bin/docker-registry")


def extracted(target: Path, suite: str, package: str, member: str, arch: str = "amd64") -> None:
    """Write one program out of a Debian package to `target` without installing the package."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        whole = Path(scratch) / "whole.tar"
        mmdebstrap(suite, whole, "--variant=extract", _MERGED_USR, arch=arch, packages=(package,))
        with tarfile.open(whole) as archive:
            names = {_plain(name): name for name in archive.getnames()}
            content = archive.extractfile(names.get(member) or names[f"usr/{member}"])
            assert content is not None, member
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
    target.chmod(0o755)


BASE = Product("debian/base", _BASE_RECIPE, _make_base)
GCC = _layer("gcc", _GCC, {"usr/bin/cc": "gcc", "usr/bin/c++": "g++"})
JDK = _layer("jdk", _JDK, {"opt/java/openjdk": "/usr/lib/jvm/java-17-openjdk-{arch}"})
PYTHON = _layer("python", _PYTHON, {})
BUILDKIT_ROOT = Product("debian/buildkit", f"2 {_BUILDKIT}", _make_buildkit)
BUSYBOX = Product("debian/busybox", "1", _make_busybox)
OLD_REGISTRY = Product("debian/docker-registry", "1", _make_old_registry)


def engine_root(suite: str) -> Product:
    """The root directory of an air-gapped host: Debian `suite` with its Docker engine."""
    packages = ENGINE_SUITES[suite]

    def build(directory: Path) -> None:
        root = directory / "root"
        mmdebstrap(suite, root, "--variant=minbase", *_NO_DOCUMENTS, packages=packages)
        root.chmod(0o755)
        (root / "etc/resolv.conf").write_text("")
        for folder in ("etc/docker", "usb", "var/lib/docker", "var/lib/containerd"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root / "var/lib/apt/lists")
        # Nothing can be installed there, as on a machine without a network.
        for sources in [root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").iterdir()]:
            sources.unlink(missing_ok=True)

    return Product(f"host/{suite}", f"2 {packages}", build)


def _plain(name: str) -> str:
    return os.path.normpath(name)


def _of_the_machine(name: str) -> bool:
    """Whether a file says something of the machine that ran mmdebstrap, or is not for an image."""
    path = _plain(name)
    return path in ("etc/hostname", "etc/resolv.conf") or path.startswith(
        ("dev/", "var/cache/apt/", "var/lib/apt/lists/")
    )


def _copy_members(source: Path, target: Path, wanted: Callable[[tarfile.TarInfo], bool]) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            if wanted(member):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _subtract(whole: Path, base: Path, target: Path, links: dict[str, str]) -> None:
    """Write to `target` the members of `whole` that `base` does not have, and the symbolic links `links`."""
    with tarfile.open(base) as archive:
        present = {_plain(name) for name in archive.getnames()}
    folders = ("etc/apt", "etc/dpkg", "var/cache", "var/lib", "var/log", "tmp", "run", "dev", "proc", "sys")

    def wanted(member: tarfile.TarInfo) -> bool:
        path = _plain(member.name)
        unwanted = any(path == folder or path.startswith(f"{folder}/") for folder in folders)
        return path not in present and path != "etc/fstab" and not unwanted and not _of_the_machine(path)

    _copy_members(whole, target, wanted)
    with tarfile.open(target, "a") as archive:
        made: set[str] = set()
        for name, to in links.items():
            for parent in reversed(Path(name).parents[:-1]):
                if str(parent) not in present | made:
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(folder)
                    made.add(str(parent))
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, to
            archive.addfile(link)
