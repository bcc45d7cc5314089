"""A source: where the bytes of an image come from, as everything that plans and writes sees it."""

from __future__ import annotations

import abc
from typing import Optional, Union

from bundler.sources.mirrors import Endpoint
from bundles.errors import ContentError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.runtime.closeable import Closeable


class Source(abc.ABC):
    """Where images come from. Thread-safe.

    root, data = source.manifest(Reference.parse("debian:12"))
    for layer in parse_manifest(data).layers:
        with source.open_blob(reference, layer) as stream:
            ...

    A manifest's bytes are verified here; a blob's are verified by whoever reads the stream to its end.
    """

    @abc.abstractmethod
    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """A manifest or index: its descriptor, computed from the bytes, and the bytes as they came.

        Raises:
            NotFoundError: it is not there; the message suggests tags that are.
            NetworkError: it cannot be had.
        """

    @abc.abstractmethod
    def open_blob(
        self,
        repository: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        avoid: frozenset[Endpoint] = frozenset(),
    ) -> BlobStream:
        """Begin to read a blob at `offset`; the caller closes the stream and verifies the digest.

        Args:
            repository: any reference to the repository that has it.
            descriptor: the blob.
            offset: the first byte wanted.
            avoid: endpoints that sent wrong bytes, see `BlobStream.endpoint`.

        Raises:
            ContentError: there is no endpoint besides those to avoid, or none sends content of this size.
            NetworkError: no endpoint has it.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """End what other threads wait for, with errors. Nothing can be had from the source afterwards."""

    def read_blob(self, repository: Reference, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob as a whole, verified; an endpoint that sends wrong bytes is passed over.

        Raises:
            ContentError: it is larger than `limit`, or wrong wherever it comes from.
            NetworkError: no endpoint has it.
        """
        what = f"the blob {descriptor.digest} of `{repository.familiar}`"
        if descriptor.size > limit:
            raise ContentError(f"{what} has {descriptor.size} bytes: expected at most {limit}")
        avoid: frozenset[Endpoint] = frozenset()
        while True:
            with self.open_blob(repository, descriptor, 0, avoid) as stream:
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

    def open_blob(
        self,
        repository: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        avoid: frozenset[Endpoint] = frozenset(),
    ) -> BlobStream:
        return self._source.open_blob(repository, descriptor, offset, avoid)

    def cancel(self) -> None:
        self._source.cancel()


class BlobStream(Closeable):
    """The bytes of one blob, from an offset on. A context manager, for one thread.

    with source.open_blob(repository, descriptor) as stream:
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
