"""Signatures, attestations and other things attached to images, wherever registries keep them.

Two customs are followed: cosign's tags (`sha256-<hex>.sig`, `.att`, `.sbom`), and the referrers of distribution-spec
v1.1, from its API or, where a registry has none, under the tag `sha256-<hex>`. Everything found travels under the tag
that its custom says, so that a destination without the API (distribution is one) serves it, too.

What is attached is not what was asked for: one that is refused, or that means nothing here, is noted and left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Optional

from bundler.planning.plan import Plan, Resolved
from bundler.sources.source import Source
from bundles.archive.manifest import Image, PlatformContent
from bundles.errors import ContentError, NetworkError, UnavailableError, UsageError
from bundles.oci.descriptor import CONFIG_TYPES, OCI_INDEX, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, index_entries, parse_index, parse_json, parse_manifest
from bundles.oci.reference import Reference
from bundles.registry.read import digest_or_none
from bundles.runtime.listing import listed
from bundles.runtime.workers import in_parallel

_COSIGN_SUFFIXES = (".sig", ".att", ".sbom")
_WORKERS = 16
# A signature of an SBOM of an image is two levels away.
_LEVELS = 4


class _Search:
    """Asks for what may be attached to images, and keeps in mind what was not to be had. Thread-safe."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._missed: list[tuple[str, str]] = []

    def find(self, reference: Reference) -> Optional[tuple[Descriptor, bytes]]:
        """Return a manifest or index that is understood here; None when there is none.

        Raises:
            NetworkError: whether there is one is not known: the registry failed, or sent wrong bytes.
        """
        try:
            found = self.source.find_manifest(reference)
            if found and found[0].is_manifest:
                parse_manifest(found[1])
            elif found:
                parse_index(found[1])
            return found
        except UsageError as error:  # a document that no registry should serve
            why = error.message
        except NetworkError as error:
            if error.status is None or isinstance(error, UnavailableError):
                raise
            why = error.cause or error.said or error.message
        self._missed.append((why, reference.familiar))
        return None

    def notes(self) -> list[str]:
        """Say what was not to be had, each reason once."""
        alike: dict[str, list[str]] = {}
        for why, name in sorted(self._missed, key=lambda missed: missed[1]):
            alike.setdefault(why, []).append(name)
        return [
            f"{listed(names, 1)}, where something may be attached to an image, cannot be taken along: {why}"
            for why, names in alike.items()
        ]


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A manifest to which something may be attached: its repository, by any reference, and its digest."""

    repository: Reference
    digest: Digest

    def tagged(self, tag: str) -> Reference:
        return dataclasses.replace(self.repository, tag=tag, digest=None)

    def at(self, digest: Digest) -> Reference:
        return dataclasses.replace(self.repository, tag=None, digest=digest)


def with_referrers(plan: Plan, source: Source, only: Optional[Collection[Reference]] = None) -> Plan:
    """Return the plan and all that is attached to its images, to their platforms, and to what is attached.

    Merged images have digests of their own making, so that nothing can be attached to them; a note says so. Registries
    are not asked about local images, whose very names may be nobody's business. With `only` no others are looked at.

    Raises:
        NetworkError: a registry did not answer whether there is something. Then, as after any other error, `source`
            is cancelled.
    """
    notes = [
        f"{image.reference.familiar}: what is attached to its sources does not fit the merged image"
        for image in plan.images
        if image.merged
    ]
    subjects = {
        _Subject(image.reference, digest): None
        for image in plan.images
        if not image.merged and image.reference not in plan.local and (only is None or image.reference in only)
        for digest in (image.root.digest, *(content.manifest.digest for content in image.platforms))
    }
    found: dict[Reference, Resolved] = {}
    search = _Search(source)
    for _ in range(_LEVELS):
        groups = in_parallel(lambda one: _look(one, search), subjects, _WORKERS, source.cancel)
        attached = [each for group in groups for each in group]
        subjects = {
            _Subject(each.image.reference, content.manifest.digest): None
            for each in attached
            for content in each.image.platforms
        }
        found.update((each.image.reference, each) for each in attached)
        if not subjects:
            break
    names = {image.reference for image in plan.images}
    more = [each for reference, each in sorted(found.items(), key=_name) if reference not in names]
    return plan.and_also(more, [*notes, *search.notes()])


def _name(item: tuple[Reference, Resolved]) -> str:
    return str(item[0])


def _look(subject: _Subject, search: _Search) -> list[Resolved]:
    try:
        return list(_attached(subject, search))
    except UsageError as error:  # a document that no registry should serve
        raise ContentError(f"what is attached to {subject.at(subject.digest).familiar}: {error.message}") from None


def _attached(subject: _Subject, search: _Search) -> Iterator[Resolved]:
    """Find what is attached to one manifest."""
    base = f"sha256-{subject.digest.hex}"
    for suffix in _COSIGN_SUFFIXES:
        reference = subject.tagged(base + suffix)
        known = search.find(reference)
        if known:
            children = parse_index(known[1]) if known[0].is_index else ()
            manifests = [known] if known[0].is_manifest else _found(subject, children, search)
            if manifests:
                yield _resolved(reference, *known, manifests, search.source)
    reference = subject.tagged(base)
    listed = search.source.referrers(subject.repository, subject.digest)
    tagged = search.find(reference)
    # GitLab keeps the image itself under this tag.
    if tagged and (tagged[0].digest == subject.digest or not tagged[0].is_index):
        tagged = None
    lists = (*listed, *([tagged[1]] if tagged else []))
    entries: dict[Digest, Mapping[str, Any]] = {}
    for entry in (entry for data in lists for entry in index_entries(data)):
        if entry.descriptor:
            entries.setdefault(entry.descriptor.digest, entry.value)
    found = _found(subject, map(Descriptor.from_json, entries.values()), search)
    found = [(descriptor, data) for descriptor, data in found if _subject_of(data) == subject.digest]
    taken = sorted(descriptor.digest for descriptor, _ in found)
    if not taken:
        return
    if tagged and {child.digest for child in parse_index(tagged[1])} == set(taken):
        root, data = tagged
    else:
        listing = [entries[digest] for digest in taken]
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listing}, indent=3).encode()
        root = Descriptor.of(OCI_INDEX, data)
    yield _resolved(reference, root, data, found, search.source)


def _subject_of(data: bytes) -> Optional[Digest]:
    """Return which manifest another one says that it is about."""
    subject = parse_json(data, "the manifest").get("subject")
    return digest_or_none(str(subject.get("digest"))) if isinstance(subject, dict) else None


def _found(subject: _Subject, children: Iterable[Descriptor], search: _Search) -> list[tuple[Descriptor, bytes]]:
    """Return those manifests that are there: a list of referrers may have some that were deleted.

    Raises:
        ContentError: the list gives another size; what reads the archive would call it damaged.
    """
    found = []
    for child in children:
        known = search.find(subject.at(child.digest))
        if known and known[0].is_manifest:
            if known[0].size != child.size:
                raise ContentError(f"it is listed with {child.size} bytes, and has {known[0].size}: {child.digest}")
            found.append(known)
    return found


def _resolved(
    reference: Reference,
    root: Descriptor,
    data: bytes,
    manifests: Iterable[tuple[Descriptor, bytes]],
    source: Source,
) -> Resolved:
    documents: dict[Descriptor, bytes] = {root: data}
    layers: dict[Descriptor, Reference] = {}
    contents = []
    for descriptor, raw in manifests:
        documents[descriptor] = raw
        manifest = parse_manifest(raw)
        config = manifest.config.plain
        if config.media_type in CONFIG_TYPES:
            documents[config] = source.read_blob(reference, config, MAX_CONFIG_SIZE)
        else:
            layers[config] = reference
        layers.update((layer.plain, reference) for layer in manifest.layers)
        size = config.size + sum({layer.digest: layer.size for layer in manifest.layers}.values())
        contents.append(PlatformContent(None, descriptor, size))
    return Resolved(Image(reference, "base", root, tuple(contents)), documents, layers)
