"""Connections to registries: TLS and streams of bytes. With `connection_errors` and `early_answers` all that
knows urllib3's insides.

Knows nothing of registries, logins or retries: one request out, one answer back.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import math
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Protocol, Union

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from bundles.errors import (
    ContentError,
    InterruptedByUser,
    NetworkError,
    ReadError,
    TooSlowError,
    UnreachableError,
    UsageError,
    reason,
)
from bundles.oci.reference import registry_name
from bundles.registry import early_answers
from bundles.registry.certificates import HostCertificates, find
from bundles.registry.connection_errors import translated
from bundles.registry.proxies import Proxies, Proxy
from bundles.registry.tls import trusting
from bundles.registry.urls import Origin, describe, is_loopback
from bundles.runtime.closeable import Closeable

# urllib3 logs the full address of every request, signed query strings included, at DEBUG.
logging.getLogger("urllib3").setLevel(logging.INFO)

# As many idle connections to one host as there are workers.
_WORKERS = 16
# One read from an upload body: larger than urllib3's 16 KiB, so that a worker spends its time in the kernel.
BLOCK_SIZE = 512 << 10
# While so much of a body is sent, it is looked whether there is an answer already.
_LOOK_FROM = 64 << 10
# An answer nobody wants is read to its end up to this size, because a new connection costs more than that.
_DRAIN_LIMIT = 64 << 10
# Bytes per second. A server that sends less for as long as a silent one may be silent is as good as gone.
_SLOWEST = 1024


class Body(Protocol):
    """What an upload sends: `len(body)` bytes, read in pieces, each of which is sent before the next one is read."""

    def read(self, count: int, /) -> Union[bytes, memoryview]: ...

    def __len__(self) -> int: ...


class Response(Closeable):
    """An answer whose body is still on the wire. A context manager, for one thread.

    Closing returns the connection for reuse when the body was read to its end, or nearly, and drops it otherwise.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, method: str, url: str, proxy: Optional[Proxy]) -> None:
        self._raw = raw
        self._method, self._proxy = method, proxy
        self.url = url
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers  # names in any case

    @property
    def action(self) -> str:
        """Describe the request for people."""
        return describe(self._method, self.url)

    @property
    def length(self) -> Optional[int]:
        """Return how many bytes of the body are left, or None when the server did not say."""
        return self._raw.length_remaining

    def read(self, count: int) -> bytes:
        """Read what has come, up to `count` bytes; empty only at the end.

        Raises:
            UnavailableError: the connection broke, the body is shorter than announced, or it comes too slowly.
        """
        if count <= 0:
            return b""
        with translated(self._method, self.url, self._proxy.host_port if self._proxy else None):
            return self._raw.read1(count)

    def readinto(self, buffer: Union[bytearray, memoryview]) -> int:
        """Put what has come into `buffer`; 0 only at the end. Raises like `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_all(self, limit: int) -> bytes:
        """Read the whole body.

        Raises:
            ContentError: it is longer than `limit` bytes.
            UnavailableError: see `read`.
        """
        pieces = []
        left = limit + 1
        while left and (piece := self.read(min(left, BLOCK_SIZE))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise ContentError(f"the answer is longer than {limit} bytes: {self.action}", status=self.status)
        return b"".join(pieces)

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if kind is None and (self.length is None or self.length <= _DRAIN_LIMIT):
            with contextlib.suppress(NetworkError):
                self.read_all(_DRAIN_LIMIT)
                self._raw.release_conn()
                return
        self.close()


class Outgoing:
    """A body on its way out: counts, so that a short one is noticed here and not as a server's timeout.

    Errors of the body are not errors of the network, whatever their type: `read` raises ReadError for them.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._left = len(body)

    def read(self, count: int) -> Union[bytes, memoryview]:
        if not self._left:
            return b""
        try:
            data = self._body.read(min(count, self._left))
        except OSError as error:
            raise ReadError(f"what is to be uploaded cannot be read: {reason(error)}") from error
        if not data:
            raise ReadError(f"what is to be uploaded ends {self._left} bytes early")
        self._left -= len(data)
        return data


class _WatchedResponse(http.client.HTTPResponse):
    """An answer of which head, framing and body all count as what comes from the server; see `_watched`."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        stream: Any = self.fp.raw  # what http.client reads from
        stream.readinto = _watched(stream.readinto, sock.gettimeout() or math.inf)


class _LastResponse(_WatchedResponse):
    """An answer to a request that is not all sent: what would come next on its connection, would be taken for that."""

    def begin(self) -> None:
        super().begin()
        self.will_close = True


def _watched(receive: Callable[[memoryview], Optional[int]], patience: float) -> Callable[[memoryview], Optional[int]]:
    """Have `receive` raise TooSlowError when less than 1 KiB/s came for as long as a silent server may be silent."""
    waited, arrived = 0.0, 0

    def within_time(buffer: memoryview) -> Optional[int]:
        nonlocal waited, arrived
        begun = time.monotonic()
        count = receive(buffer)
        waited += time.monotonic() - begun
        arrived += count or 0
        if count and waited > patience:
            if arrived < _SLOWEST * waited:
                raise TooSlowError(f"only {arrived} bytes came in {waited:.0f} s")
            waited, arrived = 0.0, 0
        return count

    return within_time


class _Sockets:
    """The sockets in use, which other threads may be blocked on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._shut = False

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
            if self._shut:
                _shut(sock)

    def shut(self) -> None:
        """End every read and write, of sockets that are still to come too: they meet the end of the stream."""
        with self._lock:
            self._shut = True
            for sock in list(self._open):
                _shut(sock)

    @property
    def are_shut(self) -> bool:
        with self._lock:
            return self._shut

    def note(self, manager: urllib3.PoolManager, patience: float) -> None:
        """Have all connections of the manager noted here, from their first moment on.

        Args:
            manager: makes them.
            patience: seconds for which the other end may take nothing of a body.
        """
        add = self.add

        class Http(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                self.response_class = _WatchedResponse
                sock = super()._new_conn()
                add(sock)
                return sock

            def send(self, data: Any) -> None:
                sock: object = self.sock  # no socket: TLS in the TLS of a proxy
                if len(data) < _LOOK_FROM or not isinstance(sock, socket.socket):
                    super().send(data)
                elif not early_answers.send(sock, data, patience):
                    # As when the other end has closed: urllib3 goes on to read the answer.
                    self.response_class = _LastResponse
                    raise BrokenPipeError

        class Https(Http, HTTPSConnection):
            pass

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        manager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}

    def note_tls(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Have all TLS sockets of the context noted here: each takes the place of one that was noted before."""
        add = self.add

        class Noted(early_answers.Tls):
            def do_handshake(self, block: bool = False) -> None:
                add(self)
                super().do_handshake(block)

        context.sslsocket_class = Noted
        return context


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed, or the other end was quicker
        # Not SSLSocket's own: that takes the TLS state away from under the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Connections:
    """Pools of connections. Thread-safe.

    Args:
        insecure: `host` or `host:port` whose TLS certificate is not checked; this machine's own never is.
        ca_file: a CA to trust besides the system's.
        certs_d: directories with the certificates of single hosts, see `bundles.registry.certificates`.
        timeout: seconds to connect, and seconds without a byte.
        proxies: those that may be on the way.
        verified: `host:port` whose certificate is always checked, to the file of the CAs that alone are trusted there.

    Raises:
        UsageError: the CA file cannot be read.
    """

    def __init__(
        self,
        insecure: frozenset[str],
        ca_file: Optional[Path],
        certs_d: Sequence[Path],
        timeout: tuple[float, float],
        proxies: Proxies,
        *,
        verified: Optional[Mapping[str, Optional[Path]]] = None,
    ) -> None:
        # Whoever named a host insecure need not be told so at every request.
        urllib3.disable_warnings(exceptions.InsecureRequestWarning)
        self._insecure = insecure
        self._timeout = timeout
        self._ca_file = ca_file
        if ca_file:
            _add_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file)
        self._proxies = proxies
        self._verified_hosts = verified or {}
        self._sockets = _Sockets()
        self._lock = threading.Lock()
        self._certs_d = certs_d
        self._certificates: dict[Origin, HostCertificates] = {}
        self._managers: dict[tuple[Optional[Proxy], bool, HostCertificates], urllib3.PoolManager] = {}
        # By the file and when it was written: a CA may be made, and made anew, while this runs.
        self._verifying: dict[tuple[Optional[Proxy], Path, int], urllib3.PoolManager] = {}

    def is_insecure(self, origin: Origin) -> bool:
        """Tell whether unverified TLS and plain HTTP are allowed there."""
        if origin.host_port in self._verified_hosts:
            return False
        return is_loopback(origin.host) or self.is_named_insecure(origin)

    def is_named_insecure(self, origin: Origin) -> bool:
        """Tell whether the user allowed them."""
        names = {origin.host, origin.host_port, f"[{origin.host}]", registry_name(origin.host)}
        return not self._insecure.isdisjoint(names)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Union[bytes, Body, None] = None
    ) -> Response:
        """Send one request. The answer may have any status; redirects are not followed.

        Raises:
            UnreachableError: no connection.
            UnavailableError: it broke, or timed out.
            NetworkError: TLS was refused on either side.
            UsageError: the host's certificates in certs.d cannot be used.
            InterruptedByUser: the connections were closed.
        """
        if self._sockets.are_shut:
            raise InterruptedByUser("interrupted")
        origin = Origin.of(url)
        proxy = self._proxies.find(origin)
        all_headers = {"Accept-Encoding": "identity", "User-Agent": "bundle", **headers}
        if body is not None:
            all_headers["Content-Length"] = str(len(body))
        connect, read = self._timeout
        if method == "PUT":
            read *= 10  # a registry may copy and hash a whole blob before it answers
        manager = self._manager(proxy, origin)
        with translated(method, url, proxy.host_port if proxy else None):
            raw = manager.urlopen(
                method,
                url,
                redirect=False,
                headers=all_headers,
                body=body if body is None or isinstance(body, bytes) else Outgoing(body),
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=connect, read=read),
            )
        return Response(raw, method, url, proxy)

    def close(self) -> None:
        """Drop all connections: idle ones, and those on which other threads wait. There are no more afterwards."""
        self._sockets.shut()
        with self._lock:
            managers = [*self._managers.values(), *self._verifying.values()]
        for manager in managers:
            manager.clear()

    def _manager(self, proxy: Optional[Proxy], origin: Origin) -> urllib3.PoolManager:
        authority = self._verified_hosts.get(origin.host_port)
        if authority:
            return self._manager_that_verifies(proxy, authority)
        verify = not self.is_insecure(origin)
        with self._lock:
            if origin not in self._certificates:
                known = find(self._certs_d, origin) if origin.scheme == "https" else HostCertificates()
                self._certificates[origin] = known
            certificates = self._certificates[origin]
            key = (proxy, verify, certificates)
            if key not in self._managers:
                self._managers[key] = self._new_manager(proxy, self._context(verify, certificates))
            return self._managers[key]

    def _manager_that_verifies(self, proxy: Optional[Proxy], authority: Path) -> urllib3.PoolManager:
        """Return the pool of a host that is trusted by the CAs in one file alone."""
        with self._lock:
            try:
                key = (proxy, authority, authority.stat().st_mtime_ns)
                if key not in self._verifying:
                    context = trusting(authority)
                    self._verifying[key] = self._new_manager(proxy, self._sockets.note_tls(context))
            except OSError as error:  # ssl.SSLError is one
                why = "it holds no certificate" if isinstance(error, ssl.SSLError) else reason(error)
                raise UnreachableError(f"the CA file `{authority}` cannot be used: {why}") from None
            return self._verifying[key]

    def _context(self, verify: bool, certificates: HostCertificates) -> ssl.SSLContext:
        if verify and certificates == HostCertificates():
            return self._verified
        context = self._system() if verify else _unverified()
        for authority in certificates.authorities if verify else ():
            _add_ca(context, authority)
        for certificate, key in certificates.own:
            _show(context, certificate, key)
        return self._sockets.note_tls(context)

    @functools.cached_property
    def _verified(self) -> ssl.SSLContext:
        """Read the system's CAs, which takes 30 ms: not before something needs them."""
        return self._sockets.note_tls(self._system())

    def _system(self) -> ssl.SSLContext:
        context = trusting()
        if self._ca_file:
            _add_ca(context, self._ca_file)
        return context

    def _new_manager(self, proxy: Optional[Proxy], context: ssl.SSLContext) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 100,
            "maxsize": _WORKERS,
            "block": False,
            "ssl_context": context,
            "blocksize": BLOCK_SIZE,
        }
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            login = {"proxy-authorization": proxy.authorization} if proxy.authorization else None
            address = f"{proxy.scheme}://{proxy.host_port}"
            manager = urllib3.ProxyManager(address, proxy_headers=login, proxy_ssl_context=self._verified, **options)
        self._sockets.note(manager, self._timeout[1])
        return manager


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_passphrase() -> str:
        raise UsageError(f"the key `{key}` has a passphrase: expected one without")

    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        why = "they are no PEM certificate and its key" if isinstance(error, ssl.SSLError) else reason(error)
        raise UsageError(f"the client certificate `{certificate}` with `{key.name}` cannot be used: {why}") from None


def _add_ca(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except FileNotFoundError:
        raise UsageError(f"the CA file `{ca_file}` does not exist") from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = str(error)
        if isinstance(error, OSError):
            why = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else reason(error)
        raise UsageError(f"the CA file `{ca_file}` cannot be used: {why}") from None
