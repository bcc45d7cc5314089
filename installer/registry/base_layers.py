"""What a delta leaves to its base: where on the registry it is, and what to do when it is not there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Optional

from bundles.archive.reader import Archive
from bundles.errors import Problem
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.runtime.sizes import human_size
from installer.model.selection import Selected
from installer.registry.client import Registry

_SHOWN = 20


class BaseLayers:
    """The layers that images need and a delta does not have. Thread-safe.

    Args:
        archive: the delta, or a whole archive, which requires nothing.
        images: what of it goes into the registry.
        registry: where the layers have to be.
        prefix: what the names begin with of those repositories that are ours; empty when all are.
    """

    def __init__(self, archive: Archive, images: Sequence[Selected], registry: Registry, prefix: str = "") -> None:
        self._archive, self._images, self._registry = archive, images, registry
        self._below = f"{prefix}/" if prefix else ""
        self._is_listed = True
        self._lock = threading.Lock()
        self._holders: dict[Digest, str] = {}
        self._repositories: Optional[list[str]] = None

    def of(self, images: Sequence[Selected]) -> list[Descriptor]:
        """Return those that these images need, each once."""
        # Images of one root share their tuple: a hostile archive has thousands of names for thousands of blobs.
        different = {id(image.blobs): image.blobs for image in images}.values()
        blobs = {blob.digest: blob for each in different for blob in each if not self._archive.has(blob.digest)}
        return list(blobs.values())

    def holder(self, digest: Digest) -> Optional[str]:
        """Find a repository that has the layer, or return None when none has."""
        with self._lock:
            if digest not in self._holders:
                found = next((name for name in self._candidates() if self._registry.has_blob(name, digest)), None)
                if found is None:
                    return None
                self._holders[digest] = found
            return self._holders[digest]

    def _candidates(self) -> list[str]:
        """List the repositories to ask: those that had a layer before, then the images' own, then all there are."""
        if self._repositories is None:
            own = [repository for image in self._images for repository in image.repositories]
            found = self._registry.find_repositories()
            self._is_listed = found is not None
            others = (name for name in found or () if name.startswith(self._below))
            self._repositories = list(dict.fromkeys((*own, *others)))
        recent = list(dict.fromkeys(reversed(self._holders.values())))
        return list(dict.fromkeys((*recent[:4], *self._repositories)))

    def problems(self, blobs: Sequence[Descriptor]) -> list[Problem]:
        """Return one for each of these layers that is nowhere on the registry; the last one counts those not shown.

        The largest come first: what is small may be an attestation, which says little of what is wrong.
        """
        missing = [blob for blob in blobs if self.holder(blob.digest) is None]
        missing.sort(key=lambda blob: -blob.size)
        problems = [
            Problem(
                f"layer {blob.digest} ({human_size(blob.size)}; used by {self._users(blob)})",
                f"it is not {self._where}, and this archive leaves it to {self.bases}",
                "install that one first, then this one again",
            )
            for blob in missing[:_SHOWN]
        ]
        if len(missing) > _SHOWN:
            size = human_size(sum(blob.size for blob in missing))
            problems.append(
                Problem(f"{len(missing) - _SHOWN} more layers", f"are missing likewise; all of them: {size}")
            )
        return problems

    def unreachable(self) -> Problem:
        """Say that the registry does not answer, so that nothing can be looked for."""
        return Problem(
            f"registry `{self._registry.host}`",
            f"it does not answer, and this archive leaves layers to {self.bases} that have to be there",
            "install that one first; or, when it is installed: docker start registry",
        )

    def outgoing(self) -> Problem:
        """Say that the registry is about to be replaced by one with other data, so that nothing can be looked for."""
        return Problem(
            f"registry `{self._registry.host}`",
            f"it is going to have other data, and this archive leaves layers to {self.bases} that have to be there",
            "install that one first, with the same --data; or leave --data out",
        )

    @property
    def _where(self) -> str:
        host = f"on `{self._registry.host}`"
        return host if self._is_listed else f"in the repositories of this archive {host}, which lists no others"

    @property
    def bases(self) -> str:
        """The bundles that have what is not here, for people."""
        return " and ".join(f"`{base.name}` {base.digest}" for base in self._archive.manifest.bases)

    def _users(self, blob: Descriptor) -> str:
        names = (image.image.reference.familiar for image in self._images if blob in image.blobs)
        return ", ".join(dict.fromkeys(names))
