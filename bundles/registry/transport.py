"""HTTP to registries, per OCI distribution-spec v1.1: logins, redirects, retries, and errors people can act on."""

from __future__ import annotations

import dataclasses
import math
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional, TypeVar, Union

from bundles.errors import AuthenticationError, InterruptedByUser, NetworkError, UnavailableError, UnreachableError
from bundles.oci.reference import DOCKER_HUB
from bundles.registry.auth import (
    MAX_TOKEN_ANSWER,
    Authenticator,
    Authorization,
    Credential,
    Credentials,
    Demand,
    TokenAnswer,
)
from bundles.registry.connections import Body, Connections, Response
from bundles.registry.error_response import TEMPORARY, Login, refusal
from bundles.registry.proxies import Proxies
from bundles.registry.urls import Origin, describe, join
from bundles.runtime.closeable import Closeable
from bundles.runtime.workers import happens

_T = TypeVar("_T")
# What an upload sends: bytes, or a callable that gives a fresh body for each try.
Upload = Union[bytes, Callable[[], Body]]

_OK = frozenset({200})
_DOCKER_HUB_HOST = "registry-1.docker.io"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
# What storages say to an address whose signature has run out, or is not the one they want.
_NO_ACCESS = frozenset({400, 401, 403})
_TOO_MANY = 429
# Seconds after which people wonder what is waited for.
_LONG = 5.0
# Registries ask for waits of up to hours; nobody watches a command stand still for that long.
_MAX_RETRY_AFTER = 60.0
_MAX_BACKOFF = 30.0


def anonymous(host: str, repository: str) -> tuple[Credential, ...]:
    """Give no login anywhere."""
    return ()


def silent(text: str) -> None:
    """Say nothing."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line and the environment say about the network.

    Args:
        insecure: `host[:port]` where TLS is not verified and plain HTTP is allowed, as it always is on this machine
            itself. A host without a port stands for all its ports.
        ca_file: a PEM file of CAs to trust besides the system's.
        certs_d: directories with CAs and client certificates of single hosts, see `bundles.registry.certificates`.
        credentials: gives the logins for a registry, asked when it wants one, see `bundles.registry.auth`.
        timeout: seconds to connect, and seconds without a byte.
        attempts: how often in all a request is tried when the failure is temporary.
        backoff: seconds before the second try; it doubles with each one, and is spread by chance.
        direct: `host:port` to which no proxy is on the way, whatever the environment says.
        verified: `host:port` where only TLS will do, on this machine too, to a PEM file of the CAs that alone are
            trusted there, which is read when the host is asked; None for the system's.
        say: tells people what is waited for while that lasts.
    """

    insecure: frozenset[str] = frozenset()
    ca_file: Optional[Path] = None
    certs_d: tuple[Path, ...] = ()
    credentials: Credentials = anonymous
    timeout: tuple[float, float] = (15.0, 60.0)
    attempts: int = 6
    backoff: float = 1.0
    direct: frozenset[str] = frozenset()
    verified: Mapping[str, Optional[Path]] = dataclasses.field(default_factory=dict)
    say: Callable[[str], None] = silent


@dataclasses.dataclass(frozen=True)
class Answer:
    """A small answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str


class Transport(Closeable):
    """Requests to registries. Thread-safe; connections and logins are reused. A context manager.

    with Transport(Settings()) as transport:
        with transport.request("GET", "docker.io", "/v2/library/debian/blobs/sha256:...", scope=...) as response:
            count = response.readinto(buffer)

    A registry is named as in references; docker.io is Docker Hub. A path is below the registry, or the absolute
    Location that it gave, which gets no login when it leads to another host.

    Raises:
        UsageError: the settings or the proxy variables cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        proxies = Proxies(settings.direct)
        self._connections = Connections(
            settings.insecure,
            settings.ca_file,
            settings.certs_d,
            settings.timeout,
            proxies,
            verified=settings.verified,
        )
        self._authenticator = Authenticator(
            settings.credentials, self._send_for_token, self._connections.is_named_insecure
        )
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._schemes: dict[str, str] = {}
        self._scheme_locks: dict[str, threading.Lock] = {}
        self._reached: set[str] = set()
        self._waits: dict[str, float] = {}

    def request(
        self,
        method: str,
        host: str,
        path: str,
        *,
        scope: str,
        headers: Optional[Mapping[str, str]] = None,
        body: Optional[Upload] = None,
        expect: frozenset[int] = _OK,
        retry: bool = True,
    ) -> Response:
        """Send a request; temporary failures are retried.

        Args:
            method: HTTP method.
            host: the registry.
            path: below it, beginning with `/v2/`, or an absolute URL.
            scope: the access needed, see `bundles.registry.auth.pull_scope`.
            headers: more headers.
            body: what to upload.
            expect: the statuses that are no error. With 401 among them nobody logs in anew.
            retry: False when the caller repeats more than this one request, with `retrying`.

        Raises:
            NotFoundError: 404.
            AuthenticationError: 401 or 403, the login included.
            UnavailableError: a temporary failure, on the last try too.
            NetworkError: any other failure; `status` and `codes` say which.
        """
        request = _Request(method, host, path, scope, headers or {}, body, expect)
        return self.retrying(host, lambda: self._once(request)) if retry else self._once(request)

    def fetch(
        self,
        method: str,
        host: str,
        path: str,
        *,
        scope: str,
        limit: int,
        headers: Optional[Mapping[str, str]] = None,
        body: Optional[bytes] = None,
        expect: frozenset[int] = _OK,
        retry: bool = True,
    ) -> Answer:
        """Send a request as `request` does, for a small answer that is read to its end within the retries.

        Raises:
            ContentError: the answer is longer than `limit`.
            NetworkError: as `request` does.
        """
        request = _Request(method, host, path, scope, headers or {}, body, expect)

        def once() -> Answer:
            with self._once(request) as response:
                return Answer(response.status, response.headers, response.read_all(limit), response.url)

        return self.retrying(host, once) if retry else once()

    def retrying(self, host: str, operation: Callable[[], _T], progress: Callable[[], int] = lambda: 0) -> _T:
        """Run `operation` until it does not raise UnavailableError, as often as the settings say.

        A host that never answered in this run is tried twice only: its name is more likely wrong than its line bad.
        Where `operation` goes on where it was, `progress` says how far: further on, it has all its tries anew.
        """
        attempt, reached = 1, progress()
        while True:
            try:
                return operation()
            except UnavailableError as error:
                if progress() > reached:
                    attempt, reached = 1, progress()
                allowed = self._settings.attempts
                if isinstance(error, UnreachableError) and not self.has_answered(host):
                    allowed = min(allowed, 2)
                if attempt >= allowed:
                    raise
                self.pause(host, attempt, error)
            attempt += 1

    def pause(self, host: str, attempt: int, error: UnavailableError) -> None:
        """Wait after failure number `attempt` of a host: as long as it asked for, else longer each time.

        What is worth knowing while it lasts is said: that a host limits how much it serves, and any longer wait.

        Raises:
            InterruptedByUser: the transport was closed meanwhile.
        """
        if error.retry_after is not None:
            seconds = min(error.retry_after, _MAX_RETRY_AFTER)
        else:
            seconds = min(self._settings.backoff * 2.0 ** (attempt - 1), _MAX_BACKOFF)
            seconds *= random.uniform(0.5, 1.0)  # noqa: S311  spreads the workers, keeps no secret
        if error.status == _TOO_MANY or seconds >= _LONG:
            self._say_wait(host, seconds, error)
        if happens(self._closed, seconds):
            raise InterruptedByUser("interrupted")

    def _say_wait(self, host: str, seconds: float, error: UnavailableError) -> None:
        """Say it once for all workers that wait for the same host."""
        now = time.monotonic()
        with self._lock:
            if self._waits.get(host, now) > now:
                return
            self._waits[host] = now + seconds
        limited = f"`{host}` limits how much it serves (429)"
        why = limited if error.status == _TOO_MANY else error.cause or error.message
        self._settings.say(f"{why}: next try in {seconds:.0f} s")

    @property
    def attempts(self) -> int:
        """Return how often in all something is tried."""
        return self._settings.attempts

    def realms(self, host: str) -> frozenset[str]:
        """Return the addresses of the token servers that have given tokens for a registry."""
        return self._authenticator.realms(host)

    def speaks_tls(self, host: str) -> bool:
        """Find out whether a registry speaks TLS; where plain HTTP is not allowed nothing else would do.

        Raises:
            NetworkError: nothing answers.
        """
        return self._base(host).startswith("https:")

    def has_answered(self, host: str) -> bool:
        """Tell whether the registry has answered anything in this run."""
        with self._lock:
            return host in self._reached

    def close(self) -> None:
        """End the waits and the requests of other threads, and drop all connections. There are no more requests."""
        self._closed.set()
        self._connections.close()

    def _once(self, request: _Request) -> Response:
        """Try once, and again with each login when the registry asks for one."""
        try:
            return self._with_logins(request)
        except NetworkError as error:
            wants_login = isinstance(error, AuthenticationError) or error.status == _TOO_MANY
            if wants_login and self._settings.credentials is anonymous:
                # No login is read here: to log in would change nothing.
                error.hint = (
                    f"no login is used here; see what answers at that address: docker ps, or curl {request.host}"
                )
            raise

    def _with_logins(self, request: _Request) -> Response:
        host, scope = request.host, request.scope
        base = self._base(host)
        url = join(base, request.path)
        home = Origin.of(base)
        self._refuse_downgrade(base, url)
        ours = Origin.of(url) == home
        login = self._authenticator.current(host, scope) if ours else None
        response = self._exchange(request.method, url, _with_login(request.headers, login), request.body)
        with self._lock:
            self._reached.add(host)
        fresh = False
        while response.status == 401 and 401 not in request.expect and ours and Origin.of(response.url) == home:
            with response:
                demand = Demand(host, scope, response.url, response.headers.get("WWW-Authenticate", ""))
                if not demand.challenges:
                    # Harbor answers so when a project does not exist.
                    raise refusal(response, host, scope, home, _judged(login, otherwise=Login.UNASKED))
                login, rejected = self._authenticator.answer(demand, login, fresh), login
                if login is None:
                    raise refusal(response, host, scope, home, _judged(rejected))
            fresh = True
            response = self._exchange(request.method, url, _with_login(request.headers, login), request.body)
        if response.status in _NO_ACCESS and Origin.of(response.url) != Origin.of(url):
            # The signed address to which the registry leads may have run out on the way: it gives a fresh one.
            with response:
                pass
            response = self._exchange(request.method, url, _with_login(request.headers, login), request.body)
        if response.status in request.expect:
            if login and response.status != 401:
                self._authenticator.note_served(host, scope, login)
            return response
        with response:
            raise refusal(response, host, scope, home, _judged(login, response.status))

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: Optional[Upload]) -> Response:
        """Send one request and follow redirects when it only reads. No login is passed on to another origin."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._connections.send(method, url, headers, body() if callable(body) else body)
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS:
                return response
            with response:
                target = join(url, response.headers.get("Location", ""))
                self._refuse_downgrade(url, target)
            if Origin.of(target) != Origin.of(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise NetworkError(f"more than {_MAX_REDIRECTS} redirects, the last to {describe(method, url)}")

    def _refuse_downgrade(self, url: str, target: str) -> None:
        origin = Origin.of(target)
        if url.startswith("https:") and origin.scheme == "http" and not self._connections.is_insecure(origin):
            raise NetworkError(
                f"`{Origin.of(url).host_port}` redirects from https to plain http, at `{origin.host_port}`",
                hint=f"if that is meant to be: --insecure-registry {origin.host_port}",
            )

    def _send_for_token(self, method: str, url: str, headers: Mapping[str, str], body: Optional[bytes]) -> TokenAnswer:
        with self._exchange(method, url, headers, body) as response:
            if response.status in TEMPORARY:
                raise refusal(response, Origin.of(url).host_port, "")
            return TokenAnswer(response.status, response.read_all(MAX_TOKEN_ANSWER), response.url, response.headers)

    def _base(self, host: str) -> str:
        """Return the registry's URL. Whether an insecure one speaks TLS is found out once and remembered."""
        wire = _DOCKER_HUB_HOST if host == DOCKER_HUB else host
        if not self._connections.is_insecure(Origin.of(f"https://{wire}")):
            return f"https://{wire}"
        with self._lock:
            lock = self._scheme_locks.setdefault(wire, threading.Lock())
        with lock:
            if wire not in self._schemes:
                self._schemes[wire] = self._probe(wire)
            return f"{self._schemes[wire]}://{wire}"

    def _probe(self, wire: str) -> str:
        headers: dict[str, str] = {}
        try:
            with self._connections.send("GET", f"https://{wire}/v2/", headers):
                return "https"
        except NetworkError as error:
            with self._connections.send("GET", f"http://{wire}/v2/", headers) as response:
                # Go's and nginx's way to say that this port speaks TLS: then it was the TLS that failed by chance.
                if response.status == 400:
                    raise error from None
            return "http"


@dataclasses.dataclass(frozen=True)
class _Request:
    method: str
    host: str
    path: str
    scope: str
    headers: Mapping[str, str]
    body: Optional[Upload]
    expect: frozenset[int]


def _judged(login: Optional[Authorization], status: int = 401, otherwise: Login = Login.MISSING) -> Login:
    """Tell whether a login was taken by somebody: a token server, or a registry that answers with 403."""
    taken = login is not None and not login.anonymous and (status == 403 or login.expires < math.inf)
    return Login.GOOD if taken else otherwise


def _with_login(headers: Mapping[str, str], login: Optional[Authorization]) -> Mapping[str, str]:
    return {**headers, "Authorization": login.header} if login else headers
