"""A toolchain image: BuildKit, the registry and what else is started on a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Optional

from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from installer.model.naming import local_name
from installer.model.registry.destination import Destination

# The toolchain image that is BuildKit without privileges, and what its tag has in it.
ROOTLESS = "buildkit-rootless"
ROOTLESS_TAG = "rootless"


@dataclasses.dataclass(frozen=True)
class Tool:
    """A toolchain image for this host: the platform of it that is loaded into Docker under `name`.

    `root` is the digest that its reference stands for.
    """

    reference: Reference
    root: Digest
    manifest: Descriptor
    config: Descriptor
    name: str

    def is_image(self, image_id: Optional[str]) -> bool:
        """Tell whether a local image is this one.

        Its id is the config's digest; in the containerd store the manifest's, or the index's once it was pulled.
        """
        return image_id in (str(self.config.digest), str(self.manifest.digest), str(self.root))

    @property
    def pinned(self) -> str:
        """The name on the local registry that stands for this image whoever pushes there: its digest is in it."""
        return f"{self.name.rpartition(':')[0]}@{self.manifest.digest}"

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": str(self.reference),
            "root": str(self.root),
            "manifest": self.manifest.to_json(),
            "config": self.config.to_json(),
            "name": self.name,
        }

    @classmethod
    def from_json(cls, value: Any) -> Tool:
        """Read what `to_json` gives.

        Raises:
            KeyError, TypeError, UsageError: it is something else.
        """
        return cls(
            Reference.parse(value["reference"]),
            Digest(value["root"]),
            Descriptor.from_json(value["manifest"]),
            Descriptor.from_json(value["config"]),
            str(value["name"]),
        )


def tool_of(archive: Archive, role: str, platform: Platform, destination: Destination) -> Optional[Tool]:
    """Return the toolchain image of that role for a machine of a platform; None when the archive has none.

    Args:
        archive: whose documents were checked.
        role: what it is for.
        platform: the machine's.
        destination: where images are.
    """
    return _first(archive, archive.manifest.with_role(role), platform, destination)


def rootless_buildkit(archive: Archive, platform: Platform, destination: Destination) -> Optional[Tool]:
    """Return the BuildKit that does without privileges: an image of BuildKit's own repository, by its tag."""
    known = {image.reference.repository for image in archive.manifest.with_role("buildkit")}
    found = (image for image in archive.manifest.images if image.reference.repository in known)
    rootless = [image for image in found if ROOTLESS_TAG in (image.reference.tag or "")]
    return _first(archive, rootless, platform, destination)


def _first(archive: Archive, images: Iterable[Image], platform: Platform, destination: Destination) -> Optional[Tool]:
    """Return the first of some images that is for a machine of that platform."""
    for image in images:
        offered = {content.platform: content for content in image.platforms if content.platform}
        best = platform.best_of(list(offered))
        if best is not None:
            manifest = offered[best].manifest
            config = parse_manifest(archive.read_document(manifest)).config
            name = local_name(image.reference, image.root.digest, destination)
            return Tool(image.reference, image.root.digest, manifest, config, name)
    return None
