"""What will be fetched: every image resolved to digests, every blob known, nothing written yet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from bundles.archive.manifest import Base, Image
from bundles.errors import ContentError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference


@dataclasses.dataclass(frozen=True)
class Resolved:
    """One image, resolved.

    `documents` are the raw bytes of its indexes, manifests and configs; `layers` are its other blobs, each with the
    repository that has it; `notes` are things a user should know (a platform stood in for by a compatible one).
    """

    image: Image
    documents: Mapping[Descriptor, bytes]
    layers: Mapping[Descriptor, Reference]
    notes: tuple[str, ...] = ()

    def also_called(self, reference: Reference) -> Resolved:
        """Return another name of it, which adds nothing but itself to a plan."""
        return Resolved(dataclasses.replace(self.image, reference=reference), {}, {})


@dataclasses.dataclass(frozen=True)
class Plan:
    """All images and, each once and in archive order, all blobs: `documents` by digest, then `layers` by digest.

    Of a delta, `required` are the layers that are left to `bases`, by digest; they are not among `layers`. `local`
    are the names of images from the local Docker, which no registry is to be asked about.
    """

    images: tuple[Image, ...]
    documents: tuple[tuple[Descriptor, bytes], ...]
    layers: tuple[tuple[Descriptor, Reference], ...]
    notes: tuple[str, ...]
    bases: tuple[Base, ...] = ()
    required: tuple[Descriptor, ...] = ()
    local: frozenset[Reference] = frozenset()

    def document(self, digest: Digest) -> bytes:
        """Return the bytes of one of `documents`."""
        return self._documents[digest]

    @functools.cached_property
    def _documents(self) -> Mapping[Digest, bytes]:
        return {descriptor.digest: data for descriptor, data in self.documents}

    @property
    def layer_size(self) -> int:
        """How many bytes there are to fetch."""
        return sum(descriptor.size for descriptor, _ in self.layers)

    def and_also(self, more: Iterable[Resolved], notes: Iterable[str] = ()) -> Plan:
        """Return this plan with further images."""
        added = Plan.of(more)
        _check_sizes((*self.documents, *added.documents), (*self.layers, *added.layers))
        documents = {descriptor.digest: (descriptor, data) for descriptor, data in (*added.documents, *self.documents)}
        layers = {descriptor.digest: (descriptor, at) for descriptor, at in (*added.layers, *self.layers)}
        return dataclasses.replace(
            self,
            images=(*self.images, *added.images),
            documents=tuple(documents[digest] for digest in sorted(documents)),
            layers=tuple(layers[digest] for digest in sorted(layers) if digest not in documents),
            notes=(*self.notes, *added.notes, *notes),
        )

    @classmethod
    def of(cls, resolved: Iterable[Resolved]) -> Plan:
        """Unite several images.

        Raises:
            ContentError: two images give different sizes for one digest.
        """
        resolved = tuple(resolved)
        images: list[Image] = []
        documents: dict[Digest, tuple[Descriptor, bytes]] = {}
        layers: dict[Digest, tuple[Descriptor, Reference]] = {}
        notes: list[str] = []
        for item in resolved:
            images.append(item.image)
            notes += item.notes
            for descriptor, data in item.documents.items():
                documents.setdefault(descriptor.digest, (descriptor, data))
            for descriptor, repository in item.layers.items():
                layers.setdefault(descriptor.digest, (descriptor, repository))
        every = [layer for item in resolved for layer in item.layers.items()]
        _check_sizes(documents.values(), every)
        return cls(
            images=tuple(images),
            documents=tuple(documents[digest] for digest in sorted(documents)),
            layers=tuple(layers[digest] for digest in sorted(layers) if digest not in documents),
            notes=tuple(notes),
        )


def _check_sizes(documents: Iterable[tuple[Descriptor, bytes]], layers: Iterable[tuple[Descriptor, Reference]]) -> None:
    """Raise ContentError when one digest comes with several sizes: what reads the archive would call it damaged."""
    sizes = {descriptor.digest: descriptor.size for descriptor, _ in documents}
    for descriptor, repository in layers:
        first = sizes.setdefault(descriptor.digest, descriptor.size)
        if first != descriptor.size:
            raise ContentError(
                f"the blob {descriptor.digest} has {first} bytes in one place and {descriptor.size} in "
                f"{repository.familiar}"
            )
