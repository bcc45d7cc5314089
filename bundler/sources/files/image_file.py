"""A file that holds images, as everything above sees it, whatever its form is."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from bundler.definition.file_request import FileRequest
from bundler.sources.source import BlobStream
from bundles.errors import ContentError, UsageError
from bundles.oci.descriptor import CONFIG_TYPES, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, config_platform, parse_index, parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.closeable import Closeable
from bundles.runtime.listing import listed

# Indexes inside one another: images have one level, or two.
_MAX_DEPTH = 16
_SHOWN = 20


class Choices:
    """The images of a file, to choose from as often as somebody asks for one.

    Args:
        offered: each is its number, how the file calls it, and its full name.
    """

    def __init__(self, offered: Sequence[tuple[int, str, Optional[Reference]]]) -> None:
        self._offered = offered
        self._called: dict[Union[str, Reference], list[int]] = {}
        for position, (number, label, reference) in enumerate(offered):
            for name in (f"@{number}", label, reference):
                if name:
                    self._called.setdefault(name, []).append(position)

    def of(self, request: FileRequest) -> list[int]:
        """Return the positions of those that are asked for.

        Raises:
            UsageError: there is none like that.
        """
        if not request.choice:
            if not self._offered:
                raise UsageError(f"`{request.path}` has no image")
            return list(range(len(self._offered)))
        reference = reference_or_none(request.choice)
        chosen = {*self._called.get(request.choice, ()), *(self._called.get(reference, ()) if reference else ())}
        if not chosen:
            raise self._none_like(request)
        return sorted(chosen)

    def _none_like(self, request: FileRequest) -> UsageError:
        names = [
            reference.familiar if reference else label or f"@{number}" for number, label, reference in self._offered
        ]
        close = difflib.get_close_matches(request.choice, names, 1)
        shown = listed([f"`{name}`" for name in names], _SHOWN)
        return UsageError(
            f"`{request.path}` has no image `{request.choice}`: it has {shown or 'none'}",
            hint=f"did you mean {request.typed(close[0])}?" if close else None,
        )


def reference_or_none(text: str) -> Optional[Reference]:
    """Return the name that `text` is; None when it is none."""
    try:
        return Reference.parse(text)
    except UsageError:
        return None


@dataclasses.dataclass(frozen=True)
class Held:
    """An image in a file.

    Args:
        label: how the file calls it, as a user would choose it; empty when it has no name at all.
        root: its index or manifest.
        reference: its full name; None where the file has none, or only a tag.
        tag: its tag, where the file has one.
        role: what it is for.
        platforms: for which it is there; None where that has to be looked up.
        number: its place in the file, counted from 0.
    """

    label: str
    root: Descriptor
    reference: Optional[Reference] = None
    tag: Optional[str] = None
    role: str = "base"
    platforms: Optional[tuple[Platform, ...]] = None
    number: int = 0

    @property
    def shown(self) -> str:
        """How people call it."""
        return self.reference.familiar if self.reference else self.label or str(self.root.digest)


class ImageFile(Closeable):
    """A file or directory that holds images. Thread-safe once it is open.

    Attributes:
        path: where it is.
        images: what is in it, in its order.
        tags: what is attached to images by a tag, as cosign does: the tag, and its manifest or index.
        referrers: what says itself that it is about another manifest: by that one's digest, as entries of an index.
        notes: what people should know of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: tuple[Held, ...] = ()
        self.tags: Mapping[str, Descriptor] = {}
        self.referrers: Mapping[Digest, Sequence[Mapping[str, Any]]] = {}
        self.notes: tuple[str, ...] = ()
        # Hostile files list one index, or one manifest, a hundred thousand times. Of indexes the levels, too.
        self._surveyed: dict[Digest, tuple[Mapping[Platform, None], int]] = {}
        self._manifests: dict[Digest, tuple[bool, Optional[Platform]]] = {}

    @property
    def where(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @abc.abstractmethod
    def size(self, digest: Digest) -> Optional[int]:
        """Return the bytes of a blob; None when it is not there."""

    @abc.abstractmethod
    def open(self, digest: Digest, offset: int = 0) -> BlobStream:
        """Read a blob that is there, from `offset` on; who reads it verifies it."""

    @abc.abstractmethod
    def document(self, digest: Digest) -> Optional[bytes]:
        """Return a manifest, index or config, verified; None when it is not there.

        Raises:
            ContentError: it has other bytes than its digest says.
        """

    def selected(self, request: FileRequest) -> tuple[Held, ...]:
        """Return the images that a request asks for.

        Raises:
            UsageError: there is none like that.
            ContentError: one is damaged.
        """
        return tuple(self.images[position] for position in self._choices.of(request))

    @functools.cached_property
    def _choices(self) -> Choices:
        return Choices([(held.number, held.label, held.reference) for held in self.images])

    def missing(self) -> Optional[str]:
        """Return why layers may be missing in it, and what to do; None when that would be damage."""
        return None

    def checked(self, descriptor: Descriptor) -> Optional[bytes]:
        """Return a document as `document` does, which must have the size that its descriptor says.

        Raises:
            ContentError: it has another one.
        """
        data = self.document(descriptor.digest)
        if data is not None and len(data) != descriptor.size:
            raise ContentError(
                f"`{self.where}` says that {descriptor.digest} has {descriptor.size} bytes: it has {len(data)}"
            )
        return data

    def platforms_of(self, held: Held) -> Collection[Platform]:
        """Return the platforms for which an image is there, each once; none for what is for no platform.

        Raises:
            ContentError: a document in it is wrong.
        """
        if held.platforms is not None:
            return dict.fromkeys(held.platforms)
        try:
            return self._survey(held.root, 0)[0]
        except UsageError as error:
            raise ContentError(f"`{held.shown}` in `{self.where}`: {error.message}") from None

    def is_there(self, manifest: Descriptor) -> bool:
        """Tell whether the manifest of a platform is to be taken for one that is there."""
        return self.document(manifest.digest) is not None

    def _survey(self, descriptor: Descriptor, depth: int) -> tuple[Mapping[Platform, None], int]:
        """Return the platforms of an index or manifest that are there, and how many levels of indexes it has."""
        if descriptor.is_attestation or not (descriptor.is_manifest or descriptor.is_index):
            return {}, 0
        if descriptor.is_manifest:
            if descriptor.digest not in self._manifests:
                self._manifests[descriptor.digest] = self._manifest(descriptor)
            is_there, own = self._manifests[descriptor.digest]
            platform = descriptor.platform or own
            return ({platform: None} if platform and is_there else {}), 0
        if descriptor.digest not in self._surveyed:
            self._surveyed[descriptor.digest] = self._survey_index(descriptor, depth)
        found, levels = self._surveyed[descriptor.digest]
        if depth + levels > _MAX_DEPTH:
            raise UsageError(f"the index has more than {_MAX_DEPTH} levels of indexes inside")
        return found, levels

    def _survey_index(self, index: Descriptor, depth: int) -> tuple[Mapping[Platform, None], int]:
        data = self.document(index.digest)
        if data is None:
            return {}, 0
        found: dict[Platform, None] = {}
        levels, opened = 0, set[Digest]()
        # What is nested more deeply is not opened: its level is too much already.
        for child in parse_index(data) if depth < _MAX_DEPTH else ():
            if child.digest not in opened:
                if child.is_index:
                    opened.add(child.digest)
                below, more = self._survey(child, depth + 1)
                found.update(below)
                levels = max(levels, more)
        return found, levels + 1

    def _manifest(self, descriptor: Descriptor) -> tuple[bool, Optional[Platform]]:
        """Tell whether a manifest is there, and which platform its config gives."""
        data = self.document(descriptor.digest)
        if data is None or not self.is_there(descriptor):
            return False, None
        return True, self._platform(data)

    def _platform(self, manifest: bytes) -> Optional[Platform]:
        config = parse_manifest(manifest).config
        if config.media_type not in CONFIG_TYPES or config.size > MAX_CONFIG_SIZE:
            return None
        data = self.document(config.digest)
        return config_platform(data) if data is not None else None
