"""The proxy: reads requests, through CONNECT too, and lets a handler answer them. Nothing is passed on by itself."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import io
import socket
import ssl
import sys
import threading
from collections.abc import Generator, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Optional

from bundles.oci.digest import Digest
from bundles.proxy.certificates import Authority
from bundles.proxy.room import Room
from bundles.runtime.closeable import Closeable
from bundles.runtime.terminal import printable

# A git client sends kilobytes.
_MOST_BODY = 32 << 20
_BLOCK = 64 << 10
_MOST_CONNECTIONS = 256
# Seconds without a byte.
_TIMEOUT = 600
_ASK = 0.05  # seconds between two looks whether the server is to end: whoever closes it waits for that


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client wants. `url` is absolute, the names of headers are in lower case.

    `body` is empty where the handler does not hold bodies; `digest` is that of the body, None when there was none.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    digest: Optional[Digest] = None

    @property
    def body_digest(self) -> Optional[Digest]:
        """The digest of the body, None when it is empty."""
        return self.digest or (Digest.of(self.body) if self.body else None)


@dataclasses.dataclass(frozen=True)
class Response:
    """What a client gets.

    Args:
        status: of HTTP.
        headers: all but those that frame the body.
        length: bytes of the body, also in an answer to HEAD; None when it is not known beforehand.
        pieces: the body. A generator is closed when the client has gone; when it raises an OSError, since the rest
            cannot be had, the client sees a broken connection.
        reason: the phrase after the status; None for the usual one.
    """

    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    length: Optional[int] = 0
    pieces: Iterable[bytes] = ()
    reason: Optional[str] = None

    @classmethod
    def text(cls, status: int, text: str, reason: Optional[str] = None) -> Response:
        """Return an answer for people, whose clients show it on terminals."""
        data = f"{printable(text)}\n".encode()
        return cls(status, {"content-type": "text/plain; charset=utf-8"}, len(data), [data], reason)


Reply = Callable[[Response], None]


class Handler(abc.ABC):
    """One end of the proxy. Its methods are called by many threads."""

    holds_bodies = True
    """Whether requests come with their bodies; else with the digests of these alone, however many there are at once."""

    @abc.abstractmethod
    def answer(self, request: Request, reply: Reply) -> None:
        """Answer by calling `reply` once; it returns when the body is sent, or the client has gone."""

    def answer_own(self, request: Request, reply: Reply) -> None:
        """Answer a request to this server itself, of which the URL is only a path."""
        reply(Response.text(400, "this is a proxy"))


class ProxyServer(Closeable):
    """Answers whoever connects, from the moment it is made until it is closed.

    Args:
        listener: the socket that listens (see listener); it is closed with this.
        authority: whose certificates the clients trust.
        handler: answers.
        connections: so many there are at once. One more is let in when one that waits for its client was ended.
    """

    def __init__(
        self, listener: socket.socket, authority: Authority, handler: Handler, connections: int = _MOST_CONNECTIONS
    ) -> None:
        self._server = _Server(listener, authority, handler, Room(connections))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_ASK,), name="proxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.room.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, authority: Authority, handler: Handler, room: Room) -> None:
        self.authority, self.handler, self.room = authority, handler, room
        super().__init__(listener.getsockname(), _Connection, bind_and_activate=False)
        self.socket.close()  # it makes one, whether it is to bind it or not
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.room.enter():
            return self.shutdown_request(request)
        try:
            return super().process_request(request, client_address)
        except BaseException:
            # There is no thread that would do so.
            self.room.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that leaves is no error; what else comes here is a defect, and its thread's alone.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Body:
    """A request's body while it is read: held, or only its digest made."""

    def __init__(self, is_held: bool) -> None:
        self.data, self._is_held = bytearray(), is_held
        self._size, self._hasher = 0, hashlib.sha256()

    @property
    def digest(self) -> Optional[Digest]:
        """The digest of what was read, None when that is nothing."""
        return Digest(f"sha256:{self._hasher.hexdigest()}") if self._size else None

    def take(self, stream: io.BufferedIOBase, length: Optional[int]) -> bool:
        """Read so much more; False when that is none, too much, or not there."""
        if length is None or self._size + length > _MOST_BODY:
            return False
        self._size += length
        while length and (data := stream.read(min(length, _BLOCK))):
            length -= len(data)
            self._hasher.update(data)
            if self._is_held:
                self.data += data
        return not length


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server
    _tunnel = ""  # https://host:port inside a CONNECT

    def handle_one_request(self) -> None:
        self._wait_for_client()
        super().handle_one_request()

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        self.server.room.works(self.request)
        return parsed

    def _wait_for_client(self) -> None:
        self.server.room.waits(self.request, self._end)

    def _end(self) -> None:
        """Have the thread that reads from this connection find its end."""
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket, which takes apart what that thread uses.
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0].strip("[]")
        try:
            context = self.server.authority.context(host)
        except UnicodeError:
            return self._reply(Response.text(400, f"`{host}` is no name of a host"))
        # A host that must not be reached is still let in: a 404 inside names the whole URL, and nobody tries again.
        self.send_response_only(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        try:
            self.connection = context.wrap_socket(self.connection, server_side=True, do_handshake_on_connect=False)
            self._wait_for_client()
            self.connection.do_handshake()
        except (ssl.SSLError, ConnectionError):
            # The client does not trust this proxy's CA, or has gone: it says so itself.
            self.close_connection = True
            return None
        self._tunnel = f"https://{self.path}"
        self.rfile, self.wfile = self.connection.makefile("rb", -1), self.connection.makefile("wb", -1)
        self.close_connection = False
        return None

    def _answer(self) -> None:
        body = _Body(self.server.handler.holds_bodies)
        if not self._read(body):
            self.close_connection = True
            return self._reply(Response.text(413, f"the request's body is no such, or longer than {_MOST_BODY} bytes"))
        headers: dict[str, str] = {}
        for name, value in ((name.lower(), value) for name, value in self.headers.items()):
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        own = not self._tunnel and self.path.startswith("/")
        request = Request(self.command, self._tunnel + self.path, headers, bytes(body.data), body.digest)
        answer = self.server.handler.answer_own if own else self.server.handler.answer
        return answer(request, self._reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_PROPFIND = do_REPORT = _answer

    def _read(self, body: _Body) -> bool:
        """Read the request's body; False when it is too long, its length is no number, or it breaks off."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return body.take(self.rfile, _number(self.headers.get("Content-Length") or "0", 10))
        while length := _number(self.rfile.readline(100).decode("latin-1").partition(";")[0].strip(), 16):
            if not body.take(self.rfile, length):
                return False
            self.rfile.readline(3)
        if length is None:
            return False
        while self.rfile.readline(8192).strip():
            pass
        return True

    def _reply(self, response: Response) -> None:
        pieces = iter(response.pieces)
        try:
            self._send(response, pieces)
        except OSError:
            self.close_connection = True
        finally:
            if isinstance(pieces, Generator):
                pieces.close()

    def _send(self, response: Response, pieces: Iterable[bytes]) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.headers.items():
            self.send_header(name, value)
        chunked = response.length is None and self.request_version == "HTTP/1.1"
        empty = self.command == "HEAD" or response.status in (204, 304)
        if response.length is not None and response.status not in (204, 304):
            self.send_header("Content-Length", str(response.length))
        elif chunked and not empty:
            self.send_header("Transfer-Encoding", "chunked")
        elif not empty:
            self.close_connection = True
        self.end_headers()
        for piece in () if empty else pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked and not empty:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            # To a client that has gone the end cannot be written.
            self.connection.close()  # inside a tunnel it is not the one that the server closes

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the handler knows what is worth a word."""


def _number(text: str, base: int) -> Optional[int]:
    """Read a length; None when it is none, or more than is taken."""
    try:
        return int(text, base) if text.isalnum() and int(text, base) <= _MOST_BODY else None
    except ValueError:
        return None
