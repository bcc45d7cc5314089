"""What is to be installed and how, settled before anything on the host is touched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.descriptor import Descriptor
from bundles.errors import UsageError
from bundles.image import parse_manifest
from bundles.manifest import Image
from bundles.platform import Platform
from bundles.reader import Archive
from installer import marks
from installer.address import Address
from installer.names import local_name, mirrors
from installer.selection import Selected, select

DEFAULT_REGISTRY = "localhost:5000"
DEFAULT_BUILDER = "cross-builder"
# What buildx itself accepts: buildx, store/util.go.
_BUILDER = re.compile(r"[a-z][a-z0-9._-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says. `data` and `registry` are None when they were not given."""

    registry: Optional[Address] = None
    builder: str = DEFAULT_BUILDER
    platforms: tuple[Platform, ...] = ()
    data: Optional[str] = None
    yes: bool = False

    def __post_init__(self) -> None:
        if not _BUILDER.fullmatch(self.builder) or self.builder == "default":
            raise UsageError(
                f"`{self.builder[:100]}` cannot be a builder's name: expected lower-case letters, digits, and . _ -"
            )


def is_directory(data: str) -> bool:
    """Whether a value of --data means a directory; else it is a volume's name."""
    return "/" in data or data.startswith(".")


@dataclasses.dataclass(frozen=True)
class Tool:
    """A toolchain image for this host, as it is loaded into Docker under `name`."""

    image: Image
    manifest: Descriptor
    config: Descriptor
    name: str

    def is_image(self, image_id: Optional[str]) -> bool:
        """Whether a local image is this one.

        Its id is the config's digest; in the containerd store the manifest's, or the index's once it was pulled.
        """
        return image_id in (str(self.config.digest), str(self.manifest.digest), str(self.image.root.digest))


@dataclasses.dataclass(frozen=True)
class Job:
    """An archive, where it goes, and what of it.

    `platforms` are those the builder is for. `data` is the registry's volume, or an absolute directory.
    """

    archive: Archive
    options: Options
    address: Address
    data: str
    host_platform: Platform
    platforms: tuple[Platform, ...]
    images: tuple[Selected, ...]

    @classmethod
    def of(
        cls,
        archive: Archive,
        options: Options,
        host_platform: Platform,
        installed_address: Optional[Address] = None,
        installed_data: Optional[str] = None,
    ) -> Job:
        """Settle it: what was asked for, else what was installed before, else the default.

        Reads the archive's documents, which must have been checked.
        """
        address = options.registry or installed_address or Address.parse(DEFAULT_REGISTRY)
        data = options.data or installed_data or marks.REGISTRY_VOLUME
        return cls(
            archive=archive,
            options=options,
            address=address,
            data=str(Path(data).absolute()) if is_directory(data) else data,
            host_platform=host_platform,
            platforms=options.platforms or archive.manifest.platforms or (host_platform,),
            images=select(archive, address, options.platforms),
        )

    def tool(self, role: str) -> Optional[Tool]:
        """The toolchain image of that role for this host, or None when the archive has none."""
        for image in self.archive.manifest.with_role(role):
            offered = {content.platform: content for content in image.platforms if content.platform}
            best = self.host_platform.best_of(list(offered))
            if best is not None:
                manifest = offered[best].manifest
                config = parse_manifest(self.archive.read_document(manifest)).config
                name = local_name(image.reference, image.root.digest, self.address)
                return Tool(image, manifest, config, name)
        return None

    def mirrors(self) -> dict[str, str]:
        """Source registry -> mirror, for every registry that an image of the archive comes from."""
        return mirrors((item.image.reference for item in self.images), self.address)

    def base_images(self) -> Sequence[Selected]:
        """The images that Dockerfiles start from."""
        return [item for item in self.images if item.image.role == "base"]
