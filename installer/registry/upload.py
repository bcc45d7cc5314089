"""Blobs on their way into a registry: whole, and in pieces where somebody on the way takes no more at once."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Callable
from typing import Optional

from bundles.errors import (
    AuthenticationError,
    ContentError,
    NetworkError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from bundles.oci.descriptor import Descriptor
from bundles.registry.auth import push_scope
from bundles.registry.connections import Outgoing, Response
from bundles.registry.read import digest_or_none
from bundles.registry.transport import Transport, Upload
from bundles.registry.urls import join
from bundles.runtime.sizes import human_size

# The registry forgot the upload, for instance because it was restarted: a new one may well succeed.
_FORGOTTEN = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
_OUT_OF_PLACE = 416
# A piece is kept in memory until the registry has it, by each worker. 8 MiB: storages want no less than 5 for a part.
_FIRST_PIECE = 8 << 20
_SMALLEST_PIECE = 16 << 10
_LARGEST_PIECE = 64 << 20
_HELD = re.compile(r"(?:bytes[ =])?0-(\d{1,18})")

_ACCEPTED = frozenset({202})
_TAKEN = frozenset({202, 204})
_CREATED = frozenset({201})
# distribution wants the right to delete for it, and what a token lacks is not asked for.
_CANCELLED = frozenset({200, 202, 204, 401, 403})
_STATUS = frozenset({200, 202, 204})


class SizeLimit:
    """How large a request may be that reaches a registry, as far as that is known: learned from 413s. Thread-safe."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._piece: Optional[int] = None
        self._taken = 0
        self._refused = 0
        self._least = 0

    @property
    def piece(self) -> Optional[int]:
        """How many bytes are sent at once; None while no limit was met."""
        with self._lock:
            return self._piece

    def took(self, size: int) -> None:
        """Remember that a request of this size came through."""
        with self._lock:
            self._taken = max(self._taken, size)

    def wants(self, least: int) -> None:
        """Remember how many bytes the registry wants in a piece at least: OCI-Chunk-Min-Length."""
        with self._lock:
            self._least = min(max(least, self._least), _LARGEST_PIECE)
            if self._piece is not None:
                self._piece = max(self._piece, self._least)

    def refuse(self, size: int, error: TooLargeError) -> None:
        """Remember that a request of this size was refused.

        Raises:
            TooLargeError: nothing smaller is worth a try; it says what the limit is, and whose.
        """
        with self._lock:
            self._refused = min(self._refused or size, size)
            if self._piece is None or self._piece >= size:
                half = 1 << max(size - 1, 1).bit_length() - 1
                self._piece = max(min(half, _FIRST_PIECE), self._least)
            if self._piece < _SMALLEST_PIECE or self._piece >= size:
                least = human_size(self._least or _SMALLEST_PIECE)
                why = "that the registry takes in a piece" if self._least else "that is tried"
                raise self._problem(error, f"and {least} is the least {why}")

    def no_pieces(self, error: NetworkError, refused: TooLargeError) -> TooLargeError:
        """Return the error for a registry that refuses a piece, and not for its size."""
        with self._lock:
            return self._problem(refused, f"and the registry takes no pieces: {error.said or error.message}")

    def _problem(self, error: TooLargeError, otherwise: str) -> TooLargeError:
        taken = f", {human_size(self._taken)} came through" if self._taken else ""
        if error.codes:
            whose, hint = f"`{self._host}` itself", "ask who administers it to take larger uploads"
        else:
            named = f", which calls itself `{error.server}`," if error.server else ""
            whose = f"a proxy in front of `{self._host}`{named}"
            hint = (
                f"have its administrator raise the limit on the way to `{self._host}` (nginx: client_max_body_size 0), "
                "or push to the registry past the proxy; what is there already is not sent again"
            )
        return TooLargeError(
            f"{whose} limits the size of an upload: {human_size(self._refused)} were refused with 413{taken}, "
            f"{otherwise}",
            hint=hint,
            status=error.status,
            codes=error.codes,
            said=error.said,
        )


class BlobUpload:
    """One blob on its way. `attempt` is called until it does not raise UnavailableError; it goes on where it was.

    Args:
        transport: the way to the registry.
        host: the registry.
        repository: where it goes.
        descriptor: what it is.
        body: bytes, or a callable that gives a fresh `Body` for each try.
        limit: what is known of the way there.
        is_there: whether the registry has it.
    """

    def __init__(
        self,
        transport: Transport,
        host: str,
        repository: str,
        descriptor: Descriptor,
        body: Upload,
        *,
        limit: SizeLimit,
        is_there: Callable[[], bool],
    ) -> None:
        self._transport, self._host, self._repository = transport, host, repository
        self._descriptor, self._body, self._limit, self._is_there = descriptor, body, limit, is_there
        self._is_tried = False
        self._session = ""
        self._pieces: Optional[_Pieces] = None
        self._refused: Optional[TooLargeError] = None

    @property
    def sent(self) -> int:
        """How many bytes the registry has taken in pieces."""
        return self._pieces.sent if self._pieces else 0

    def attempt(self) -> None:
        """Put the blob into the repository. On return it is there, verified by the registry.

        Raises:
            ReadError: `body` failed or ended early.
            UnavailableError: another attempt may succeed.
            TooLargeError: somebody on the way takes neither the whole nor pieces.
            NetworkError: the registry refused.
        """
        if self._pieces and self._is_resumed():
            return self._send_pieces(self._pieces)
        self._pieces = None
        if self._is_tried and self._is_there():
            return None
        self._is_tried = True
        self._session = self._open()
        piece = self._limit.piece
        if piece is None or self._descriptor.size <= piece:
            try:
                return self._finish(self._body)
            except TooLargeError as error:
                self._limit.refuse(self._descriptor.size, error)
                self._refused = error
            cancel_upload(self._transport, self._host, push_scope(self._repository), self._session)
            self._session = self._open()
        self._pieces = _Pieces(self._body, self._descriptor.size)
        return self._send_pieces(self._pieces)

    def _open(self) -> str:
        begun = open_upload(self._transport, self._host, self._repository)
        self._limit.wants(begun.least)
        return begun.session

    def _finish(self, body: Upload) -> None:
        url = f"{self._session}{'&' if '?' in self._session else '?'}digest={self._descriptor.digest}"
        try:
            with self._request("PUT", url, body, _CREATED) as response:
                kept = digest_or_none(response.headers.get("Docker-Content-Digest", ""))
                if kept and kept != self._descriptor.digest:
                    sent = self._descriptor.digest
                    raise ContentError(f"{response.action}: the registry keeps {kept}, sent was {sent}")
        except AuthenticationError as error:
            raise self._full(error) from None
        self._limit.took(0 if self._pieces else self._descriptor.size)

    def _send_pieces(self, pieces: _Pieces) -> None:
        while True:
            piece = pieces.next(self._limit.piece or _FIRST_PIECE)
            if not piece:
                return self._finish(b"")
            place = f"{pieces.sent}-{pieces.sent + len(piece) - 1}"
            try:
                with self._request("PATCH", self._session, piece, _TAKEN, {"Content-Range": place}) as response:
                    self._session = location(response) or self._session
            except TooLargeError as error:
                self._refused = error
                self._limit.refuse(len(piece), error)
            except UnavailableError:
                raise
            except AuthenticationError as error:
                raise self._full(error) from None
            except NetworkError as error:
                if pieces.sent or error.status is None or self._refused is None:
                    raise
                raise self._limit.no_pieces(error, self._refused) from None
            else:
                self._limit.took(len(piece))
                pieces.done()

    def _is_resumed(self) -> bool:
        """Ask how much of the upload the registry has. False when it does not say, or something that cannot be."""
        try:
            with self._request("GET", self._session, None, _STATUS) as response:
                held = _HELD.fullmatch(response.headers.get("Range", "").strip())
                session = location(response)
        except NetworkError as error:
            if isinstance(error, UnavailableError) and _FORGOTTEN.isdisjoint(error.codes):
                raise
            return False
        if self._pieces is None or held is None:
            return False
        self._session = session or self._session
        # `0-0` is what is said of nothing, too.
        return self._pieces.go_on(int(held[1]) + 1) or (held[1] == "0" and self._pieces.go_on(0))

    def _request(
        self,
        method: str,
        path: str,
        body: Optional[Upload],
        expect: frozenset[int],
        headers: Optional[dict[str, str]] = None,
    ) -> Response:
        scope = push_scope(self._repository)
        kind = {"Content-Type": "application/octet-stream"} if method in ("PUT", "PATCH") else {}
        try:
            return self._transport.request(
                method,
                self._host,
                path,
                scope=scope,
                headers={**kind, **(headers or {})},
                body=body,
                expect=expect,
                retry=False,
            )
        except NetworkError as error:
            if _FORGOTTEN.isdisjoint(error.codes) and error.status != _OUT_OF_PLACE:
                raise
            raise UnavailableError(error.message, status=error.status, codes=error.codes, said=error.said) from None

    def _full(self, error: AuthenticationError) -> NetworkError:
        """Return the error for a 403 in the middle: the login may push, since an upload was opened. So it is this one.

        Harbor has a quota for each project, and says so with DENIED.
        """
        if error.status != 403:
            return error
        return NetworkError(
            f"`{self._host}` opened an upload to `{self._repository}`, and then refused its content: {error.said}",
            hint="if that is a quota, have it raised, or what is not needed deleted there (in Harbor: Project Quotas); "
            "then run this again, and what is there is not sent again",
            status=error.status,
            codes=error.codes,
            said=error.said,
        )


class _Pieces:
    """A body that is read once, of which each piece is kept until the registry has it."""

    def __init__(self, body: Upload, size: int) -> None:
        self._reader = Outgoing(body()) if callable(body) else None
        self._pending = memoryview(b"" if callable(body) else body)
        self._unread = size if callable(body) else 0
        self._asked = 0
        self.sent = 0

    def next(self, size: int) -> _Piece:
        """Return at most so many bytes that the registry does not have; empty at the end."""
        if self._reader and self._unread and len(self._pending) < size:
            buffer = bytearray(min(size, len(self._pending) + self._unread))
            filled = len(self._pending)
            buffer[:filled] = self._pending
            while filled < len(buffer):
                data = self._reader.read(len(buffer) - filled)
                buffer[filled : filled + len(data)] = data
                filled += len(data)
                self._unread -= len(data)
            self._pending = memoryview(buffer)
        self._asked = min(size, len(self._pending))
        return _Piece(self._pending[: self._asked])

    def done(self) -> None:
        """Let go of the last piece, which the registry has."""
        self._pending = self._pending[self._asked :]
        self.sent += self._asked
        self._asked = 0

    def go_on(self, held: int) -> bool:
        """Continue behind `held` bytes. False when that is neither before nor behind the last piece."""
        if held == self.sent + self._asked:
            self.done()
            return True
        return held == self.sent


class _Piece:
    """A piece as a body, as often as it is asked for."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._read = data, 0

    def __call__(self) -> _Piece:
        return _Piece(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def read(self, count: int, /) -> memoryview:
        data = self._data[self._read : self._read + count]
        self._read += len(data)
        return data


@dataclasses.dataclass(frozen=True)
class Begun:
    """An upload that a registry has opened: where it goes on, and how many bytes a piece has to have at least."""

    session: str
    least: int


def open_upload(transport: Transport, host: str, repository: str) -> Begun:
    """Begin an upload. There are no retries.

    Raises:
        NotFoundError: the repository is not there, and is not made by this.
        NetworkError: the registry does not allow it, or failed.
    """
    path = f"/v2/{repository}/blobs/uploads/"
    try:
        with transport.request(
            "POST", host, path, scope=push_scope(repository), body=b"", expect=_ACCEPTED, retry=False
        ) as response:
            session = location(response)
            least = response.headers.get("OCI-Chunk-Min-Length", "")
    except NotFoundError as error:
        raise _missing_repository(host, repository, error) from None
    if not session:
        raise NetworkError(f"`{host}` opened an upload to `{repository}` without saying where")
    return Begun(session, int(least[:18]) if least.isascii() and least.isdigit() else 0)


def cancel_upload(transport: Transport, host: str, scope: str, session: str) -> None:
    """End an upload that was opened in vain. It would expire by itself, so that a failure does no harm.

    `scope` is that with which it was opened: nobody logs in for this, so it takes a login that is known.
    """
    with contextlib.suppress(NetworkError):
        transport.request("DELETE", host, session, scope=scope, expect=_CANCELLED, retry=False).close()


def location(response: Response) -> str:
    """Return where an upload goes on, as an absolute URL; empty when the registry does not say."""
    found = response.headers.get("Location", "")
    return join(response.url, found) if found else ""


def _missing_repository(host: str, repository: str, error: NotFoundError) -> NotFoundError:
    """Return the error for a repository that a push does not make."""
    return NotFoundError(
        f"`{host}` has no repository `{repository}`, and makes none on a push: {error.said}",
        cause="the repository is not there, and a push does not make it",
        hint="have it made there (in ECR: aws ecr create-repository --repository-name NAME, or a repository creation "
        "template, which makes all that are needed)",
        status=error.status,
        codes=error.codes,
        said=error.said,
    )
