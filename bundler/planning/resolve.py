"""From names to digests: every image's documents are fetched and checked before anything is written."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Optional, Union

from bundler.definition.file_request import KINDS
from bundler.definition.spec import TOOLCHAIN, ImageRequest, Spec
from bundler.planning.plan import Plan, Resolved
from bundler.sources.files.kinds import prefix_of
from bundler.sources.source import BlobRequest, Source
from bundles.archive.manifest import Image, PlatformContent
from bundles.errors import (
    AuthenticationError,
    BundleError,
    ContentError,
    NetworkError,
    NotFoundError,
    Problem,
    UnreachableError,
    UsageError,
)
from bundles.oci.descriptor import CONFIG_TYPES, DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, Entry, config_platform, index_entries, parse_index, parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.urls import Origin, is_address
from bundles.runtime.program import own_command, quote
from bundles.runtime.sizes import human_size
from bundles.runtime.workers import in_parallel

# Resolving waits for round trips, not for bytes.
_WORKERS = 16
# Indexes that are kept parsed.
_KEPT = 8
# The media type of what BuildKit's caches have as config, or in their old form as one of the entries.
_CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
MAX_OPTIONAL_SIZE = 60_000_000
# Indexes inside one another: images have one level, or two.
_MAX_DEPTH = 16


def resolve(spec: Spec, source: Source) -> Plan:
    """Fetch the indexes, manifests and configs of everything wanted.

    What is optional is left out where it does not exist, or where its layers are MAX_OPTIONAL_SIZE or more besides
    those of the other images; a note says what was decided.

    Raises:
        NetworkError: with every image that cannot be had and the reason; AuthenticationError or NotFoundError when
            that is the reason for all of them.
    """

    # Thousands of images may have one index inside, of thousands of entries.
    entries = functools.lru_cache(maxsize=_KEPT)(index_entries)

    def attempt(group: Sequence[int]) -> Union[Resolved, BundleError]:
        try:
            return _Resolution(spec.images[group[0]], source, spec, entries, len(group) - 1).resolve()
        except UsageError as error:  # a document that no registry should serve
            return ContentError(error.message, hint=error.hint)
        except BundleError as error:
            return error

    groups = _groups(spec.images, source)
    results: list[Union[Resolved, BundleError, None]] = [None] * len(spec.images)
    for group, found in zip(groups, in_parallel(attempt, groups, _WORKERS, source.cancel)):
        results[group[0]] = found
        for position in group[1:]:
            name = spec.images[position].reference
            results[position] = found.also_called(name) if isinstance(found, Resolved) else found
    notes: list[str] = []
    for position, wanted in enumerate(spec.images):
        result = results[position]
        if wanted.optional and isinstance(result, NotFoundError):
            notes.append(f"{wanted.reference.familiar} ({wanted.role}) is left out: {result.message}")
            results[position] = None
        elif wanted.optional and isinstance(result, Resolved):
            cost = _cost(result, [other for other in results if isinstance(other, Resolved) and other is not result])
            notes.append(_decision(wanted, cost))
            if cost >= MAX_OPTIONAL_SIZE:
                results[position] = None
    failures = [(wanted, result) for wanted, result in zip(spec.images, results) if isinstance(result, BundleError)]
    if failures:
        raise _all_together(failures, len(spec.images))
    plan = Plan.of(result for result in results if isinstance(result, Resolved))
    return dataclasses.replace(
        plan,
        notes=(*plan.notes, *notes),
        local=frozenset((*(item.reference for item in spec.from_daemon), *spec.layouts)),
    )


def _groups(images: Sequence[ImageRequest], source: Source) -> list[list[int]]:
    """Return the positions of requests that come to the same but for the name.

    A file may list one index of thousands of entries under thousands of names.
    """
    groups: dict[object, list[int]] = {}
    for position, wanted in enumerate(images):
        digest = source.known_digest(wanted.reference) if wanted.origin and not wanted.merge else None
        alike = (wanted.origin, digest, wanted.role, wanted.platforms, wanted.optional)
        groups.setdefault(alike if digest else position, []).append(position)
    return list(groups.values())


def _cost(image: Resolved, others: Sequence[Resolved]) -> int:
    """Count the bytes of the layers that no other image has."""
    shared = {layer.digest for other in others for layer in other.layers}
    return sum(layer.size for layer in image.layers if layer.digest not in shared)


def _decision(wanted: ImageRequest, cost: int) -> str:
    what = f"{wanted.reference.familiar} ({human_size(cost)}), for hosts without a usable python3"
    if cost < MAX_OPTIONAL_SIZE:
        return f"{what}, goes along; --without {wanted.role} leaves it out"
    limit = human_size(MAX_OPTIONAL_SIZE)
    return f"{what}, is left out because it costs {limit} or more; --with-{wanted.role} takes it along"


def _all_together(failures: Sequence[tuple[ImageRequest, BundleError]], count: int) -> NetworkError:
    alike: dict[tuple[str, Optional[str]], list[str]] = {}
    for wanted, error in failures:
        subject = f"{wanted.reference.familiar} ({wanted.role})" if wanted.role != "base" else wanted.reference.familiar
        cause = error.cause if isinstance(error, NetworkError) else None
        alike.setdefault((cause or error.message, _file_of_that_name(wanted) or error.hint), []).append(subject)
    # What stops several images in the same way is said once; alone, an image's own words say more.
    own = {error.cause: error.message for _, error in failures if isinstance(error, NetworkError) and error.cause}
    problems = [
        Problem(", ".join(subjects), cause if len(subjects) > 1 else own.get(cause, cause), hint)
        for (cause, hint), subjects in alike.items()
    ]
    kinds = {type(error) for _, error in failures}
    kind = kinds.pop() if len(kinds) == 1 else NetworkError
    if kind not in (NotFoundError, AuthenticationError, ContentError):
        kind = NetworkError
    message = f"{len(failures)} of {count} images cannot be bundled; nothing was written"
    return kind(message, problems=problems, hint=_without_network(failures))


def _file_of_that_name(wanted: ImageRequest) -> Optional[str]:
    """Say how a file is named, where one has the name of an image that cannot be had."""
    name = wanted.reference.familiar
    path = Path(name[: -len(":latest")] if name.endswith(":latest") else name)
    if wanted.role != "base" or not path.exists():
        return None
    prefixes = [prefix_of(path)] if prefix_of(path) else [kind for kind in KINDS if (kind == "oci") == path.is_dir()]
    return (
        f"a file is here that is called so, if that is meant: {', '.join(quote(f'{kind}:{path}') for kind in prefixes)}"
    )


def _without_network(failures: Sequence[tuple[ImageRequest, BundleError]]) -> Optional[str]:
    """Say how to do without a network, where nothing but the toolchain needs one."""
    roles = [wanted.role for wanted, _ in failures]
    if not TOOLCHAIN.keys() >= set(roles) or not all(isinstance(error, UnreachableError) for _, error in failures):
        return None
    without = " ".join(f"--without {role}" for role in roles)
    return (
        f"without a network, take the toolchain from an archive that has it, bundle:OLD.tar, or leave it out: {without}"
    )


class _Resolution:
    """The resolution of one image, which may have more names than the one that is asked for."""

    def __init__(
        self,
        wanted: ImageRequest,
        source: Source,
        spec: Spec,
        entries: Callable[[bytes], Sequence[Entry]],
        more: int,
    ) -> None:
        self._entries = entries
        self._more = f" and {more} more" if more else ""
        self._wanted = wanted
        self._source = source
        self._attestations, self._foreign = spec.attestations, spec.foreign_layers
        self._documents: dict[Descriptor, bytes] = {}
        self._layers: dict[Descriptor, Reference] = {}
        self._notes: list[str] = []
        self._opened: set[Digest] = set()
        self._odd: list[tuple[Optional[Platform], str]] = []

    def resolve(self) -> Resolved:
        wanted = self._wanted
        if wanted.merge:
            root, platforms = self._merge()
            sparse = False
        else:
            root, data = self._source.manifest(wanted.reference)
            _check_cache(wanted, root, data)
            platforms, sparse = self._select(wanted.reference, root, data, wanted.platforms, self._attestations)
        image = Image(
            wanted.reference,
            wanted.role,
            root,
            tuple(platforms),
            sparse,
            tuple(reference for _, reference in wanted.merge),
        )
        return Resolved(image, self._documents, self._layers, tuple(self._notes))

    def _merge(self) -> tuple[Descriptor, list[PlatformContent]]:
        """Put one image of each platform under one new index, as `docker manifest create` does."""
        contents = []
        problems = []
        for platform, reference in self._wanted.merge:
            try:
                root, data = self._source.manifest(reference)
                # The new index names images only.
                contents += self._select(reference, root, data, (platform,), False)[0]
            except BundleError as error:
                problems.append(error.as_problem(f"{reference.familiar} for {platform}"))
        if problems:
            hints = [problem.hint for problem in problems if problem.hint]
            message = "; ".join(f"{problem.subject}: {problem.message}" for problem in problems)
            raise NetworkError(message, hint="; ".join(dict.fromkeys(hints)) or None)
        # The indexes of the sources are not part of the merged image; the manifests they led to are.
        self._documents = {known: raw for known, raw in self._documents.items() if not known.is_index}
        docker = all(content.manifest.media_type == DOCKER_MANIFEST for content in contents)
        media_type = DOCKER_INDEX if docker else OCI_INDEX
        manifests = [
            {**content.manifest.to_json(), "platform": platform.to_json()}
            for (platform, _), content in zip(self._wanted.merge, contents)
        ]
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}, indent=3).encode()
        root = Descriptor.of(media_type, data)
        self._documents[root] = data
        return root, contents

    def _select(
        self, reference: Reference, root: Descriptor, data: bytes, platforms: Sequence[Platform], attested: bool
    ) -> tuple[list[PlatformContent], bool]:
        """Take the wanted platforms, `attested` with their attestations; also whether the index is then sparse."""
        self._documents[root] = data
        if root.is_manifest:
            content = self._take(reference, root, data)
            if content.platform is not None:
                self._choose(reference, platforms, [content.platform])
            return [content], False
        offered: dict[Platform, Descriptor] = {}
        attestations: list[Descriptor] = []
        self._opened, self._odd = {root.digest}, []
        left_out = self._survey(reference, data, offered, attestations)
        chosen = self._choose(reference, platforms, offered)
        contents = []
        for match in dict.fromkeys(chosen):
            contents.append(self._fetch(reference, offered[match], match))
        taken = {content.manifest.digest for content in contents}
        for attestation in attestations:
            if attested and attestation.attests in taken and self._fetch_attestation(reference, attestation):
                taken.add(attestation.digest)
        self._drop_empty_indexes(root, taken)
        everything = {leaf.digest for leaf in (*offered.values(), *attestations)}
        return contents, left_out or not everything <= taken

    def _choose(
        self, reference: Reference, platforms: Sequence[Platform], offered: Collection[Platform]
    ) -> list[Platform]:
        """Choose the offered platform for each wanted one, and note where that is another.

        Raises:
            NotFoundError: for some there is none.
        """
        chosen = _match(platforms, offered, self._wanted, self._odd)
        for platform, match in zip(platforms, chosen):
            if match != platform:
                self._note(reference, f"{platform} is served by {match}")
        return chosen

    def _survey(
        self,
        reference: Reference,
        data: bytes,
        offered: dict[Platform, Descriptor],
        attestations: list[Descriptor],
        depth: int = 0,
    ) -> bool:
        """Collect the leaves of an index and of the indexes inside it; True when some leaf can never be chosen.

        Each index is opened once, however often it is listed. What is not understood, or not there, is no failure as
        long as nobody needs it: `_odd` has the reasons.

        Raises:
            UsageError: they are nested too deeply.
        """
        if depth > _MAX_DEPTH:
            raise UsageError(f"the index has more than {_MAX_DEPTH} levels of indexes inside")
        left_out = False
        for entry in self._entries(data):
            child = entry.descriptor
            if child is None:
                self._odd.append(_odd(entry))
                left_out = True
            elif child.is_attestation:
                attestations.append(child)
            elif child.is_index or child.is_manifest:
                try:
                    left_out |= self._consider(reference, child, offered, attestations, depth)
                except (NotFoundError, ContentError, UsageError) as error:
                    self._odd.append((child.platform, error.message))
                    left_out = True
            else:
                left_out = True
        return left_out

    def _consider(
        self,
        reference: Reference,
        child: Descriptor,
        offered: dict[Platform, Descriptor],
        attestations: list[Descriptor],
        depth: int,
    ) -> bool:
        """Collect what one entry of an index offers; True when it is something that can never be chosen."""
        if child.is_index:
            if child.digest in self._opened:
                return False
            self._opened.add(child.digest)
            nested, raw = self._child(reference, child)
            self._documents[nested] = raw
            return self._survey(reference, raw, offered, attestations, depth + 1)
        platform = child.platform or self._config_platform(reference, child)
        if platform is None or platform in offered:
            return True
        offered[platform] = child
        return False

    def _drop_empty_indexes(self, root: Descriptor, taken: set[Digest]) -> None:
        """Forget nested indexes of which nothing was taken."""
        nested = {
            descriptor: {entry.descriptor.digest for entry in self._entries(data) if entry.descriptor}
            for descriptor, data in self._documents.items()
            if descriptor.is_index and descriptor != root
        }
        leading = set(taken)
        # Each round goes one level up.
        while found := {each.digest for each, below in nested.items() if below & leading} - leading:
            leading |= found
        for descriptor in nested:
            if descriptor.digest not in leading:
                del self._documents[descriptor]

    def _config_platform(self, reference: Reference, child: Descriptor) -> Optional[Platform]:
        """Return the platform of a manifest whose index entry names none."""
        _, data = self._child(reference, child)
        config = parse_manifest(data).config
        if config.media_type not in CONFIG_TYPES:
            return None
        return config_platform(self._source.read_blob(reference, config, MAX_CONFIG_SIZE))

    def _child(self, reference: Reference, child: Descriptor) -> tuple[Descriptor, bytes]:
        """Fetch what an index lists, as the index says.

        Raises:
            ContentError: the index gives another size; what reads the archive would call it damaged.
        """
        descriptor, data = self._source.manifest(_at(reference, child))
        if descriptor.size != child.size:
            raise ContentError(
                f"an index of `{reference.familiar}` says that {child.digest} has {child.size} bytes: it has "
                f"{descriptor.size}; whoever made the image must fix it"
            )
        return descriptor, data

    def _fetch(self, reference: Reference, child: Descriptor, platform: Optional[Platform]) -> PlatformContent:
        descriptor, data = self._child(reference, child)
        self._documents[descriptor] = data
        return self._take(reference, descriptor, data, platform)

    def _fetch_attestation(self, reference: Reference, attestation: Descriptor) -> bool:
        """Fetch an attestation; False when the registry, perhaps a copy that somebody made, has the image only."""
        try:
            descriptor, data = self._child(reference, attestation)
        except NotFoundError:
            self._note(reference, f"its attestation {attestation.digest} is not there")
            return False
        self._documents[descriptor] = data
        self._take(reference, descriptor, data)
        return True

    def _take(
        self, reference: Reference, descriptor: Descriptor, data: bytes, platform: Optional[Platform] = None
    ) -> PlatformContent:
        """Note what an image manifest needs: its config now, its layers for later."""
        manifest = parse_manifest(data)
        if manifest.config.media_type in CONFIG_TYPES:
            config = self._source.read_blob(reference, manifest.config, MAX_CONFIG_SIZE)
            self._documents[manifest.config.plain] = config
            platform = platform or config_platform(config)
        else:
            self._layers[manifest.config.plain] = reference
        for layer in manifest.layers:
            placed = self._place(reference, layer) if layer.urls or layer.is_foreign else layer.plain
            self._layers[placed] = reference
        size = manifest.config.size + sum({layer.digest: layer.size for layer in manifest.layers}.values())
        return PlatformContent(platform, descriptor.plain, size)

    def _place(self, reference: Reference, layer: Descriptor) -> Descriptor:
        """Return a layer that may be at other addresses only, with these when its registry does not have it.

        Raises:
            ContentError: it is nowhere else, or nobody allowed to fetch it from there.
            NetworkError: it is not there either.
        """
        urls = tuple(url for url in layer.urls if is_address(url))
        origins = ", ".join(dict.fromkeys(f"`{Origin.of(url).host_port}`" for url in urls)) or "no usable address"
        name = reference.familiar
        try:
            with self._source.open_blob(BlobRequest(reference, layer.plain)):
                pass
        except NotFoundError:
            if not self._foreign or not urls:
                raise ContentError(
                    f"the layer {layer.digest} of `{name}` is not in its registry, only at {origins}",
                    hint="--foreign-layers, which fetches it from there; see whether its licence lets you"
                    if urls
                    else None,
                ) from None
            placed = dataclasses.replace(layer.plain, urls=urls)
            with self._source.open_blob(BlobRequest(reference, placed)):
                pass
            self._note(reference, f"a layer of {human_size(layer.size)} comes from {origins}, not from a registry")
            return placed
        if not self._foreign:
            self._note(
                reference,
                f"a layer of {human_size(layer.size)} has a type or addresses of its own: registries may refuse the "
                "image, and BuildKit asks these first; --foreign-layers makes an ordinary layer of it",
            )
        return layer.plain

    def _note(self, reference: Reference, text: str) -> None:
        self._notes.append(f"{reference.familiar}{self._more}: {text}")


def _check_cache(wanted: ImageRequest, root: Descriptor, data: bytes) -> None:
    """Tell build caches of BuildKit from images.

    Raises:
        ContentError: it is a cache in the form that only BuildKit reads, or is to be one and is none.
    """
    name = wanted.reference.familiar
    if root.is_index and any(child.media_type == _CACHE_CONFIG for child in parse_index(data)):
        raise ContentError(
            f"`{name}` is a build cache in BuildKit's old form, an index whose entries are layers",
            hint="export it with image-manifest=true: "
            f"--cache-to type=registry,ref={name},mode=max,image-manifest=true,oci-mediatypes=true",
        )
    is_cache = root.is_manifest and parse_manifest(data).config.media_type == _CACHE_CONFIG
    if wanted.role == "cache" and not is_cache:
        raise ContentError(
            f"`{name}` is not a build cache of BuildKit",
            hint=f"take it along as an image: {own_command('create')} {name}; one with an inline cache is a cache, too",
        )


def _odd(entry: Entry) -> tuple[Optional[Platform], str]:
    """Return the platform of an entry that is not understood, and why it is not."""
    value = entry.value if isinstance(entry.value, dict) else {}
    platform = Platform.from_json(value.get("platform"))
    return platform, f"{platform or 'an entry'} cannot be used, {entry.problem}"


def _match(
    wanted: Sequence[Platform],
    offered: Collection[Platform],
    image: ImageRequest,
    odd: Sequence[tuple[Optional[Platform], str]],
) -> list[Platform]:
    """Choose the offered platform for each wanted one.

    Raises:
        NotFoundError: for some there is none; the message has what is odd besides, what may be the reason first.
    """
    matches = [platform.best_of(offered) for platform in wanted]
    missing = [platform for platform, match in zip(wanted, matches) if match is None]
    if missing:
        has = ", ".join(map(str, offered)) or "no platform at all"
        reasons = [text for _, text in sorted(odd, key=lambda entry: entry[0] not in missing)]
        raise NotFoundError(
            "; ".join((f"has no {' and no '.join(map(str, missing))}: it has {has}", *reasons[:3])),
            hint=_way_out(image, [platform for platform, match in zip(wanted, matches) if match is not None]),
        )
    return [match for match in matches if match is not None]


def _way_out(image: ImageRequest, served: Sequence[Platform]) -> str:
    """Say what to type for an image that has only some of the wanted platforms: those."""
    if image.role != "base" or image.merge or not served:
        return "choose another image, or other platforms with --platform (--host-platform for the toolchain)"
    name, platforms = image.origin or image.reference.familiar, list(map(str, served))
    return (
        f"take it for what it has: {name},platform={','.join(platforms)} on the command line, "
        f'or in bundle.toml: images = [{{ image = "{name}", platforms = {json.dumps(platforms)} }}]'
    )


def _at(reference: Reference, child: Descriptor) -> Reference:
    return Reference(reference.registry, reference.repository, None, child.digest)
