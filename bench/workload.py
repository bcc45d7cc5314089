"""What is measured: a registry of the benchmark's own with real images, large ones made of this machine's files, and
a thousand small ones. It is made once and kept in the testbed's cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from bundles.registry.transport import Settings, Transport
from installer.registry.client import Registry
from tests.support.images import Content, layer
from tests.testbed import ORIGIN, gotools, start_origin
from tests.testbed.commands import run
from tests.testbed.processes import Daemon
from tests.testbed.product import Product
from tests.testbed.registry import free_port, start_registry

PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
REAL = ("debian:12", "gcc:12", "eclipse-temurin:17", "python:3-slim")
_TOOLCHAIN = (
    "library/registry:3", "moby/buildkit:buildx-stable-1", "docker/buildx-bin:latest", "docker/dockerfile:1",
    "tonistiigi/binfmt:latest",
)  # fmt: skip
# Compressed layers of this many MB for each platform: one image of one huge layer, one of several.
_MADE = {"workstation:1": (130,), "desktop:1": (60, 30, 15, 8, 4, 2)}
SMALL = 1000


@dataclasses.dataclass(frozen=True)
class Workload:
    """Images on a registry. `images` are short names; on the registry they are below `library/`."""

    registry: str
    images: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The images as every tool names them."""
        return tuple(f"{self.registry}/library/{image}" for image in self.images)


def small(count: int) -> tuple[str, ...]:
    """The names of the first `count` small images."""
    return tuple(f"small-{number:04}:1" for number in range(count))


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, Path]]:
    """The address of the registry with all images while the context lasts, and its storage."""
    storage = Product("bench/registry", f"1 {REAL} {_TOOLCHAIN} {_MADE} {SMALL}", _fill).make()
    with scratch_registry(storage, "bench-source") as address:
        yield address, storage


@contextlib.contextmanager
def scratch_registry(storage: Path, name: str = "bench-target") -> Iterator[str]:
    """The address of a registry on `storage`."""
    daemon = Daemon(f"{name}-{os.getpid()}")
    port = free_port()
    start_registry(daemon, storage, port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        daemon.stop()
        for suffix in (".log", ".json"):
            daemon.log.with_suffix(suffix).unlink(missing_ok=True)


def _fill(directory: Path) -> None:
    start_origin("bench")
    regctl = gotools.REGCTL.make()
    with scratch_registry(directory, "bench-fill") as address, Transport(Settings()) as transport:
        hosts = [word for host in (ORIGIN, address) for word in ("--host", f"reg={host},tls=disabled")]
        for image in (*(f"library/{name}" for name in REAL), *_TOOLCHAIN):
            run(str(regctl), "image", "copy", *hosts, f"{ORIGIN}/{image}", f"{address}/{image}")
        registry = Registry(transport, address)
        files = _machine_files()
        for name, sizes in _MADE.items():
            content = Content()
            manifests = [content.image(platform, [_layer(files, size) for size in sizes]) for platform in PLATFORMS]
            _push(registry, f"library/{name}", content, content.index(*manifests))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(functools.partial(_push_small, registry), small(SMALL)))


def _push_small(registry: Registry, name: str) -> None:
    content = Content()
    index = content.index(*(content.image(platform, [layer(f"{name}-{platform}", 4000)]) for platform in PLATFORMS))
    _push(registry, f"library/{name}", content, index)


def _push(registry: Registry, name: str, content: Content, index: Descriptor) -> None:
    repository, _, tag = name.rpartition(":")
    for manifest in content.children(index):
        for blob in content.children(manifest):
            registry.upload_blob(repository, blob, content.data(blob))
        registry.put_manifest(repository, str(manifest.digest), manifest, content.data(manifest))
    registry.put_manifest(repository, tag, index, content.data(index))


def _machine_files() -> Iterator[Path]:
    """This machine's programs, libraries and data, in an order of their own: layers as varied as real ones."""
    roots = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/local")
    files = (Path(folder, name) for root in roots for folder, _, names in sorted(os.walk(root)) for name in names)
    return (path for path in files if path.is_file() and not path.is_symlink())


def _layer(files: Iterator[Path], megabytes: int) -> bytes:
    """The next files, until they are that large when compressed."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in files:
            with contextlib.suppress(OSError):
                archive.add(path, recursive=False)
            if buffer.tell() > megabytes * 1_000_000:
                break
    return buffer.getvalue()


def chosen(quick: bool) -> tuple[str, ...]:
    """The large workload: at least 1 GB compressed, or a fraction of it."""
    return REAL[:2] if quick else (*REAL, *_MADE)


def pairs(images: Sequence[str]) -> Iterator[tuple[str, Platform]]:
    """Each image with each platform."""
    return itertools.product(images, PLATFORMS)
