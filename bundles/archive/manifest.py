"""bundle.json: what an archive holds. docs/format.md describes every field."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Optional

from bundles.archive.layout import (
    CHECKSUM_NAME,
    MANIFEST_NAME,
    OCI_LAYOUT,
    OCI_LAYOUT_NAME,
    SIGNATURE_NAME,
    SIGNATURE_SIZE,
    Layout,
)
from bundles.errors import DamagedArchiveError, NewerFormatError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command

FORMAT = 1
# A bundle of 1,000 images has about 3 MB of bundle.json; the limit keeps a hostile one from filling the memory.
MAX_SIZE = 16 << 20
# What the host works with; the rest is what it works on: images that Dockerfiles start from, what the network answered
# while a build was recorded, what its steps resulted in.
TOOLS = ("registry", "buildkit", "buildx", "binfmt", "frontend", "scanner", "python")
ROLES = (*TOOLS, "base", "tape", "cache")
# The small files that may stand between bundle.json and the blobs.
FILE_NAMES = frozenset({"index.json", "manifest.json", "install.sh", "python.tar"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class File:
    """A small file of the archive that is not a blob."""

    name: str
    digest: Digest
    size: int


@dataclasses.dataclass(frozen=True)
class PlatformContent:
    """What one platform of an image needs: its image manifest, and `content_size`, the bytes of config and layers.

    `platform` is None for content that is for no platform, such as an artifact.
    """

    platform: Optional[Platform]
    manifest: Descriptor
    content_size: int


@dataclasses.dataclass(frozen=True)
class Image:
    """An image in the archive.

    `root` describes the index or manifest that the reference stands for, with the digest of its origin. `sparse` says
    that it is an index of which only `platforms` were taken. `merged` names the sources of an index that was put
    together from images of one platform each.
    """

    reference: Reference
    role: str
    root: Descriptor
    platforms: tuple[PlatformContent, ...]
    sparse: bool = False
    merged: tuple[Reference, ...] = ()


@dataclasses.dataclass(frozen=True)
class Base:
    """What a delta builds on: a bundle, or what a registry holds (want.json), by its name and digest."""

    name: str
    digest: Digest


@dataclasses.dataclass(frozen=True)
class BundleManifest:
    """The whole of bundle.json.

    `blobs` is in archive order. `program` describes the zip behind the tar. `host_platforms` are those of the
    toolchain, `platforms` those of the base images. `signed` says that there is an entry for a signature.

    A delta has `bases`, and leaves to them the layers in `required`: its images need them, and they are not inside.
    """

    name: str
    tool_version: str
    platforms: tuple[Platform, ...]
    host_platforms: tuple[Platform, ...]
    images: tuple[Image, ...]
    files: tuple[File, ...]
    blobs: tuple[Descriptor, ...]
    program: File
    signed: bool = False
    bases: tuple[Base, ...] = ()
    required: tuple[Descriptor, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)

    def with_role(self, role: str) -> tuple[Image, ...]:
        """Return the images of that role, in order."""
        return tuple(image for image in self.images if image.role == role)

    def layout(self, manifest_size: int) -> Layout:
        """Return where everything stands, given the size in bytes of bundle.json itself."""
        contents = [
            (OCI_LAYOUT_NAME, len(OCI_LAYOUT)),
            (CHECKSUM_NAME, 64 + 2 + len(MANIFEST_NAME) + 1),
            (MANIFEST_NAME, manifest_size),
        ]
        if self.signed:
            contents.append((SIGNATURE_NAME, SIGNATURE_SIZE))
        contents += [(file.name, file.size) for file in self.files]
        contents += [(blob.digest.blob_path, blob.size) for blob in self.blobs]
        return Layout(contents, self.program.size)

    def to_bytes(self) -> bytes:
        """Return bundle.json: the same manifest always gives the same bytes.

        Raises:
            UsageError: it would be larger than any reader takes.
        """
        data = (json.dumps(self.to_json(), indent=1, ensure_ascii=True) + "\n").encode()
        if len(data) > MAX_SIZE:
            raise UsageError(
                f"{len(self.images)} images make a bundle.json of {len(data)} bytes: expected at most {MAX_SIZE}",
                hint="divide the images among several bundles",
            )
        return data

    def to_json(self) -> dict[str, Any]:
        """Return the object that bundle.json holds."""
        return {
            "format": FORMAT,
            "name": self.name,
            "tool": {"name": "bundle", "version": self.tool_version},
            "platforms": [str(platform) for platform in self.platforms],
            "hostPlatforms": [str(platform) for platform in self.host_platforms],
            "images": [_image_to_json(image) for image in self.images],
            **({"signed": True} if self.signed else {}),
            "files": [_file_to_json(file) for file in self.files],
            "program": _file_to_json(self.program),
            "blobs": [blob.to_json() for blob in self.blobs],
            **self._delta_to_json(),
        }

    def _delta_to_json(self) -> dict[str, Any]:
        if not self.bases:
            return {}
        return {
            "bases": [{"name": base.name, "digest": str(base.digest)} for base in self.bases],
            "required": [blob.to_json() for blob in self.required],
        }

    @classmethod
    def parse(cls, data: bytes) -> BundleManifest:
        """Read bundle.json from outside; unknown fields are passed over, so that format 1 can grow.

        Raises:
            NewerFormatError: a later format.
            DamagedArchiveError: not a manifest; the message says what is wrong.
        """
        try:
            value = parse_json(data, MANIFEST_NAME)
            version = value.get("format")
            if isinstance(version, int) and version > FORMAT:
                raise NewerFormatError(
                    f"the archive has format `{version}`, and this program reads up to {FORMAT}",
                    hint="run the program inside the archive: python3 ARCHIVE install",
                )
            if version != FORMAT or isinstance(version, bool):
                raise UsageError(f"the format is `{str(version)[:40]}`: expected {FORMAT}")
            manifest = cls(
                name=value["name"],
                tool_version=str(value["tool"]["version"]),
                platforms=tuple(Platform.parse(text) for text in value["platforms"]),
                host_platforms=tuple(Platform.parse(text) for text in value["hostPlatforms"]),
                images=tuple(map(_image_from_json, value["images"])),
                files=tuple(map(_file_from_json, value["files"])),
                blobs=tuple(map(Descriptor.from_json, value["blobs"])),
                program=_file_from_json(value["program"]),
                bases=tuple(Base(str(item["name"]), Digest(item["digest"])) for item in value.get("bases", ())),
                required=tuple(map(Descriptor.from_json, value.get("required", ()))),
                signed=value.get("signed", False) is True,
            )
            _check_consistent(manifest)
        except UsageError as error:
            raise DamagedArchiveError(f"{MANIFEST_NAME} cannot be used: {error.message}", hint=_copy_again()) from None
        except (KeyError, TypeError, AttributeError) as error:
            message = f"{MANIFEST_NAME} cannot be used: a field is missing or of the wrong kind ({error})"
            raise DamagedArchiveError(message[:300], hint=_copy_again()) from None
        return manifest


def _copy_again() -> str:
    return f"copy the archive again from where it was created, then run: {own_command('verify')} ARCHIVE"


def check_name(name: Any) -> None:
    """Raise UsageError when `name` cannot be a bundle's name: letters, digits, `.`, `_` and `-`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"`{str(name)[:100]}` is not a bundle name: expected letters, digits, and . _ - inside")


def _check_consistent(manifest: BundleManifest) -> None:
    blobs = {blob.digest: blob for blob in manifest.blobs}
    if len(blobs) != len(manifest.blobs):
        raise UsageError("a blob is listed twice")
    required = {blob.digest for blob in manifest.required}
    if len(required) != len(manifest.required) or required & blobs.keys() or (required and not manifest.bases):
        raise UsageError("what it requires from its bases is listed twice, is inside too, or there is no base")
    for text in (manifest.tool_version, *(base.name for base in manifest.bases)):
        # These go to a terminal, which must not take orders from an archive.
        if not text.isprintable() or len(text) > 200:
            raise UsageError("it has a text that cannot be shown")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names) or not FILE_NAMES.issuperset(names):
        raise UsageError("its files are not those of a bundle")
    for image in manifest.images:
        if image.role not in ROLES:
            raise UsageError(f"`{image.reference}` has the unknown role `{image.role[:40]}`")
        for descriptor in (image.root, *(content.manifest for content in image.platforms)):
            if blobs.get(descriptor.digest, descriptor).size != descriptor.size:
                raise UsageError(f"`{image.reference}`: the sizes of {descriptor.digest} differ")
            if descriptor.digest not in blobs:
                raise UsageError(f"`{image.reference}`: {descriptor.digest} is not among the blobs")
    if len({str(image.reference) for image in manifest.images}) != len(manifest.images):
        raise UsageError("an image is listed twice")


def _file_to_json(file: File) -> dict[str, Any]:
    return {"name": file.name, "digest": str(file.digest), "size": file.size}


def _file_from_json(value: Any) -> File:
    name, size = value["name"], value["size"]
    if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise UsageError("a file has no name, or a size that is not possible")
    return File(name, Digest(value["digest"]), size)


def _image_to_json(image: Image) -> dict[str, Any]:
    value: dict[str, Any] = {
        "reference": str(image.reference),
        "role": image.role,
        **Descriptor(image.root.media_type, image.root.digest, image.root.size).to_json(),
        "platforms": [
            {
                "platform": str(content.platform) if content.platform else None,
                "mediaType": content.manifest.media_type,
                "digest": str(content.manifest.digest),
                "size": content.manifest.size,
                "contentSize": content.content_size,
            }
            for content in image.platforms
        ],
        "sparse": image.sparse,
    }
    if image.merged:
        value["mergedFrom"] = [str(reference) for reference in image.merged]
    return value


def _image_from_json(value: Any) -> Image:
    platforms = []
    for item in value["platforms"]:
        platform = None if item["platform"] is None else Platform.parse(item["platform"])
        manifest = Descriptor.from_json({**item, "platform": None})
        size = item["contentSize"]
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise UsageError("a platform has no contentSize that is possible")
        platforms.append(PlatformContent(platform, manifest, size))
    if not isinstance(value["sparse"], bool) or not isinstance(value["role"], str):
        raise UsageError("an image has no role, or does not say whether it is sparse")
    return Image(
        reference=Reference.parse(value["reference"]),
        role=value["role"],
        root=Descriptor.from_json(value),
        platforms=tuple(platforms),
        sparse=value["sparse"],
        merged=tuple(Reference.parse(text) for text in value.get("mergedFrom", ())),
    )
