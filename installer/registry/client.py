"""A registry to write to, per OCI distribution-spec v1.1."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar, Union

from bundles.errors import (
    AuthenticationError,
    ContentError,
    NetworkError,
    NotFoundError,
    UnavailableError,
    UnreachableError,
)
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE
from bundles.registry.auth import pull_scope, push_scope
from bundles.registry.connections import Response
from bundles.registry.read import MANIFEST_ACCEPT, announced_digest, digest_or_none, fetch_list, fetch_manifest
from bundles.registry.transport import Transport, Upload
from bundles.runtime.workers import in_parallel
from installer.registry.upload import BlobUpload, SizeLimit, cancel_upload, location, open_upload

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# A registry on the same disk gains nothing from more.
_WORKERS = 4
# An answer to a write has no body worth reading.
_ANSWER_LIMIT = 1 << 20
_MAX_PAGES = 10_000
_PIECE = 1 << 20
# So many uploads were opened in the place of a mount, and nothing was mounted.
_VAIN_MOUNTS = 3
_CATALOG_SCOPE = "registry:catalog:*"


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
        self._limit = SizeLimit(host)
        self._mounts = _Mounts()

    def speak_through(self, transport: Transport) -> None:
        """Go on with another transport: the registry speaks otherwise from now on."""
        self._transport = transport

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
        except AuthenticationError as error:
            # Who may use some repositories may not ask for the registry as such everywhere: they are asked themselves.
            if not error.login_taken:
                raise
            return
        if unreachable:
            raise unreachable

    def realms(self) -> frozenset[str]:
        """Return the addresses of the token servers that have been asked."""
        return self._transport.realms(self.host)

    def speaks_tls(self) -> bool:
        """Find out whether it speaks TLS, as `Transport.speaks_tls` does."""
        return self._transport.speaks_tls(self.host)

    def in_parallel(
        self, work: Callable[[_Item], _Result], items: Sequence[_Item], *, goes_on: bool = False
    ) -> list[_Result]:
        """Return the result of `work`, which asks this registry, for each item in order.

        The first failure, or an interruption, ends all requests, however long the registry would keep them; there are
        no more. With `goes_on` only an interruption does, and the registry can be asked after a failure, too.
        """
        if not goes_on:
            return in_parallel(work, items, _WORKERS, self._transport.close)

        def attempt(item: _Item) -> Union[_Result, NetworkError]:
            try:
                return work(item)
            except NetworkError as error:
                return error

        results = []
        for result in in_parallel(attempt, items, _WORKERS, self._transport.close):
            if isinstance(result, NetworkError):
                raise result
            results.append(result)
        return results

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Ask whether the repository has the blob."""
        return self._has_blob(repository, digest, retry=True)

    def mount_blob(self, repository: str, digest: Digest, from_repository: str, *, insist: bool = False) -> bool:
        """Make a blob of another repository available in this one. False when that cannot be: then upload it.

        A registry that has refused it once, or that only ever opened uploads instead, is not asked again.

        Args:
            repository: where it is wanted.
            digest: of the blob.
            from_repository: where it is.
            insist: whether to ask nevertheless, because it cannot be uploaded.
        """
        if not insist and self._mounts.are_useless(from_repository):
            return False
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={from_repository}"
        scope = f"{push_scope(repository)} {pull_scope(from_repository)}"
        try:
            with self._transport.request("POST", self.host, path, scope=scope, body=b"", expect=_MOUNTED) as response:
                mounted, session = response.status == 201, location(response)
        except UnavailableError:
            raise
        except NetworkError as error:
            # Who may not read there, may well write here: GitLab says 401, others 403, 404 or 405.
            if error.status is None:
                raise
            self._mounts.refused(from_repository)
            return False
        self._mounts.answered(mounted)
        if session and not mounted:
            # The registry opened an upload instead.
            cancel_upload(self._transport, self.host, scope, session)
        return mounted

    def check_write(self, repository: str) -> None:
        """Make sure that something can be written to a repository: begin an upload, and end it.

        Raises:
            NetworkError: it cannot; see the class.
        """
        begun = self._transport.retrying(self.host, lambda: open_upload(self._transport, self.host, repository))
        cancel_upload(self._transport, self.host, push_scope(repository), begun.session)

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
        upload = BlobUpload(
            self._transport,
            self.host,
            repository,
            descriptor,
            body,
            limit=self._limit,
            is_there=lambda: self._has_blob(repository, descriptor.digest, retry=False),
        )
        self._transport.retrying(self.host, upload.attempt, lambda: upload.sent)

    def copy_blob(self, repository: str, descriptor: Descriptor, from_repository: str) -> None:
        """Bring a blob of another repository into this one through here, where the registry does not mount it.

        Raises:
            NotFoundError: it is not there.
            NetworkError: see the class.
        """
        path, scope = f"/v2/{from_repository}/blobs/{descriptor.digest}", pull_scope(from_repository)
        with contextlib.ExitStack() as opened:

            def body() -> _Copied:
                return _Copied(opened.enter_context(self._transport.request("GET", self.host, path, scope=scope)), size)

            size = descriptor.size
            self.upload_blob(repository, descriptor, body)

    def read_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """Give the bytes of a blob as they come; they are not verified.

        Raises:
            NotFoundError: it is not there.
            NetworkError: see the class.
        """
        path, scope = f"/v2/{repository}/blobs/{descriptor.digest}", pull_scope(repository)
        with self._transport.request("GET", self.host, path, scope=scope) as response:
            while data := response.read(_PIECE):
                yield data

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
        try:
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
        except NetworkError as error:
            if error.status == _UNSUPPORTED_TYPE:
                error.hint = (
                    f"`{self.host}` takes no {descriptor.media_type}: have it allowed there "
                    '(in zot: "http": {"compat": ["docker2s2"]})'
                )
            raise

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

    def find_repositories(self) -> Optional[tuple[str, ...]]:
        """List the repositories of the registry; None when it shows them to nobody, or not to this login.

        Harbor wants an administrator for that, and others have no such list.
        """
        try:
            return tuple(self.repositories())
        except UnavailableError:
            raise
        except NetworkError as error:
            if error.status not in _UNLISTED:
                raise
            return None

    def repositories(self) -> Iterator[str]:
        """List the repositories of the registry. Where that is not allowed, see `find_repositories`."""
        return fetch_list(
            self._transport, self.host, "/v2/_catalog?n=1000", "repositories", scope=_CATALOG_SCOPE, pages=_MAX_PAGES
        )

    def _has_blob(self, repository: str, digest: Digest, retry: bool) -> bool:
        path = f"/v2/{repository}/blobs/{digest}"
        with self._transport.request(
            "HEAD", self.host, path, scope=pull_scope(repository), expect=_PRESENT_OR_NOT, retry=retry
        ) as response:
            return response.status == 200

    def _check(self, response: Response, descriptor: Descriptor) -> None:
        kept = digest_or_none(response.headers.get("Docker-Content-Digest", ""))
        if kept and kept != descriptor.digest:
            raise ContentError(f"{response.action}: the registry keeps {kept}, sent was {descriptor.digest}")


class _Copied:
    """A blob on its way from one repository to another."""

    def __init__(self, response: Response, size: int) -> None:
        self._response, self._size = response, size

    def __len__(self) -> int:
        return self._size

    def read(self, count: int, /) -> bytes:
        return self._response.read(count)


class _Mounts:
    """What a registry said to who wanted blobs mounted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: set[str] = set()
        self._mounted = self._opened = 0

    def are_useless(self, from_repository: str) -> bool:
        """Tell whether there is no sense in asking: it is not allowed, or never came to anything."""
        with self._lock:
            return from_repository in self._refused or (not self._mounted and self._opened >= _VAIN_MOUNTS)

    def refused(self, from_repository: str) -> None:
        with self._lock:
            self._refused.add(from_repository)

    def answered(self, mounted: bool) -> None:
        with self._lock:
            self._mounted += mounted
            self._opened += not mounted


_CREATED = frozenset({201})
_MOUNTED = frozenset({201, 202})
_GONE = frozenset({202, 404})
_UNLISTED = frozenset({400, 401, 403, 404, 405, 501})
_UNSUPPORTED_TYPE = 415
_PRESENT_OR_NOT = frozenset({200, 404})
