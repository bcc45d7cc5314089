"""A source: where the bytes of an image come from, as everything that plans and writes sees it."""

from __future__ import annotations

import abc
import dataclasses
from typing import Optional, Union

from bundler.sources.mirrors import Endpoint
from bundles.errors import ContentError, NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.runtime.closeable import Closeable


@dataclasses.dataclass(frozen=True)
class BlobRequest:
    """A blob to read.

    Args:
        repository: any reference to the repository that has it.
        descriptor: the blob.
        offset: the first byte wanted.
        avoid: endpoints that sent wrong bytes, see `BlobStream.endpoint`.
    """

    repository: Reference
    descriptor: Descriptor
    offset: int = 0
    avoid: frozenset[Endpoint] = frozenset()


class Source(abc.ABC):
    """Where images come from. Thread-safe.

    root, data = source.manifest(Reference.parse("debian:12"))
    for layer in parse_manifest(data).layers:
        with source.open_blob(BlobRequest(reference, layer)) as stream:
            ...

    A manifest's bytes are verified here; a blob's are verified by whoever reads the stream to its end.
    """

    @abc.abstractmethod
    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """Return a manifest or index: its descriptor, computed from the bytes, and the bytes as they came.

        Raises:
            NotFoundError: it is not there; the message suggests tags that are.
            NetworkError: it cannot be had.
        """

    def find_manifest(self, reference: Reference) -> Optional[tuple[Descriptor, bytes]]:
        """Return what `manifest` does, or None when it is nowhere.

        Raises:
            NetworkError: whether it is there cannot be told.
        """
        try:
            return self.manifest(reference)
        except NotFoundError:
            return None

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        """Return which manifest a name stands for where that is known without reading it; None where it is not."""
        return None

    def referrers(self, repository: Reference, digest: Digest) -> tuple[bytes, ...]:
        """Return the pages of the list of what refers to a manifest (distribution-spec v1.1 "Listing Referrers").

        Each is an image index. Empty where there are no such lists.

        Raises:
            NetworkError: a registry failed.
        """
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the answers so far."""
        return ()

    @abc.abstractmethod
    def open_blob(self, request: BlobRequest) -> BlobStream:
        """Begin to read a blob; the caller closes the stream and verifies the digest.

        Raises:
            ContentError: there is no endpoint besides those to avoid, or none sends content of this size.
            NetworkError: no endpoint has it.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """End what other threads wait for, with errors. Nothing can be had from the source afterwards."""

    def read_blob(self, repository: Reference, descriptor: Descriptor, limit: int) -> bytes:
        """Read a small blob as a whole, verified; an endpoint that sends wrong bytes is passed over.

        Raises:
            ContentError: it is larger than `limit`, or wrong wherever it comes from.
            NetworkError: no endpoint has it.
        """
        what = f"the blob {descriptor.digest} of `{repository.familiar}`"
        if descriptor.size > limit:
            raise ContentError(f"{what} has {descriptor.size} bytes: expected at most {limit}")
        avoid: frozenset[Endpoint] = frozenset()
        while True:
            with self.open_blob(BlobRequest(repository, descriptor, avoid=avoid)) as stream:
                data = bytearray()
                buffer = bytearray(min(1 << 20, descriptor.size))
                while count := stream.readinto(buffer):
                    data += buffer[:count]
                endpoint = stream.endpoint
            if Digest.of(bytes(data)) == descriptor.digest:
                return bytes(data)
            if endpoint is None or endpoint in avoid:
                raise ContentError(f"{what} has other bytes than its digest says")
            avoid |= {endpoint}


class SourceAround(Source):
    """Another source; those that change something of it override just that."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        return self._source.manifest(reference)

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        return self._source.known_digest(reference)

    def referrers(self, repository: Reference, digest: Digest) -> tuple[bytes, ...]:
        return self._source.referrers(repository, digest)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    def open_blob(self, request: BlobRequest) -> BlobStream:
        return self._source.open_blob(request)

    def cancel(self) -> None:
        self._source.cancel()


class BlobStream(Closeable):
    """The bytes of one blob, from an offset on. A context manager, for one thread.

    with source.open_blob(request) as stream:
        while count := stream.readinto(buffer):
            ...
    """

    @property
    @abc.abstractmethod
    def endpoint(self) -> Optional[Endpoint]:
        """Who sent the last bytes; None before the first request."""

    @abc.abstractmethod
    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        """Put the next bytes into `buffer`; 0 only at the end. Never more than the descriptor's size in all.

        Raises:
            NetworkError: the rest cannot be had.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give back the connection. May be called at any point, and more than once."""
