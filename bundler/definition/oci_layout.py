"""OCI image layouts that a definition names: which manifests they have. image-spec v1.1, image-layout.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from bundler.definition.build import name_of
from bundles.errors import ContentError, UsageError, reason
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index
from bundles.oci.reference import Reference
from bundles.runtime.program import quote

INDEX = "index.json"
_REF_NAME = "org.opencontainers.image.ref.name"
# Where BuildKit's caches stand on the registry that have no name of their own.
CACHES = "offline-bundle/cache"


@dataclasses.dataclass(frozen=True)
class LayoutContent:
    """A manifest in a layout: the layout's directory, and what to do when it is damaged."""

    directory: Path
    root: Descriptor
    hint: str

    def blob(self, digest: Digest) -> Path:
        """Return the file of a blob."""
        return self.directory / digest.blob_path

    def read(self, blob: Descriptor) -> bytes:
        """Read a small blob.

        Raises:
            ContentError: it is not there, or has other bytes than its digest says.
        """
        path = self.blob(blob.digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ContentError(f"`{path}` cannot be read: {reason(error)}", hint=self.hint) from None
        if Digest.of(data) != blob.digest or len(data) != blob.size:
            raise ContentError(f"`{path}` has other bytes than its digest says", hint=self.hint)
        return data


def read_index(directory: Path) -> list[tuple[str, Descriptor]]:
    """Read what a layout has: the name of each manifest, empty where it has none, and its descriptor.

    Raises:
        UsageError: it is no OCI image layout.
    """
    try:
        found = parse_index((directory / INDEX).read_bytes())
    except OSError as error:
        raise UsageError(f"`{directory}` is no OCI image layout: {INDEX} cannot be read ({reason(error)})") from None
    except UsageError as error:
        raise UsageError(f"`{directory}` is no OCI image layout: {error.message}") from None
    return [(descriptor.annotations.get(_REF_NAME, ""), descriptor) for descriptor in found]


def cache_of(text: str, directory: Path) -> Union[Reference, Path]:
    """Read what names a build cache: a directory, seen from `directory`, or a reference.

    Raises:
        UsageError: it is neither.
    """
    path = directory / text
    is_path = text.startswith((".", "/")) or Path(text).is_absolute() or path.is_dir()
    return path if is_path else Reference.parse(text)


def read_cache(directory: Path) -> Mapping[Reference, LayoutContent]:
    """Read a build cache that `--cache-to type=local,dest=DIRECTORY` has written: its name, and what it is.

    Raises:
        UsageError: there is none, or several.
    """
    export = "type=local,mode=max,image-manifest=true,oci-mediatypes=true"
    hint = f"export it again: --cache-to {export},dest={quote(directory)}"
    found = read_index(directory)
    if len(found) != 1:
        raise UsageError(f"`{directory}` has {len(found)} manifests: expected the one of a build cache", hint=hint)
    content = LayoutContent(directory, found[0][1], hint)
    if content.root.is_index:
        raise UsageError(
            f"`{directory}` has a build cache in BuildKit's old form, an index whose entries are layers", hint=hint
        )
    return {cache_reference(name_of(directory.resolve().name)): content}


def cache_reference(name: str) -> Reference:
    """Return where a cache of that name stands.

    Raises:
        UsageError: a tag cannot have it.
    """
    return Reference.parse(f"{CACHES}:{name}")
