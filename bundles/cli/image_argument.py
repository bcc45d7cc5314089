"""The images that a command is given, by any of the names that an archive has for them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Optional

from bundles.archive.manifest import BundleManifest, Image
from bundles.errors import Problem, UsageError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference

_SHOWN = 5


def find_images(manifest: BundleManifest, names: Sequence[str], hint: str) -> tuple[Image, ...]:
    """Return the images that are named, each once: by their reference, its short form, with a digest, or by that alone.

    Args:
        manifest: of the archive.
        names: as a person types them.
        hint: how all names are shown.

    Raises:
        UsageError: there is no such image, or there are several, for each name which come near.
    """
    images: dict[Reference, Image] = {}
    problems = []
    called = _Names(manifest)
    for name in names:
        found = called.find(name)
        if len(found) == 1:
            images[found[0].reference] = found[0]
        else:
            problems.append(Problem(name, _several(found) if found else _unknown(manifest, name)))
    if problems:
        what = "is not one image" if len(problems) == 1 else "are not one image each"
        raise UsageError(f"what was named {what} of the archive", hint=hint, problems=problems)
    return tuple(images.values())


class _Names:
    """The images of an archive by their names and digests."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._exact = {image.reference: image for image in manifest.images}
        self._of_digest: dict[Digest, list[Image]] = {}
        for image in manifest.images:
            self._of_digest.setdefault(image.root.digest, []).append(image)

    def find(self, name: str) -> list[Image]:
        digest = _digest(name)
        if digest:
            return self._of_digest.get(digest, [])
        try:
            wanted = Reference.parse(name)
        except UsageError:
            return []
        if wanted in self._exact:
            return [self._exact[wanted]]
        return [
            image
            for image in (self._of_digest.get(wanted.digest, ()) if wanted.digest else ())
            if image.reference.name == wanted.name and wanted.tag in (None, image.reference.tag)
        ]


def _digest(name: str) -> Optional[Digest]:
    try:
        return Digest(name)
    except UsageError:
        return None


def _several(found: Sequence[Image]) -> str:
    return f"it is several: expected one of {', '.join(image.reference.familiar for image in found)}"


def _last(reference: Reference) -> str:
    return reference.repository.rpartition("/")[2]


def _unknown(manifest: BundleManifest, name: str) -> str:
    """Name what comes near: the same image by another name, else what is written alike, else all when they are few."""
    references = [image.reference for image in manifest.images]
    try:
        wanted = Reference.parse(name)
    except UsageError as error:
        if not difflib.get_close_matches(name.lower(), [each.familiar for each in references], 1):
            return error.message
        near: list[str] = []
    else:
        near = [each.familiar for each in references if _last(each) == _last(wanted)]
    near = near or difflib.get_close_matches(name.lower(), [each.familiar for each in references], _SHOWN)
    if near:
        return f"it is not in the archive: did you mean {' or '.join(f'`{each}`' for each in near[:_SHOWN])}?"
    if len(references) <= _SHOWN:
        return f"it is not in the archive: expected one of {', '.join(each.familiar for each in references)}"
    return "it is not in the archive"
