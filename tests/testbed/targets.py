"""What each make target needs: images on the origin, and what is made or installed beside them.

Nothing that a target does not use is in its way; what only a few tests use they make themselves when they need it.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import debian, gotools, image, moby, qemu
from .errors import SetupError
from .image import Image
from .product import Product

# What this machine needs to be the ground of hosts and to build images.
_MACHINE = (*debian.PACKAGES, "ca-certificates", "iproute2", "iptables", "kmod", "procps", "runc", "util-linux")


@dataclass(frozen=True, slots=True)
class Target:
    """`images` of the origin, `products` beside them, and `packages` that this machine itself must have."""

    images: tuple[Image, ...]
    products: tuple[Product, ...]
    packages: tuple[str, ...]


_TOOLS = (image.REGISTRY, image.BUILDX, image.FRONTEND, image.BINFMT)
_DEMO_IMAGES = (image.DEBIAN, image.GCC, image.PYTHON, *_TOOLS)
_TEST_IMAGES = (
    *_DEMO_IMAGES, image.BUILDKIT, image.BUSYBOX, image.BUSYBOX_AMD64, image.BUSYBOX_ARM64,
    image.BUSYBOX_DOCKER,
)  # fmt: skip
_TEST_PRODUCTS = (
    *map(debian.engine_root, debian.ENGINE_SUITES), moby.ENGINE_ROOT, debian.CRANE.product, debian.OLD_REGISTRY.product,
    gotools.REGCTL.product,
)  # fmt: skip
# The second assembler is for what installer/steps/emulation_init.py has as code.
_TEST_PACKAGES = (*_MACHINE, *qemu.COMPILER, "binutils-aarch64-linux-gnu", "busybox-static", "shellcheck", "skopeo")

# In this order each has the names of all images of the one before: its origin serves for the smaller one, too.
TARGETS = {
    "demo": Target(
        (*_DEMO_IMAGES, image.BUILDKIT_WITHOUT_EMULATORS), (debian.engine_root("sid"), debian.DOCKER.product), _MACHINE
    ),
    "test": Target(_TEST_IMAGES, _TEST_PRODUCTS, _TEST_PACKAGES),
    "bench": Target((*_TEST_IMAGES, image.TEMURIN), _TEST_PRODUCTS, _TEST_PACKAGES),
}


def target(name: str) -> Target:
    """Return the target called `name`."""
    if name not in TARGETS:
        raise SetupError(f"there is no target `{name}`; there are {', '.join(TARGETS)}")
    return TARGETS[name]
