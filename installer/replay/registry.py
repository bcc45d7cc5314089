"""A registry that is read with the standard library: over TLS, with a login where it wants one, and where it leads."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Optional
from urllib.parse import urlsplit, urlunsplit

from bundles.errors import AuthenticationError, NetworkError, UnavailableError
from bundles.registry.auth import (
    MAX_TOKEN_ANSWER,
    Authenticator,
    Authorization,
    Credential,
    Demand,
    TokenAnswer,
    login_command,
    scope_subject,
)
from bundles.registry.tls import trusting
from bundles.registry.urls import Origin, join
from bundles.runtime.closeable import Closeable

_TIMEOUT = 60
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
# What goes wrong on the way to an answer; a host in a Location may be no name at all.
FAILURES = (OSError, http.client.HTTPException, UnicodeError)


@dataclasses.dataclass(frozen=True)
class Response(Closeable):
    """An answer, the connection that it comes through, and the address that it came from in the end."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    url: str

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def announced(self) -> Optional[int]:
        """How many bytes it says to have; None when it does not say."""
        length = self.response.getheader("Content-Length") or ""
        return int(length) if length.isdecimal() else None

    def header(self, name: str) -> str:
        """Return the value of a header, empty when there is none."""
        return self.response.getheader(name) or ""

    def read(self, size: int) -> bytes:
        return self.response.read(size)

    def close(self) -> None:
        # One that is the last of its connection has taken that over.
        self.response.close()
        self.connection.close()


class Registry:
    """A registry, and how it is spoken to. Thread-safe: each request has a connection of its own.

    No login goes to another host than the registry and the token server that it names, and that one speaks TLS as well
    where the registry does.

    Args:
        name: HOST or HOST:PORT as references have it, which its certificate and logins are for.
        address: the host that is connected to, when that is not the one in the name.
        context: what TLS is spoken with; None for plain HTTP.
        logins: the best first.
        rest: seconds for which no login is sent after one was refused.
    """

    def __init__(
        self,
        name: str,
        address: Optional[str] = None,
        context: Optional[ssl.SSLContext] = None,
        logins: Sequence[Credential] = (),
        rest: float = 300.0,
    ) -> None:
        self.name = name
        self._base = f"{'https' if context else 'http'}://{name}"
        self._origin = Origin.of(self._base)
        self._address = address or self._origin.host
        self._context, self._logins, self._rest = context, tuple(logins), rest
        self._authenticator = Authenticator(lambda host, repository: self._logins, self._send, lambda origin: False)
        self._refusal: Optional[AuthenticationError] = None
        self._rested = 0.0

    def get(self, path: str, scope: str, headers: Mapping[str, str]) -> Response:
        """Ask for `path`, which needs `scope` (see `bundles.registry.auth`); the answer may have any other status.

        Raises:
            AuthenticationError: the login was refused, is missing, or has no right to this.
            UnavailableError: the token server fails, or what leads elsewhere leads nowhere.
            OSError, HTTPException, UnicodeError: there is no answer.
        """
        # A wrong password, sent again and again, locks many an account.
        refusal = self._refusal
        if refusal and self._logins and time.monotonic() < self._rested:
            raise AuthenticationError(refusal.message, hint=refusal.hint, status=refusal.status)
        try:
            response = self._get(path, scope, headers)
        except AuthenticationError as error:
            self._rested, self._refusal = time.monotonic() + self._rest, error
            raise
        except UnavailableError:
            raise
        except NetworkError as error:
            raise UnavailableError(error.message) from None
        self._refusal = None
        return response

    @property
    def refusal(self) -> Optional[str]:
        """Say how the registry refused what it was asked last; None when it did not."""
        refusal = self._refusal
        return refusal.message if refusal else None

    def _get(self, path: str, scope: str, headers: Mapping[str, str]) -> Response:
        url, fresh = self._base + path, False
        login = self._authenticator.current(self.name, scope)
        while True:
            response = self._exchange("GET", url, _with(headers, login), None)
            if response.status not in (401, 403) or Origin.of(response.url) != self._origin:
                if login and response.status < 400:
                    self._authenticator.note_served(self.name, scope, login)
                return response
            response.close()
            demand = Demand(self.name, scope, response.url, response.header("WWW-Authenticate"))
            if response.status == 403 or not demand.challenges:
                raise self._refused(scope, response.status)
            login = self._authenticator.answer(demand, login, fresh)
            if login is None:
                raise self._refused(scope, response.status)
            fresh = True

    def _refused(self, scope: str, status: int) -> AuthenticationError:
        wants = "refused the login for" if self._logins else "wants a login for"
        what = "refuses access to" if status == 403 else wants
        message = f"`{self.name}` {what} `{scope_subject(scope)}`"
        return AuthenticationError(message, hint=login_command(self.name), status=status)

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: Optional[bytes]) -> Response:
        """Send a request, and follow where it leads: from TLS to TLS only, and elsewhere without the login."""
        for _ in range(_MAX_REDIRECTS + 1):
            origin, parts = Origin.of(url), urlsplit(url)
            asked = urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection = self._connect(origin)
            try:
                connection.request(method, asked, body, dict(headers))
                response = Response(connection, connection.getresponse(), url)
            except BaseException:
                connection.close()
                raise
            if method != "GET" or response.status not in _REDIRECTS:
                return response
            response.close()
            target = join(url, response.header("Location"))
            there = Origin.of(target)
            if (origin.scheme, there.scheme) == ("https", "http"):
                raise UnavailableError(f"`{origin.host_port}` leads from https to plain http, at `{there.host_port}`")
            if there != origin:
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = target
        raise UnavailableError(f"`{self.name}` leads from one address to the next, and to no content")

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        sock = socket.create_connection(
            (self._address if origin == self._origin else origin.host, origin.port), _TIMEOUT
        )
        if origin.scheme == "http":
            connection = http.client.HTTPConnection(origin.host, origin.port, timeout=_TIMEOUT)
        else:
            context = self._context or trusting()
            with contextlib.closing(sock):
                sock = context.wrap_socket(sock, server_hostname=origin.host)
            connection = http.client.HTTPSConnection(origin.host, origin.port, timeout=_TIMEOUT, context=context)
        # One that has a socket does not connect by itself.
        connection.sock = sock
        return connection

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Optional[bytes]) -> TokenAnswer:
        """Ask a token server."""
        where = Origin.of(url).host_port
        try:
            with self._exchange(method, url, headers, body) as response:
                data = response.read(MAX_TOKEN_ANSWER)
                is_cut = len(data) < min(response.announced or 0, MAX_TOKEN_ANSWER)
        except FAILURES as error:
            raise UnavailableError(f"the token server `{where}` does not answer: {describe(error)}") from None
        if is_cut:
            raise UnavailableError(f"the token server `{where}` broke off")
        if response.status in _TEMPORARY:
            raise UnavailableError(f"the token server `{where}` answers {response.status}", status=response.status)
        return TokenAnswer(response.status, data, response.url, {"Content-Type": response.header("Content-Type")})


def describe(error: Exception) -> str:
    """Say in words what one of FAILURES is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here: {error.verify_message}"
    return str(error) or type(error).__name__


def _with(headers: Mapping[str, str], login: Optional[Authorization]) -> Mapping[str, str]:
    return {**headers, "Authorization": login.header} if login else headers
