"""Where images come from when they come from registries."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Optional

from bundler.sources.download import Download
from bundler.sources.mirrors import Endpoint, Mirrors, all_failed
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundles.errors import NetworkError, NotFoundError, UnavailableError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.registry.auth import pull_scope
from bundles.registry.read import fetch_list, fetch_manifest, fetch_referrers
from bundles.registry.transport import Transport

# Enough for a mistyped tag; Docker Hub's largest repositories have thousands of pages.
_TAG_PAGES = 10
_SUGGESTIONS = 5
# How alike two tags must be, from 0 to 1: `12.99` should still lead to `12`.
_ALIKE = 0.5


class RegistrySource(Source):
    """Registries, each through its mirrors where there are some, see `bundler.sources.mirrors.Mirrors`."""

    def __init__(self, transport: Transport, mirrors: Mapping[str, Sequence[str]]) -> None:
        self._transport = transport
        self._mirrors = Mirrors(mirrors)
        self._refusals: dict[Endpoint, NetworkError] = {}
        self._useless: dict[Endpoint, NetworkError] = {}
        self._useful: set[Endpoint] = set()

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        try:
            return self._manifest(reference)
        except NotFoundError as failure:
            if reference.digest is None:
                raise self._with_suggestions(reference, failure) from None
            raise

    def find_manifest(self, reference: Reference) -> Optional[tuple[Descriptor, bytes]]:
        # Without the search for similar tags, which who asks whether there is something does not need.
        try:
            return self._manifest(reference)
        except NotFoundError:
            return None

    def referrers(self, repository: Reference, digest: Digest) -> tuple[bytes, ...]:
        # Most registries that lack such lists say so with 404; others in all ways that there are.
        for endpoint in self._mirrors.of(repository.registry):
            name = endpoint.repository(repository.repository)
            try:
                return fetch_referrers(self._transport, endpoint.host, name, digest)
            except UnavailableError:
                raise
            except NetworkError as error:
                if error.status is None:
                    raise
                if error.status not in (400, 404, 405):
                    self._refusals.setdefault(endpoint, error)
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        useless = [
            f"the mirror {endpoint} served nothing: {error.cause or error.message}"
            for endpoint, error in sorted(self._useless.copy().items(), key=_first)
            if endpoint not in self._useful
        ]
        unlisted = [
            f"{endpoint} does not list what is attached to images ({error.cause or error.message}): only what has a "
            "tag was found"
            for endpoint, error in sorted(self._refusals.copy().items(), key=_first)
        ]
        return (*useless, *unlisted)

    def _manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        failures: dict[Endpoint, NetworkError] = {}
        for endpoint in self._mirrors.of(reference.registry):
            known = self._mirrors.failure_of(endpoint)
            if known:
                failures[endpoint] = known
                continue
            name = endpoint.repository(reference.repository)
            try:
                found = fetch_manifest(self._transport, endpoint.host, name, reference.selector)
            except NetworkError as error:
                self._mirrors.note(endpoint, error)
                failures[endpoint] = error
                continue
            # Where the next one had to help out, this is the mirror's fault and not that of a mistyped name.
            for other, failure in failures.items():
                self._useless.setdefault(other, failure)
            self._useful.add(endpoint)
            return found
        raise all_failed(f"cannot get `{reference.familiar}`", failures)

    def open_blob(self, request: BlobRequest) -> BlobStream:
        return Download(self._transport, self._mirrors, request)

    def cancel(self) -> None:
        self._transport.close()

    def _with_suggestions(self, reference: Reference, failure: NotFoundError) -> NotFoundError:
        """Make the error for a tag that is nowhere, with tags that are. It says nothing where the registry does not."""
        unknown = False
        for endpoint in self._mirrors.of(reference.registry):
            try:
                tags = self._tags(endpoint, reference.repository)
            except NotFoundError:
                unknown = True
                continue
            except NetworkError:
                return failure
            close = difflib.get_close_matches(str(reference.tag), tags, _SUGGESTIONS, _ALIKE)
            if close:
                near = [dataclasses.replace(reference, tag=tag).familiar for tag in close]
                return _amend(failure, "", f"did you mean {', '.join(f'`{name}`' for name in near)}?")
            return failure
        return _amend(failure, f"the repository `{reference.repository}` is unknown") if unknown else failure

    def _tags(self, endpoint: Endpoint, repository: str) -> list[str]:
        name = endpoint.repository(repository)
        path = f"/v2/{name}/tags/list?n=1000"
        tags = fetch_list(
            self._transport, endpoint.host, path, "tags", scope=pull_scope(name), pages=_TAG_PAGES, retry=False
        )
        return list(tags)


def _first(item: tuple[Endpoint, NetworkError]) -> Endpoint:
    return item[0]


def _amend(failure: NotFoundError, more: str, hint: Optional[str] = None) -> NotFoundError:
    message = f"{failure.message}; {more}" if more else failure.message
    return NotFoundError(message, hint=hint or failure.hint, status=failure.status, codes=failure.codes)
