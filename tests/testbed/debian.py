"""What is taken from Debian: whole systems, the layers of bigger images, and programs out of packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .apt import archive, install, mirror
from .binfmt import emulated_arm64
from .commands import run
from .errors import CommandError, SetupError
from .product import Product, Program

ARCHITECTURES = ("amd64", "arm64")
PACKAGES = ("arch-test", "mmdebstrap", "qemu-user-static")  # what this machine needs to make Debian trees

# An archive's signed date may be past its end on a machine whose mirror stands still.
_APT = ('--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"')
_DOCUMENTS = ("doc", "info", "lintian", "locale", "man")
# What is half made is thrown away, so that dpkg need not wait for the disk at every file.
_DPKG = (
    "--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _DOCUMENTS),
)  # fmt: skip
# An image says nothing of the machine that made it.
_FOR_AN_IMAGE = ("--skip=output/dev", '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"')

_BASE_RECIPE = "2 minbase bookworm"
_GCC = ("gcc", "g++", "make", "git", "python3")
_JDK = ("openjdk-17-jdk-headless",)
_PYTHON = ("python3", "python3-pip")
_BUILDKIT = ("ca-certificates", "git", "iptables", "openssh-client", "pigz", "runc", "xz-utils")
# More than half of the files. buildkitd calls none of them, and each engine of a test unpacks the image.
_WITHOUT = (
    '--customize-hook=cd "$1/usr" && rm -r bin/perl* lib/*/libperl* lib/*/perl* share/perl* lib/*/gconv share/zoneinfo'
)
_ENGINE = ("containerd", "docker.io", "iproute2", "iptables", "kmod", "procps", "python3", "runc", "tini")
ENGINE_SUITES = {
    "bookworm": (*_ENGINE, "ca-certificates"),
    "trixie": (*_ENGINE, "ca-certificates", "docker-cli"),
    "sid": (*_ENGINE, "ca-certificates", "docker-cli"),
}


def mmdebstrap(suite: str, target: Path, *options: str, arch: str = "amd64", packages: tuple[str, ...] = ()) -> None:
    """Make a Debian tree at `target`: a tar file when the name ends in .tar, a directory otherwise."""
    install(PACKAGES)
    include = (f"--include={','.join(packages)}",) if packages else ()
    run(
        "mmdebstrap", "--mode=root", f"--architectures={arch}", "--variant=minbase", *_APT, *_DPKG, *options, *include,
        suite, str(target), mirror(),
        env={"TMPDIR": "/var/tmp"},
    )  # fmt: skip


def _make_base(directory: Path) -> None:
    install(PACKAGES)
    with emulated_arm64():
        for arch in ARCHITECTURES:
            mmdebstrap("bookworm", directory / f"rootfs-{arch}.tar", *_FOR_AN_IMAGE, arch=arch)


def _make_buildkit(directory: Path) -> None:
    mmdebstrap("bookworm", directory / "rootfs.tar", *_FOR_AN_IMAGE, _WITHOUT, packages=_BUILDKIT)


def _layer(name: str, packages: tuple[str, ...], links: dict[str, str], seconds: float) -> Product:
    """A tar for each architecture with what `packages` add to Debian 12, their files only, nothing configured."""

    def build(directory: Path) -> None:
        for arch in ARCHITECTURES:
            with archive("bookworm", arch) as debian, tarfile.open(BASE.path / f"rootfs-{arch}.tar") as base:
                status = base.extractfile("./var/lib/dpkg/status")
                assert status is not None
                files = debian.packages(packages, status.read())
                here = {link.format(arch=arch): to.format(arch=arch) for link, to in links.items()}
                _write_layer(directory / f"layer-{arch}.tar", files, here, {_plain(name) for name in base.getnames()})

    return Product(f"debian/{name}", f"3 {packages} {links} on {_BASE_RECIPE}", build, (BASE,), seconds)


def programs(name: str, suite: str, members: dict[str, tuple[str, str]], *architectures: str) -> Product:
    """Programs out of packages that are not installed: by the program's name, the package and the path in it."""

    def build(directory: Path) -> None:
        for arch in architectures or ("amd64",):
            with archive(suite, arch) as debian:
                packages = {package: debian.package(package) for package in {name for name, _ in members.values()}}
                for program, (package, path) in members.items():
                    target = directory / program.format(arch=arch)
                    _copy_member(packages[package], path, target)
                    target.chmod(0o755)

    return Product(f"debian/{name}", f"2 {suite} {members} {architectures}", build, seconds=6)


def _make_applets(directory: Path) -> None:
    for applet in run(str(BUSYBOX.path / "busybox-amd64"), "--list").split():
        if applet != "busybox":
            (directory / applet).symlink_to("busybox")


BASE = Product("debian/base", _BASE_RECIPE, _make_base, seconds=70)
GCC = _layer("gcc", _GCC, {"usr/bin/cc": "gcc", "usr/bin/c++": "g++"}, seconds=30)
JDK = _layer("jdk", _JDK, {"opt/java/openjdk": "/usr/lib/jvm/java-17-openjdk-{arch}"}, seconds=30)
ROOTLESS = _layer("rootless", ("rootlesskit", "uidmap"), {}, seconds=15)
PYTHON = _layer("python", _PYTHON, {}, seconds=15)
BUILDKIT_ROOT = Product("debian/buildkit", f"2 {_BUILDKIT} {_WITHOUT}", _make_buildkit, seconds=20)
BUSYBOX = programs("busybox", "bookworm", {"busybox-{arch}": ("busybox-static", "bin/busybox")}, *ARCHITECTURES)
APPLETS = Product("debian/applets", "1", _make_applets, (BUSYBOX,))
BUILDX = Program(
    "buildx", programs("buildx", "sid", {"buildx": ("docker-buildx", "usr/libexec/docker/cli-plugins/docker-buildx")})
)
DOCKER = Program("docker", programs("docker", "sid", {"docker": ("docker-cli", "usr/bin/docker")}))
OLD_REGISTRY = Program(
    "docker-registry",
    programs("docker-registry", "sid", {"docker-registry": ("docker-registry", "usr/bin/docker-registry")}),
)
NGINX = Program("nginx", programs("nginx", "bookworm", {"nginx": ("nginx", "usr/sbin/nginx")}))
_PEERS = programs("peers", "sid", {name: (name, f"usr/bin/{name}") for name in ("crane", "oras", "umoci")})
CRANE, ORAS, UMOCI = (Program(name, _PEERS) for name in ("crane", "oras", "umoci"))


def engine_root(suite: str) -> Product:
    """The root directory of an air-gapped host: Debian `suite` with its Docker engine."""
    packages = ENGINE_SUITES[suite]

    def build(directory: Path) -> None:
        root = directory / "root"
        mmdebstrap(suite, root, packages=packages)
        root.chmod(0o755)
        (root / "etc/resolv.conf").write_text("")
        for folder in ("etc/docker", "usb", "var/lib/docker", "var/lib/containerd"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root / "var/lib/apt/lists")
        # Nothing can be installed there, as on a machine without a network.
        for sources in [root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").iterdir()]:
            sources.unlink(missing_ok=True)

    return Product(f"host/{suite}", f"2 {packages}", build, seconds=35)


@contextmanager
def _members(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package."""
    argv = ("dpkg-deb", "--fsys-tarfile", str(package))
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        done = subprocess.run(argv, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(argv, f"ended with status {done.returncode}", done.stderr)
        file.seek(0)
        with tarfile.open(fileobj=file) as members:
            yield members


def _copy_member(package: Path, path: str, target: Path) -> None:
    """Write the file at `path` of a package to `target`."""
    with _members(package) as members, target.open("wb") as file:
        for member in members:
            if os.path.normpath(member.name) == path:
                content = members.extractfile(member)
                assert content is not None, path
                shutil.copyfileobj(content, file)
                return
    raise SetupError(f"no `{path}` in {package.name}")


def _write_layer(target: Path, packages: list[Path], links: dict[str, str], present: set[str]) -> None:
    """Write a tar with the files of `packages` and the symbolic links `links`, without what is `present` already."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for package in packages:
            with _members(package) as members:
                for member in members:
                    member.name = _plain(member.name)
                    if member.islnk():
                        member.linkname = _plain(member.linkname)
                    if _wanted(member.name) and (member.name not in present):
                        present.add(member.name)
                        layer.addfile(member, members.extractfile(member) if member.isreg() else None)
        for name, to in links.items():
            for parent in reversed(Path(name).parents[:-1]):
                if str(parent) not in present:
                    present.add(str(parent))
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    layer.addfile(folder)
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, to
            layer.addfile(link)


def _wanted(name: str) -> bool:
    """Whether a package's file belongs into a layer: no documents, and nothing that waits to be configured."""
    documents = [f"usr/share/{folder}/" for folder in _DOCUMENTS]
    unconfigured = ("etc/apt/", "var/cache/", "var/lib/", "var/log/")
    return not name.startswith((*documents, *unconfigured))


def _plain(name: str) -> str:
    """A member's name, with what is in /bin, /lib and /sbin where it is today: in /usr."""
    name = os.path.normpath(name)
    return f"usr/{name}" if name.partition("/")[0] in ("bin", "lib", "lib64", "sbin") else name
