"""What the registry has of tapes: documents whole, contents as streams, all of it compared with its digest."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Iterator, Mapping
from typing import Optional

from bundles.errors import ContentError, NotFoundError, UnavailableError
from bundles.oci.descriptor import OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_MANIFEST_SIZE
from bundles.registry.auth import pull_scope
from bundles.registry.urls import Origin
from installer.replay.registry import FAILURES, Registry, Response, describe

_BLOCK = 128 << 10
# A tape of 10,000 answers with long URLs has some 10 MB.
_MOST_DOCUMENT = 64 << 20


class Blobs:
    """A repository of a registry. Thread-safe, as that is.

    Args:
        registry: the one that has it.
        repository: the one to read from.
        patience: seconds for which a registry that does not answer, since it is being started, is asked again.
    """

    def __init__(self, registry: Registry, repository: str, patience: float = 10.0) -> None:
        self._registry, self._repository, self._patience = registry, repository, patience

    @property
    def refusal(self) -> Optional[str]:
        """See `Registry.refusal`."""
        return self._registry.refusal

    def manifest(self, digest: Digest) -> bytes:
        """Fetch a manifest by its digest, verified.

        Raises:
            NotFoundError: it is not there.
            AuthenticationError: the registry wants another login, or a right that this one does not have.
            ContentError: its bytes are others.
            UnavailableError: the registry does not answer, or not to the end.
        """
        return self._document("manifests", digest, {"Accept": OCI_MANIFEST}, None, MAX_MANIFEST_SIZE)

    def document(self, descriptor: Descriptor) -> bytes:
        """Fetch a small blob, verified; raises as `manifest` does."""
        return self._document("blobs", descriptor.digest, {}, descriptor.size, _MOST_DOCUMENT)

    def _document(self, kind: str, digest: Digest, headers: Mapping[str, str], size: Optional[int], most: int) -> bytes:
        try:
            with self._get(kind, digest, headers) as response:
                data = response.read(most)
                announced = response.announced
        except FAILURES as error:
            raise self._unavailable(error) from None
        name = self._registry.name
        # A read with a size gives what there is when the connection ends, and does not say so. What the registry
        # itself announces shorter than it was is damage there.
        expected = size if announced is None else announced
        if expected is not None and len(data) < min(expected, most):
            raise UnavailableError(f"`{name}` broke off in {digest}: {len(data)} of {expected} bytes came")
        if Digest.of(data) != digest:
            raise ContentError(f"{digest} on `{name}` has other bytes than its digest says")
        return data

    def open(self, content: Descriptor, start: int, size: int) -> Iterator[bytes]:
        """Give `size` bytes of a blob from `start` on. Of a whole one the end is given only when all of it was right.

        Whatever can be known beforehand is raised by this call, as `manifest` does it.

        Raises:
            OSError: while it is read: the rest cannot be had, or is not what the digest says.
        """
        headers = {} if size == content.size else {"Range": f"bytes={start}-{start + size - 1}"}
        response = self._get("blobs", content.digest, headers)
        skipped = start if response.status == 200 else 0
        return _pieces(response, skipped, size, content if size == content.size else None)

    def _get(self, kind: str, digest: Digest, headers: Mapping[str, str]) -> Response:
        path, name = f"/v2/{self._repository}/{kind}/{digest}", self._registry.name
        deadline = time.monotonic() + self._patience
        while True:
            try:
                response = self._registry.get(path, pull_scope(self._repository), headers)
                break
            except FAILURES as error:
                if time.monotonic() > deadline:
                    raise self._unavailable(error) from None
            time.sleep(0.1)
        if response.status in (200, 206):
            return response
        response.close()
        if response.status == 404:
            raise NotFoundError(f"{digest} is not on `{name}`", status=404)
        where = Origin.of(response.url).host_port
        raise UnavailableError(f"`{where}` answers {response.status} for {path}", status=response.status)

    def _unavailable(self, error: Exception) -> UnavailableError:
        return UnavailableError(f"the registry at `{self._registry.name}` does not answer: {describe(error)}")


def _pieces(response: Response, skipped: int, size: int, whole: Optional[Descriptor]) -> Iterator[bytes]:
    with response:
        hasher, held = hashlib.sha256(), b""
        try:
            while skipped and (data := response.read(min(skipped, _BLOCK))):
                skipped -= len(data)
            while size and (data := response.read(min(size, _BLOCK))):
                size -= len(data)
                hasher.update(data)
                if held:
                    yield held
                held = data
        except http.client.HTTPException as error:
            raise ConnectionError(f"it broke off: {error or type(error).__name__}") from None
        if size:
            raise ConnectionError(f"it ends {size} bytes early")
        if whole and f"sha256:{hasher.hexdigest()}" != str(whole.digest):
            raise ConnectionError("it has other bytes than its digest says")
        yield held
