"""bundle.lock: what the references of a definition stood for when it was locked, so that every create gives the same.

The file is JSON with one value on a line, so that a change of an image is a change of a few lines:

    lock            the version of this format, 1
    name, platforms, hostPlatforms, attestations
                    the rest of the definition that an archive's bytes depend on
    images          in the order of the archive, for each:
        reference, role, digest     digest is that of the index or manifest the reference stood for
        wanted                      the platforms asked for
        platforms                   what they were served by: platform (null for an artifact), digest, and size, the
                                    bytes of manifest, config and layers
        sources                     only of a merged image: platform, reference, digest of each source
        from                        only of an image from a file: what was written for that
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.plan import Plan
from bundler.planning.resolve import resolve
from bundler.sources.pins import PinnedSource
from bundler.sources.source import Source
from bundles.archive.manifest import ROLES
from bundles.errors import ContentError, Problem, UsageError, reason
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command, quote

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class LockedPlatform:
    """What one platform was served by, and its size in bytes; `platform` is None for an artifact."""

    platform: Optional[Platform]
    digest: Digest
    size: int


@dataclasses.dataclass(frozen=True)
class LockedImage:
    """One image, locked: what was asked for, what it was, and what each source of a merged image was."""

    request: ImageRequest
    digest: Digest
    platforms: tuple[LockedPlatform, ...]
    sources: tuple[Digest, ...] = ()


@dataclasses.dataclass(frozen=True)
class Lock:
    """The content of bundle.lock, and where that is."""

    name: str
    platforms: tuple[Platform, ...]
    host_platforms: tuple[Platform, ...]
    attestations: bool
    images: tuple[LockedImage, ...]
    path: Path

    @classmethod
    def of(cls, spec: Spec, plan: Plan, found: Mapping[Reference, Digest], path: Path) -> Lock:
        """Lock a definition as it was resolved; `found` is what each reference stood for."""
        images = []
        planned = {image.reference: image for image in plan.images}
        for wanted in (wanted for wanted in spec.images if wanted.reference in planned):
            image = planned[wanted.reference]
            platforms = tuple(
                LockedPlatform(content.platform, content.manifest.digest, content.manifest.size + content.content_size)
                for content in image.platforms
            )
            sources = tuple(found[reference] for _, reference in wanted.merge)
            images.append(
                LockedImage(
                    dataclasses.replace(wanted, optional=False, default=False), image.root.digest, platforms, sources
                )
            )
        return cls(spec.name, spec.platforms, spec.host_platforms, spec.attestations, tuple(images), path)

    @property
    def pins(self) -> dict[Reference, Digest]:
        """What each reference that is asked of a registry stands for."""
        pins: dict[Reference, Digest] = {}
        for image in self.images:
            if image.request.merge:
                pins.update({source: digest for (_, source), digest in zip(image.request.merge, image.sources)})
            else:
                pins[image.request.reference] = image.digest
        return pins

    def digests(self) -> dict[Reference, Digest]:
        """Return the digest of each image."""
        return {image.request.reference: image.digest for image in self.images}

    def without(self, references: Iterable[Reference]) -> Lock:
        """Return the lock with some images less.

        Raises:
            UsageError: one of them is not in it.
        """
        moving = set(references)
        for reference in moving - self.digests().keys():
            names = ", ".join(f"`{known.familiar}`" for known in self.digests())
            raise UsageError(f"`{reference.familiar}` is not in the lock: expected one of {names}")
        return dataclasses.replace(
            self, images=tuple(image for image in self.images if image.request.reference not in moving)
        )

    def apply(self, spec: Spec) -> Spec:
        """Return the same definition in the order of the lock, so that the same lock gives the same bytes.

        Raises:
            UsageError: the definition has drifted from the lock; the message says in what.
        """
        drift = self.drift(spec)
        if drift:
            raise UsageError(
                f"`{self.path}` does not fit the definition any more: {'; '.join(drift)}",
                hint=f"{lock_command(self.path)}  (what has not changed keeps its digest)",
            )
        return dataclasses.replace(
            spec,
            platforms=self.platforms,
            host_platforms=self.host_platforms,
            images=tuple(image.request for image in self.images),
        )

    def check_files(self, found: Mapping[Reference, Digest]) -> None:
        """Make sure that files have the images that were locked; `found` are those that they have now.

        Raises:
            ContentError: some are other ones now; the message names them.
        """
        changed = [
            image
            for image in self.images
            if image.request.origin and found.get(image.request.reference, image.digest) != image.digest
        ]
        problems = [
            Problem(
                image.request.reference.familiar,
                f"it is {found[image.request.reference]} in `{image.request.origin}`, locked is {image.digest}",
            )
            for image in changed
        ]
        if changed:
            raise ContentError(
                f"{len(changed)} images are not what `{self.path}` has locked: their files have changed, or the zstd "
                "level or version",
                hint=self.upgrade(*(image.request.reference for image in changed)),
                problems=problems,
            )

    def drift(self, spec: Spec) -> list[str]:
        """Say in what a definition differs from the one that was locked; the order of things does not count."""
        found = []
        if spec.name != self.name:
            found.append(f"the name is `{spec.name}`, locked is `{self.name}`")
        for what, new, old in (
            ("platforms", spec.platforms, self.platforms),
            ("host platforms", spec.host_platforms, self.host_platforms),
        ):
            if set(new) != set(old):
                found.append(f"the {what} are {_list(new)}, locked are {_list(old)}")
        if spec.attestations != self.attestations:
            found.append(f"attestations are {'' if spec.attestations else 'not '}wanted, locked is the opposite")
        locked = {image.request.reference: image.request for image in self.images}
        wanted = {image.reference: image for image in spec.images}
        # What was optional and is not in the lock was decided against when it was locked.
        found += [
            f"`{reference.familiar}` is not in the lock"
            for reference, image in wanted.items()
            if reference not in locked and not image.optional
        ]
        found += [f"`{reference.familiar}` is only in the lock" for reference in locked if reference not in wanted]
        for reference in (reference for reference in wanted if reference in locked):
            found += _image_drift(wanted[reference], locked[reference])
        return found

    def check(self, plan: Plan) -> None:
        """Make sure that what was resolved is what was locked.

        Raises:
            ContentError: a merged image, or the choice of platforms, came out differently: another version of the tool.
        """
        resolved = {image.reference: image for image in plan.images}
        for locked in self.images:
            image = resolved[locked.request.reference]
            platforms = tuple((content.platform, content.manifest.digest) for content in image.platforms)
            if image.root.digest != locked.digest or platforms != tuple(
                (content.platform, content.digest) for content in locked.platforms
            ):
                raise ContentError(
                    f"`{image.reference.familiar}` is {image.root.digest}, locked is {locked.digest} with "
                    f"{_list(content.platform for content in locked.platforms)}",
                    hint=self.upgrade(image.reference),
                )

    def upgrade(self, *references: Reference) -> str:
        """Return the command that asks anew what references stand for."""
        return f"{lock_command(self.path)} --upgrade {' '.join(reference.familiar for reference in references)}"

    def to_bytes(self) -> bytes:
        """Return the file: the same lock always gives the same bytes."""
        value = {
            "lock": FORMAT,
            "name": self.name,
            "platforms": list(map(str, self.platforms)),
            "hostPlatforms": list(map(str, self.host_platforms)),
            "attestations": self.attestations,
            "images": [_image_to_json(image) for image in self.images],
        }
        return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Lock:
        """Read bundle.lock.

        Raises:
            UsageError: it is not one, or of a later version of the tool.
        """
        hint = f"take it from version control again, or remove it and run: {lock_command(path)}"
        try:
            value = parse_json(data, "it")
            if value.get("lock") != FORMAT:
                raise UsageError(f"it has the format `{str(value.get('lock'))[:40]}`: expected {FORMAT}")
            return cls(
                name=str(value["name"]),
                platforms=tuple(map(Platform.parse, value["platforms"])),
                host_platforms=tuple(map(Platform.parse, value["hostPlatforms"])),
                attestations=bool(value["attestations"]),
                images=tuple(map(_image_from_json, value["images"])),
                path=path,
            )
        except UsageError as error:
            raise UsageError(f"`{path}` cannot be used: {error.message}", hint=hint) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"`{path}` cannot be used: a field is missing or of the wrong kind ({error})"
            raise UsageError(message[:300], hint=hint) from None


def lock_path(definition: Path) -> Path:
    """Return where the lock of a definition is: `bundle.lock` for `bundle.toml`."""
    return definition.with_suffix(".lock")


@dataclasses.dataclass(frozen=True)
class Renewal:
    """The lock that was there, the one that takes its place, and what that was resolved to."""

    old: Optional[Lock]
    new: Lock
    plan: Plan

    @property
    def differs(self) -> bool:
        return self.old is None or self.new.to_bytes() != self.old.to_bytes()


def lock_command(path: Path) -> str:
    """Return the command that makes the lock at `path` anew."""
    return own_command(f"lock -f {quote(path.with_suffix('.toml'))}")


def renew(
    spec: Spec,
    old: Optional[Lock],
    path: Path,
    upgrade: Iterable[Reference],
    source: Source,
    *,
    in_files: Mapping[Reference, Digest],
) -> Renewal:
    """Lock what is asked for at `path`, but write nothing: what `old` has keeps its digest, except for `upgrade`.

    `in_files` are the digests of images that come from files.

    Raises:
        UsageError: an image to upgrade is not in `old`.
        NetworkError: an image cannot be had.
    """
    kept = old.without(upgrade) if old else None
    if kept:
        kept.check_files(in_files)
    pinned = PinnedSource(source, kept.pins, kept.upgrade) if kept else PinnedSource(source, {}, str)
    plan = resolve(spec, pinned)
    return Renewal(old, Lock.of(spec, plan, pinned.found, path), plan)


def read_lock(path: Path) -> Optional[Lock]:
    """Return the lock at `path`, or None when there is none.

    Raises:
        UsageError: it cannot be read or used.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {reason(error)}") from None
    return Lock.parse(data, path)


def _image_drift(wanted: ImageRequest, locked: ImageRequest) -> list[str]:
    name = wanted.reference.familiar
    found = []
    if wanted.role != locked.role:
        found.append(f"`{name}` is for `{wanted.role}`, locked is `{locked.role}`")
    if set(wanted.platforms) != set(locked.platforms):
        found.append(f"`{name}` is wanted for {_list(wanted.platforms)}, locked is {_list(locked.platforms)}")
    elif wanted.origin != locked.origin:
        there, before = wanted.origin or "its registry", locked.origin or "its registry"
        found.append(f"`{name}` comes from {there}, locked is {before}")
    elif set(wanted.merge) != set(locked.merge):
        found.append(f"`{name}` is merged from other images than those locked")
    return found


def _list(platforms: Iterable[Optional[Platform]]) -> str:
    return ", ".join(str(platform or "any platform") for platform in platforms) or "none"


def _image_to_json(image: LockedImage) -> dict[str, Any]:
    value: dict[str, Any] = {
        "reference": str(image.request.reference),
        "role": image.request.role,
        "digest": str(image.digest),
        "wanted": list(map(str, image.request.platforms)),
        "platforms": [
            {
                "platform": str(content.platform) if content.platform else None,
                "digest": str(content.digest),
                "size": content.size,
            }
            for content in image.platforms
        ],
    }
    if image.request.origin:
        value["from"] = image.request.origin
    if image.request.merge:
        value["sources"] = [
            {"platform": str(platform), "reference": str(reference), "digest": str(digest)}
            for (platform, reference), digest in zip(image.request.merge, image.sources)
        ]
    return value


def _image_from_json(value: Any) -> LockedImage:
    if value["role"] not in ROLES:
        raise UsageError(f"the role `{str(value['role'])[:40]}` is unknown")
    sources = value.get("sources", [])
    wanted = ImageRequest(
        reference=Reference.parse(value["reference"]),
        role=value["role"],
        platforms=tuple(map(Platform.parse, value["wanted"])),
        merge=tuple((Platform.parse(item["platform"]), Reference.parse(item["reference"])) for item in sources),
        origin=str(value.get("from", "")),
    )
    platforms = tuple(
        LockedPlatform(
            None if item["platform"] is None else Platform.parse(item["platform"]),
            Digest(item["digest"]),
            int(item["size"]),
        )
        for item in value["platforms"]
    )
    return LockedImage(wanted, Digest(value["digest"]), platforms, tuple(Digest(item["digest"]) for item in sources))
