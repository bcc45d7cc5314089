"""install.sh and python.tar: how an archive installs where there is no usable Python.

install.sh gives the Python image to `docker load` as a tar that it puts together from slices of the archive:
python.tar, the head of that tar for each host platform, then the entries of the image's blobs as they stand in the
archive. Where they stand follows from the layout, and that from sizes alone, so a script of the same size with no
numbers yet is enough to lay the archive out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from bundler.planning.plan import Plan
from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.archive.layout import BLOCK, Layout
from bundles.archive.manifest import BundleManifest, File, PlatformContent
from bundles.errors import BundleError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.reference import Reference

SCRIPT, HEADS = "install.sh", "python.tar"
# As many digits as the size of any file has, so that the numbers do not change the size of the script.
_DIGITS = 20
_SIZE = "@SIZE@"
_PYTHON = "    @PYTHON@) ;;\n"


@dataclasses.dataclass(frozen=True)
class _Python:
    """The Python image of one host platform; `head` is its share of python.tar, which starts at `offset` there."""

    content: PlatformContent
    name: str
    config: Digest
    blobs: tuple[Digest, ...]
    head: bytes
    offset: int


class Bootstrap:
    """The two files for a plan. Without a Python image there is only the script, which says so.

    bootstrap = Bootstrap(plan)
    files = bootstrap.files(None)                   # of the right sizes
    files = bootstrap.files(manifest.layout(...))   # and with the right numbers
    """

    def __init__(self, plan: Plan) -> None:
        # An image that a delta leaves to its base cannot be loaded from it.
        left = {blob.digest for blob in plan.required}
        self._images: list[_Python] = []
        offset = 0
        for content in (content for image in plan.images if image.role == "python" for content in image.platforms):
            manifest = parse_manifest(plan.document(content.manifest.digest))
            name = f"docker.io/library/bundle-python:{content.manifest.digest.short}"
            if any(layer.digest in left for layer in manifest.layers):
                continue
            saved = docker_archive([SavedImage(content.manifest, manifest, Reference.parse(name))])
            blobs = tuple(blob.digest for blob in saved.blobs)
            self._images.append(_Python(content, name, manifest.config.digest, blobs, saved.head, offset))
            offset += len(saved.head)

    def files(self, layout: Optional[Layout]) -> dict[str, bytes]:
        """Return name and content; with None the numbers are missing, and the sizes are right."""
        text = _template().replace(_SIZE, f"{layout.size if layout else 0:<{_DIGITS}}")
        cases = "".join(self._case(image, layout) for image in self._images)
        files = {SCRIPT: text.replace(_PYTHON, cases or "    none) ;;\n").encode()}
        if self._images:
            files[HEADS] = b"".join(image.head for image in self._images)
        return files

    def _case(self, image: _Python, layout: Optional[Layout]) -> str:
        slices = [(0, 0)] * (len(image.blobs) + 1)
        if layout:
            start = layout.entry(HEADS).data_offset + image.offset
            entries = [layout.blob(digest) for digest in image.blobs]
            slices = [(start, len(image.head)), *((entry.offset, entry.end - entry.offset) for entry in entries)]
        lines = "".join(
            f"            {start // BLOCK:<{_DIGITS}} {size // BLOCK:<{_DIGITS}}\n" for start, size in slices
        )
        # What `docker version` says has no variant.
        platform = image.content.platform
        label = f"{platform.os}/{platform.architecture}" if platform else "none"
        return (
            f"    {label}) image={image.name}\n"
            f'        ids="{image.config} {image.content.manifest.digest}"\n'
            f'        slices="\n{lines}        " ;;\n'
        )


def fill_in(
    manifest: BundleManifest, files: Mapping[str, bytes], bootstrap: Bootstrap
) -> tuple[BundleManifest, dict[str, bytes]]:
    """Return the manifest and the small files, with the numbers in the script."""
    layout = manifest.layout(len(manifest.to_bytes()))
    files = {**files, **bootstrap.files(layout)}
    listed = tuple(File(name, Digest.of(data), len(data)) for name, data in files.items())
    return dataclasses.replace(manifest, files=listed), files


def _template() -> str:
    spec = importlib.util.find_spec("installer")
    if spec is None or not spec.submodule_search_locations:
        raise BundleError("the package `installer`, which must travel in the archive, is not installed")
    return (Path(next(iter(spec.submodule_search_locations))) / SCRIPT).read_text(encoding="utf-8")
