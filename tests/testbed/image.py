"""The images of the origin: real ones under real names, each with a Dockerfile in the folder images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import debian, gotools, qemu
from .product import Product

DOCKERFILES = Path(__file__).parent / "images"

_BOTH = "linux/amd64,linux/arm64"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the origin: its name, the folder of its Dockerfile and where the files come from.

    `context` is the main build context, `contexts` are named ones, and `base` is the image that it is built on.
    """

    name: str
    folder: str
    platforms: str = "linux/amd64"
    context: Product | None = None
    contexts: tuple[tuple[str, Product], ...] = ()
    base: str | None = None
    docker_types: bool = False
    provenance: bool = True

    @property
    def products(self) -> list[Product]:
        """All that must be made before this image."""
        main = [] if self.context is None else [self.context]
        return [*main, *(product for _, product in self.contexts)]

    @property
    def recipe(self) -> str:
        """Text that changes whenever the image does."""
        files = sorted(path for path in (DOCKERFILES / self.folder).iterdir() if path.is_file())
        parts = [f"{path.name}\n{path.read_text()}" for path in files]
        parts += [f"{product.name} {product.path.name}" for product in self.products]
        choices = f"{self.name} {self.platforms} {self.docker_types} {self.provenance}"
        return "\n".join([choices, *parts])


_APPLETS = (("applets", debian.APPLETS),)
_BUSYBOX = (("busybox", debian.BUSYBOX), *_APPLETS)
_TOOLS = ("tools", gotools.TOOLS)
_DEBIAN = "library/debian:12"


def _buildkit(emulators: Product) -> Image:
    return Image(
        "moby/buildkit:buildx-stable-1",
        "buildkit",
        context=debian.BUILDKIT_ROOT,
        contexts=(_TOOLS, ("qemu", emulators)),
    )


# With a kernel that runs programs for arm64 BuildKit has no use for emulators of its own, and to build one takes long.
BUILDKIT_WITHOUT_EMULATORS = _buildkit(qemu.NONE)
BUILDKIT = _buildkit(qemu.BUILDKIT_QEMU)
DEBIAN = Image(_DEBIAN, "debian", _BOTH, debian.BASE)
GCC = Image("library/gcc:12", "gcc", _BOTH, debian.GCC, base=_DEBIAN)
REGISTRY = Image("library/registry:3", "registry", contexts=(*_BUSYBOX, _TOOLS))
BUILDX = Image("docker/buildx-bin:latest", "buildx", contexts=(("tools", debian.BUILDX.product),))
FRONTEND = Image("docker/dockerfile:1", "frontend", contexts=(_TOOLS,))
BINFMT = Image("tonistiigi/binfmt:latest", "binfmt", contexts=(*_BUSYBOX, ("qemu", qemu.QEMU)))
PYTHON = Image("library/python:3-slim", "python", _BOTH, debian.PYTHON, base=_DEBIAN)
BUSYBOX = Image("library/busybox:1.35", "busybox", _BOTH, debian.BUSYBOX, _APPLETS)
# Repositories for one architecture each, with a bare manifest instead of an index.
BUSYBOX_AMD64, BUSYBOX_ARM64 = (
    Image(f"library/busybox-{arch}:1.35", "busybox", f"linux/{arch}", debian.BUSYBOX, _APPLETS, provenance=False)
    for arch in debian.ARCHITECTURES
)
# The media types of Docker, and no attestations.
BUSYBOX_DOCKER = Image(
    "library/busybox-docker:1.35", "busybox", _BOTH, debian.BUSYBOX, _APPLETS, docker_types=True, provenance=False
)
TEMURIN = Image(
    "library/eclipse-temurin:17", "temurin", _BOTH, debian.JDK, base=_DEBIAN, docker_types=True, provenance=False
)
