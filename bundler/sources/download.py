"""The download of one blob, which repairs itself."""

from __future__ import annotations

import re
from typing import Optional, Union

from bundler.sources.mirrors import Endpoint, Mirrors, all_failed
from bundler.sources.source import BlobRequest, BlobStream
from bundles.errors import ContentError, NetworkError, TooSlowError, UnavailableError
from bundles.registry.auth import pull_scope
from bundles.registry.connections import Response
from bundles.registry.transport import Transport
from bundles.registry.web_page import refuse_web_page

_SKIP = 1 << 20
_PAGE = 4096
# How much must come before an endpoint is forgiven that it was too slow.
_PROGRESS = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]+)-([0-9]+)/([0-9]+|\*)", re.ASCII)


class Download(BlobStream):
    """A blob on its way, from the first endpoint that has it.

    A connection that breaks is replaced, with a Range request for the rest. An endpoint that breaks `attempts` times
    in a row without a byte in between, is as often too slow, or cannot be asked any more, hands over to the next, in
    mid-blob. The addresses that a descriptor has itself come after all endpoints; they get no login.

    Raises:
        NetworkError: no endpoint has it; from `readinto`, none has the rest.
    """

    def __init__(self, transport: Transport, mirrors: Mirrors, request: BlobRequest) -> None:
        self._transport, self._mirrors = transport, mirrors
        self._repository, self._descriptor = request.repository, request.descriptor
        self._position = request.offset
        registry = request.repository.registry
        others = (Endpoint(registry, url=url) for url in request.descriptor.urls)
        self._waiting = [*mirrors.of(registry, request.avoid), *(each for each in others if each not in request.avoid)]
        self._failures: dict[Endpoint, NetworkError] = {}
        self._tries = 0
        self._slow = self._since_slow = 0
        self._to_skip = 0
        self._response: Optional[Response] = None
        self._endpoint: Optional[Endpoint] = None
        if self._position < self._descriptor.size:
            self._open()

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return self._endpoint

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        room = min(len(buffer), self._descriptor.size - self._position)
        if not room:
            return 0
        with memoryview(buffer) as view:
            while True:
                response = self._response or self._open()
                try:
                    self._skip(response)
                    count = response.readinto(view[:room])
                except UnavailableError as error:
                    self._broken(error)
                    continue
                if count:
                    self._advance(response, count)
                    return count
                self._broken(UnavailableError(f"{response.action}: ended at byte {self._position}"))

    def close(self) -> None:
        if self._response:
            self._response.close()
            self._response = None

    def _advance(self, response: Response, count: int) -> None:
        self._tries = 0
        self._since_slow += count
        self._position += count
        if self._position == self._descriptor.size:
            # A body of unannounced length may go on. Nobody needs what follows: the digest says whether this was it.
            with response:
                self._response = None

    def _broken(self, error: UnavailableError) -> None:
        self.close()
        self._tries += 1
        if isinstance(error, TooSlowError):
            # Some bytes come from a slow server before each failure: they are no progress.
            self._slow = 1 if self._since_slow >= _PROGRESS else self._slow + 1
            self._since_slow = 0
            self._tries = max(self._tries, self._slow)
        if self._tries >= self._transport.attempts:
            self._drop(error)
        else:
            self._transport.pause(self._waiting[0].host, self._tries, error)

    def _drop(self, error: NetworkError) -> None:
        endpoint = self._waiting.pop(0)
        self._failures[endpoint] = error
        self._mirrors.note(endpoint, error)
        self._tries = self._slow = self._since_slow = 0

    def _open(self) -> Response:
        """Ask the endpoints in turn for what is missing."""
        while self._waiting:
            endpoint = self._waiting[0]
            known = self._mirrors.failure_of(endpoint)
            if known:
                self._drop(known)
                continue
            try:
                self._response = self._request(endpoint)
            except NetworkError as error:
                self._drop(error)
                continue
            self._endpoint = endpoint
            return self._response
        digest = self._descriptor.digest
        raise all_failed(f"cannot get the blob {digest} of `{self._repository.familiar}`", self._failures)

    def _request(self, endpoint: Endpoint) -> Response:
        name = endpoint.repository(self._repository.repository)
        position, size = self._position, self._descriptor.size
        response = self._transport.request(
            "GET",
            endpoint.host,
            endpoint.url or f"/v2/{name}/blobs/{self._descriptor.digest}",
            scope=pull_scope(name),
            headers={"Range": f"bytes={position}-{size - 1}"} if position else {},
            expect=frozenset({200, 206} if position else {200}),
        )
        try:
            self._check_page(response)
            self._check(response)
        except NetworkError:
            response.close()
            raise
        # A server without ranges sends everything again.
        self._to_skip = position if response.status == 200 else 0
        return response

    def _check_page(self, response: Response) -> None:
        """Refuse a web page, unless what is sent as one is as long as the blob."""
        left = self._descriptor.size - (self._position if response.status == 206 else 0)
        if response.length != left and response.headers.get("Content-Type", "").startswith("text/html"):
            what = f"the blob {self._descriptor.digest}"
            refuse_web_page(response.url, response.headers, response.read(_PAGE), what)
            raise ContentError(f"{response.action}: sent text/html, in the place of {what}")

    def _check(self, response: Response) -> None:
        """Refuse an answer that is not the rest of this blob, before any of it is used."""
        position, size = self._position, self._descriptor.size
        expected = size
        if response.status == 206:
            expected = size - position
            header = response.headers.get("Content-Range", "")
            found = _CONTENT_RANGE.fullmatch(header.strip())
            wanted = (str(position), str(size - 1))
            if not found or found.groups()[:2] != wanted or found[3] not in (str(size), "*"):
                asked = f"bytes {position}-{size - 1} of {size}"
                raise ContentError(f"{response.action}: asked for {asked}, got `{header[:100]}`")
        if response.length is not None and response.length != expected:
            raise ContentError(f"{response.action}: announces {response.length} bytes, expected {expected}")

    def _skip(self, response: Response) -> None:
        while self._to_skip:
            skipped = len(response.read(min(self._to_skip, _SKIP)))
            if not skipped:
                raise UnavailableError(f"{response.action}: ended before byte {self._position}")
            self._to_skip -= skipped
