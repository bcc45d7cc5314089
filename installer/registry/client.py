"""A registry to write to, per OCI distribution-spec v1.1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar

from bundles.errors import ContentError, NetworkError, NotFoundError, UnavailableError, UnreachableError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE
from bundles.registry.auth import pull_scope, push_scope
from bundles.registry.connections import Response
from bundles.registry.read import MANIFEST_ACCEPT, announced_digest, digest_or_none, fetch_list, fetch_manifest
from bundles.registry.transport import Transport, Upload
from bundles.registry.urls import join
from bundles.runtime.workers import in_parallel

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# A registry on the same disk gains nothing from more.
_WORKERS = 4
# An answer to a write has no body worth reading.
_ANSWER_LIMIT = 1 << 20
_MAX_PAGES = 10_000
_CATALOG_SCOPE = "registry:catalog:*"
# The registry forgot the upload, for instance because it was restarted: a new one may well succeed.
_FORGOTTEN = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})


class Registry:
    """One registry. Thread-safe, as its transport is.

    registry = Registry(transport, "localhost:5000")
    if not registry.has_blob("library/debian", layer.digest):
        registry.upload_blob("library/debian", layer, lambda: archive.open(layer))
    registry.put_manifest("library/debian", "12", descriptor, data)

    All methods raise NetworkError and its kinds as `Transport.request` does: AuthenticationError for a login that is
    missing or refused, UnavailableError when retries did not help; `status` and `codes` tell what the registry said.
    """

    def __init__(self, transport: Transport, host: str) -> None:
        self._transport = transport
        self.host = host

    def ping(self) -> None:
        """Make sure that a registry answers there now, and takes our login. Whoever waits for one asks again.

        Raises:
            NetworkError: what answers is no registry, or nothing does.
            UnreachableError: nobody listens there; that is asked once only.
        """

        def ask() -> Optional[UnreachableError]:
            try:
                self._transport.fetch("GET", self.host, "/v2/", scope="", limit=_ANSWER_LIMIT, retry=False)
            except UnreachableError as error:
                # Handed out, not raised: it would be tried again.
                return error
            return None

        try:
            # Where Docker listens for a registry that does not listen yet, connections are made, and broken.
            unreachable = self._transport.retrying(self.host, ask)
        except NotFoundError as error:
            raise NetworkError(f"`{self.host}` answers, but is not a registry: {error.message}", status=404) from None
        if unreachable:
            raise unreachable

    def in_parallel(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Return the result of `work`, which asks this registry, for each item in order.

        The first failure, or an interruption, ends all requests, however long the registry would keep them; there are
        no more.
        """
        return in_parallel(work, items, _WORKERS, self._transport.close)

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Ask whether the repository has the blob."""
        return self._has_blob(repository, digest, retry=True)

    def mount_blob(self, repository: str, digest: Digest, from_repository: str) -> bool:
        """Make a blob of another repository available in this one. False when the registry cannot: then upload it."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={from_repository}"
        scope = f"{push_scope(repository)} {pull_scope(from_repository)}"
        with self._transport.request("POST", self.host, path, scope=scope, body=b"", expect=_MOUNTED) as response:
            if response.status == 201:
                return True
            session = _location(response)
        # The registry opened an upload instead.
        self._cancel(repository, session)
        return False

    def check_write(self, repository: str) -> None:
        """Make sure that something can be written to a repository: begin an upload, and end it.

        Raises:
            NetworkError: it cannot; see the class.
        """
        scope = push_scope(repository)
        path = f"/v2/{repository}/blobs/uploads/"
        with self._transport.request("POST", self.host, path, scope=scope, body=b"", expect=_STARTED) as response:
            session = _location(response)
        self._cancel(repository, session)

    def _cancel(self, repository: str, session: Optional[str]) -> None:
        """End an upload. It would expire by itself, so that failing to end it does no harm."""
        if session:
            with contextlib.suppress(NetworkError):
                self._transport.request(
                    "DELETE", self.host, session, scope=push_scope(repository), expect=_CANCELLED, retry=False
                ).close()

    def upload_blob(self, repository: str, descriptor: Descriptor, body: Upload) -> None:
        """Put a blob into the repository. On return it is there, verified by the registry.

        Args:
            repository: where it goes.
            descriptor: what it is.
            body: bytes, or a callable that gives a fresh `Body` for each try.

        Raises:
            ReadError: `body` failed or ended early.
            NetworkError: see the class.
        """
        first = True

        def attempt() -> None:
            nonlocal first
            if not first and self._has_blob(repository, descriptor.digest, retry=False):
                return
            first = False
            self._upload(repository, descriptor, body)

        self._transport.retrying(self.host, attempt)

    def manifest_digest(self, repository: str, selector: str) -> Optional[Digest]:
        """Ask for the digest of the manifest under a tag or digest, None when there is none."""
        path = f"/v2/{repository}/manifests/{selector}"
        headers = {"Accept": MANIFEST_ACCEPT}
        with self._transport.request(
            "HEAD", self.host, path, scope=pull_scope(repository), headers=headers, expect=_PRESENT_OR_NOT
        ) as response:
            if response.status == 404:
                return None
            announced = announced_digest(response.headers)
        return announced or self.get_manifest(repository, selector)[0].digest

    def get_manifest(self, repository: str, selector: str) -> tuple[Descriptor, bytes]:
        """Fetch the manifest under a tag or digest, verified.

        Raises:
            NotFoundError: there is none.
            ContentError: its bytes are not what was asked for.
        """
        return fetch_manifest(self._transport, self.host, repository, selector)

    def put_manifest(self, repository: str, selector: str, descriptor: Descriptor, data: bytes) -> None:
        """Put a manifest or index under a tag or digest; what it refers to has to be there.

        Raises:
            ContentError: the registry keeps something else than `data`.
            NetworkError: it was refused; `codes` has MANIFEST_BLOB_UNKNOWN when something it refers to is missing.
        """
        path = f"/v2/{repository}/manifests/{selector}"
        with self._transport.request(
            "PUT",
            self.host,
            path,
            scope=push_scope(repository),
            headers={"Content-Type": descriptor.media_type},
            body=data,
            expect=_CREATED,
        ) as response:
            self._check(response, descriptor)

    def read_config(self, repository: str, config: Descriptor) -> bytes:
        """Fetch the config of an image, verified.

        Raises:
            NotFoundError: it is not there.
            ContentError: its bytes are not what the descriptor says.
        """
        path = f"/v2/{repository}/blobs/{config.digest}"
        scope = pull_scope(repository)
        data = self._transport.fetch("GET", self.host, path, scope=scope, limit=MAX_CONFIG_SIZE).data
        if Digest.of(data) != config.digest:
            raise ContentError(f"{self.host}{path} has other bytes than its digest says")
        return data

    def delete_manifest(self, repository: str, selector: str) -> None:
        """Remove a tag; or a manifest by digest, and every tag of it. What is not there is no error.

        Raises:
            NetworkError: the registry does not allow it. distribution 2 removes no single tags (400 DIGEST_INVALID).
        """
        path, scope = f"/v2/{repository}/manifests/{selector}", f"repository:{repository}:delete,pull"
        self._transport.request("DELETE", self.host, path, scope=scope, expect=_GONE).close()

    def tags(self, repository: str) -> tuple[str, ...]:
        """List the tags of a repository, none when it is unknown."""
        path, scope = f"/v2/{repository}/tags/list?n=1000", pull_scope(repository)
        try:
            return tuple(fetch_list(self._transport, self.host, path, "tags", scope=scope, pages=_MAX_PAGES))
        except NotFoundError:
            return ()

    def repositories(self) -> Iterator[str]:
        """List the repositories of the registry."""
        return fetch_list(
            self._transport, self.host, "/v2/_catalog?n=1000", "repositories", scope=_CATALOG_SCOPE, pages=_MAX_PAGES
        )

    def _has_blob(self, repository: str, digest: Digest, retry: bool) -> bool:
        path = f"/v2/{repository}/blobs/{digest}"
        with self._transport.request(
            "HEAD", self.host, path, scope=pull_scope(repository), expect=_PRESENT_OR_NOT, retry=retry
        ) as response:
            return response.status == 200

    def _upload(self, repository: str, descriptor: Descriptor, body: Upload) -> None:
        scope = push_scope(repository)
        path = f"/v2/{repository}/blobs/uploads/"
        with self._transport.request(
            "POST", self.host, path, scope=scope, body=b"", expect=_ACCEPTED, retry=False
        ) as response:
            session = _location(response)
        if not session:
            raise NetworkError(f"`{self.host}` opened an upload to `{repository}` without saying where")
        url = f"{session}{'&' if '?' in session else '?'}digest={descriptor.digest}"
        headers = {"Content-Type": "application/octet-stream"}
        try:
            with self._transport.request(
                "PUT", self.host, url, scope=scope, headers=headers, body=body, expect=_CREATED, retry=False
            ) as response:
                self._check(response, descriptor)
        except NetworkError as error:
            if _FORGOTTEN.isdisjoint(error.codes):
                raise
            raise UnavailableError(error.message, status=error.status, codes=error.codes) from None

    def _check(self, response: Response, descriptor: Descriptor) -> None:
        kept = digest_or_none(response.headers.get("Docker-Content-Digest", ""))
        if kept and kept != descriptor.digest:
            raise ContentError(f"{response.action}: the registry keeps {kept}, sent was {descriptor.digest}")


_CREATED = frozenset({201})
_ACCEPTED = frozenset({202})
_MOUNTED = frozenset({201, 202})
_STARTED = frozenset({202})
_CANCELLED = frozenset({200, 202, 204})
_GONE = frozenset({202, 404})
_PRESENT_OR_NOT = frozenset({200, 404})


def _location(response: Response) -> str:
    """Return where an upload goes on, as an absolute URL; empty when the registry does not say."""
    location = response.headers.get("Location", "")
    return join(response.url, location) if location else ""
