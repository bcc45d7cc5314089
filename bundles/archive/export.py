"""What leaves an archive for other tools: which images, for which platforms, and what stands against it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar

from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.archive.image_tar import ImageTar
from bundles.archive.manifest import BundleManifest, Image, PlatformContent
from bundles.archive.oci_archive import LayoutImage, oci_archive
from bundles.archive.reader import Archive
from bundles.archive.tree import Tree, tree_of
from bundles.archive.verify import check_image
from bundles.errors import UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.image import parse_index
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.listing import listed

_T = TypeVar("_T")
_SHOWN = 20
# OCI's layers and Docker's, foreign ones too: a tar, bare or compressed.
_LAYER = re.compile(r"application/vnd\..*\.tar(?:[.+](?:gzip|zstd))?", re.ASCII)
# The tags under which what is attached to a manifest travels.
_ATTACHED = re.compile(r"sha256-([0-9a-f]{64})(?:\.[a-z]+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ExportedImage:
    """An image on its way out: what it is there, its name there if it has one, and the platforms that go along.

    `config` is the digest of its config where it is for Docker, whose classic image store calls that the image's id.
    """

    image: Image
    root: Descriptor
    name: Optional[Reference]
    contents: tuple[PlatformContent, ...]
    config: Optional[Descriptor] = None


@dataclasses.dataclass(frozen=True)
class Export:
    """A tar, the images in it, and what people are to know of it."""

    tar: ImageTar
    images: tuple[ExportedImage, ...]
    notes: tuple[str, ...]


def for_docker(archive: Archive, images: Sequence[Image], platforms: Sequence[Platform]) -> Export:
    """Return what `docker load` takes, of every version: each image for one platform, which is asked for if need be.

    Raises:
        UsageError: Docker could not load it, for each image why; or two of them would have one name.
        DamagedArchiveError: a document in the archive is wrong.
    """
    notes: list[str] = []

    def saved(image: Image) -> tuple[SavedImage, ExportedImage]:
        content = _one_platform(image, platforms)
        check_image(archive, image)
        parsed = archive.read_image(content.manifest)
        _check_left(archive, archive.left_to_base(content.manifest))
        unknown = next((layer for layer in parsed.layers if not _LAYER.fullmatch(layer.media_type)), None)
        if unknown:
            raise UsageError(
                f"`docker load` cannot unpack a layer of the type `{unknown.media_type[:100]}`",
                hint="--to oci-archive:FILE",
            )
        item = SavedImage(content.manifest, parsed, image.reference)
        if any(layer.media_type.endswith("zstd") for layer in parsed.layers):
            notes.append(f"{image.reference.familiar}: layers are zstd, which `docker load` takes from Docker 23.0 on")
        if item.tag is None:
            notes.append(
                f"{image.reference.familiar}: it has no tag, so Docker has it by its id alone: "
                f"docker tag {parsed.config.digest} NAME"
            )
        return item, ExportedImage(image, content.manifest, item.tag, (content,), parsed.config)

    pairs = _named_once(_for_each(images, saved))
    return Export(docker_archive([item for item, _ in pairs]), tuple(image for _, image in pairs), tuple(notes))


def as_layout(archive: Archive, images: Sequence[Image], platforms: Sequence[Platform]) -> Export:
    """Return an OCI image layout: each image as it is, or with those platforms alone.

    An index stays byte for byte, whatever of it is left out; for one platform that is asked for, its manifest is the
    image. With all platforms what is attached to an image travels along.

    Raises:
        UsageError: something of it is not in the archive, for each image what; or two of them would have one name.
        DamagedArchiveError: a document in the archive is wrong.
    """
    notes: list[str] = []

    def laid_out(image: Image) -> tuple[LayoutImage, ExportedImage]:
        contents = _wanted(image, platforms)
        check_image(archive, image)
        root, name = _root(image, contents, narrowed=bool(platforms))
        kept = set(contents)
        dropped = frozenset(each.manifest.digest for each in image.platforms if each not in kept)
        tree = tree_of(archive, root, dropped)
        _check_left(archive, tree.left)
        absent = _absent(archive, root, tree)
        if absent:
            notes.append(f"{image.reference.familiar}: its index lists {absent} too, and that is not in the file")
        return LayoutImage(name, root, tree), ExportedImage(image, root, name, contents)

    chosen = list(images) if platforms else list(_with_attached(archive.manifest, images))
    if len(chosen) > len(images):
        notes.append(
            f"{len(chosen) - len(images)} things that are attached to images are in the file under names of their own; "
            "what takes a file of one image only has to be given a name"
        )
    pairs = _named_once(_for_each(chosen, laid_out))
    return Export(oci_archive([item for item, _ in pairs]), tuple(image for _, image in pairs), tuple(notes))


def _for_each(images: Sequence[Image], prepare: Callable[[Image], _T]) -> list[_T]:
    """Prepare every image; all that stands against it is one error."""
    prepared, problems = [], []
    for image in images:
        try:
            prepared.append(prepare(image))
        except UsageError as error:
            problems.append(error.as_problem(image.reference.familiar))
    if problems:
        raise UsageError("this cannot be exported as it was asked for", problems=problems)
    return prepared


def _named_once(pairs: Sequence[tuple[_T, ExportedImage]]) -> list[tuple[_T, ExportedImage]]:
    """Leave out what is there already under its name; what has no name stays."""
    found: dict[Reference, tuple[_T, ExportedImage]] = {}
    for item, image in pairs:
        name = image.name or image.image.reference
        _, other = found.setdefault(name, (item, image))
        if other.root.digest != image.root.digest:
            raise UsageError(
                f"two images would be called `{name.familiar}`: {other.image.reference.familiar} and "
                f"{image.image.reference.familiar}",
                hint="export them into two files",
            )
    return list(found.values())


def _wanted(image: Image, platforms: Sequence[Platform], at_once: Optional[int] = None) -> tuple[PlatformContent, ...]:
    """Return what a machine of each of those platforms would pull, all there is when there are none.

    Raises:
        UsageError: one is not there; the next step names those that are, as many as can be asked for `at_once`.
    """
    if not platforms:
        return image.platforms
    offered = {content.platform: content for content in image.platforms if content.platform}
    found = {platform: platform.best_of(list(offered)) for platform in platforms}
    missing = [str(platform) for platform, best in found.items() if best is None]
    if missing and not offered:
        raise UsageError("it is for no platform: expected no --platform")
    if missing:
        have = [str(platform) for platform in offered]
        raise UsageError(
            f"it is not in the archive for {', '.join(missing)}: it has {', '.join(have)}",
            hint=f"--platform {','.join(have[:at_once])}",
        )
    best = set(found.values())
    return tuple(content for platform, content in offered.items() if platform in best)


def _one_platform(image: Image, platforms: Sequence[Platform]) -> PlatformContent:
    contents = [content for content in _wanted(image, platforms, at_once=1) if content.platform]
    if not contents:
        raise UsageError("it is no image that Docker runs, but something else", hint="--to oci-archive:FILE")
    if len(contents) > 1:
        names = [str(content.platform) for content in contents]
        raise UsageError(
            f"it has {', '.join(names)}, and `docker load` takes one: expected which",
            hint=f"--platform {names[0]}",
        )
    return contents[0]


def _root(image: Image, contents: Sequence[PlatformContent], *, narrowed: bool) -> tuple[Descriptor, Reference]:
    """Return what a layout lists, and its name: the image, or the manifest of the one platform that is asked for."""
    first = contents[0] if len(contents) == 1 else None
    if first and (narrowed or first.manifest.digest == image.root.digest):
        manifest = first.manifest
        root = Descriptor(manifest.media_type, manifest.digest, manifest.size, first.platform)
        if image.root.digest != manifest.digest and image.reference.digest:
            # The digest in the name is that of the index.
            tag = image.reference.tag
            return root, dataclasses.replace(image.reference, digest=None if tag else manifest.digest)
        return root, image.reference
    return image.root.plain, image.reference


def _check_left(archive: Archive, left: Sequence[Descriptor]) -> None:
    if left:
        bases = " and ".join(f"`{base.name}` {base.digest}" for base in archive.manifest.bases)
        raise UsageError(
            f"this archive is a delta, and leaves {len(left)} of its layers to {bases}",
            hint="export it from an archive that was created without --base",
        )


@functools.lru_cache(maxsize=64)
def _absent(archive: Archive, root: Descriptor, tree: Tree) -> str:
    """Name the platforms that an index lists and the tree does not have."""
    there = {manifest.digest for manifest in tree.manifests}
    children = parse_index(archive.read_document(root)) if root.is_index else ()
    return listed([child.platform for child in children if child.platform and child.digest not in there], _SHOWN)


def _with_attached(manifest: BundleManifest, images: Sequence[Image]) -> Iterator[Image]:
    """Return images, and behind each what is attached to it, to its platforms, and to what is attached to those."""
    attached: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, image in enumerate(manifest.images):
        found = _ATTACHED.fullmatch(image.reference.tag or "")
        if found:
            attached[image.reference.name, found[1]].append(position)
    waiting, given = deque(images), set()
    while waiting:
        image = waiting.popleft()
        if image.reference in given:
            continue
        given.add(image.reference)
        yield image
        subjects = {image.root.digest.hex, *(content.manifest.digest.hex for content in image.platforms)}
        places = [place for subject in subjects for place in attached.pop((image.reference.name, subject), ())]
        waiting += [manifest.images[place] for place in sorted(places)]
