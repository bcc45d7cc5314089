"""Logging in to a registry: Basic, and Docker's token protocol (distribution docs, spec/auth/token.md and oauth.md)."""

from __future__ import annotations

import base64
import dataclasses
import functools
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Callable, Optional
from urllib.parse import urlencode, urlsplit, urlunsplit

from bundles.errors import AuthenticationError, BundleError, NetworkError, UsageError
from bundles.oci.image import parse_json
from bundles.oci.reference import DOCKER_HUB
from bundles.registry.urls import Origin
from bundles.registry.web_page import refuse_web_page

# Tokens are a few KB; a registry that sends more is not sending a token.
MAX_TOKEN_ANSWER = 1 << 20
# The lifetime that the token specification gives a token whose answer names none.
_DEFAULT_LIFETIME = 60.0
_MAX_LIFETIME = 1e9

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# The quote at the end is optional, and so are the quotes: both are seen in practice.
_PARAMETER = re.compile(rf'({_NAME})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"?|([^\s,"=][^\s,"]*))')
_SCHEME = re.compile(rf"{_NAME}(?=[ \t,]|$)")
_OTHER = re.compile(_NAME)
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")


@dataclasses.dataclass(frozen=True)
class Credential:
    """What a login left behind: a name and password, an identity (refresh) token, or a ready-made registry token."""

    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    registry_token: str = dataclasses.field(default="", repr=False)

    @property
    def basic(self) -> Optional[str]:
        """Return the value of a Basic `Authorization` header, or None for a token."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


@dataclasses.dataclass(frozen=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Demand:
    """A 401: which registry wants a login, what for, where from, and its WWW-Authenticate."""

    host: str
    scope: str
    url: str
    header: str

    @functools.cached_property
    def challenges(self) -> list[Challenge]:
        return parse_challenges(self.header)


@dataclasses.dataclass(frozen=True)
class TokenAnswer:
    """What a token server answered, and from which address it came in the end."""

    status: int
    data: bytes
    url: str
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Authorization:
    """What to send to a registry, until when, and which of the logins for it that is, from 0.

    `anonymous` is a token that was given without a login. `served` says that the registry took it at least once: when
    it is refused after that, it has run out.
    """

    header: str = dataclasses.field(repr=False)
    expires: float
    rank: int
    anonymous: bool = False
    served: bool = False


# GET or POST of a URL with headers and a body. Raises UnavailableError for what is worth another try.
Sender = Callable[[str, str, Mapping[str, str], Optional[bytes]], TokenAnswer]
# Gives the logins for a registry (`docker.io`, `ghcr.io`, `host:5000`) and a repository there, the best first.
Credentials = Callable[[str, str], Iterable[Credential]]


def pull_scope(repository: str) -> str:
    """Return the token scope for reading a repository."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """Return the token scope for reading and writing a repository."""
    return f"repository:{repository}:pull,push"


def scope_repository(scope: str) -> str:
    """Return the repository that a scope is about; empty when it is about the registry."""
    kind, _, rest = scope.split(" ", 1)[0].partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def scope_writes(scope: str) -> bool:
    """Tell whether a scope is about more than reading."""
    return "push" in scope.split(" ", 1)[0].rpartition(":")[2].split(",")


def scope_subject(scope: str) -> str:
    """Return what a scope is about, for people."""
    return scope_repository(scope) or "the registry"


def login_command(host: str) -> str:
    """Return how to log in to `host`: by docker or podman, or where neither is installed by hand."""
    if shutil.which("docker"):
        return "docker login" if host == DOCKER_HUB else f"docker login {host}"
    if shutil.which("podman"):
        return f"podman login {host}"
    login = json.dumps({"auths": {host: {"username": "NAME", "password": "PASSWORD"}}})
    place = "$DOCKER_CONFIG" if os.environ.get("DOCKER_CONFIG") else "~/.docker"
    return f"put {login} into {place}/config.json"


def parse_challenges(header: str) -> list[Challenge]:
    """Read WWW-Authenticate, several challenges in one header included (RFC 9110, section 11.6.1).

    Never fails: what cannot be read is skipped.
    """
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(header):
        if header[at] in " \t,":
            at += 1
        elif found and (match := _PARAMETER.match(header, at)):
            value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
            found[-1][1].setdefault(match[1].lower(), value)
            at = match.end()
        elif match := _SCHEME.match(header, at):
            found.append((match[0].lower(), {}))
            bare = _TOKEN68.match(header, match.end())
            at = bare.end() if bare else match.end()
        else:
            skipped = _OTHER.match(header, at)
            at = skipped.end() if skipped else at + 1
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def merge_scopes(ours: str, theirs: str) -> list[str]:
    """Return the scopes to ask a token for: what the request needs and the registry named, one for each resource."""
    merged: dict[str, list[str]] = {}
    for scope in f"{ours} {theirs}".split():
        resource, colon, actions = scope.rpartition(":")
        known = merged.setdefault(resource + colon, [])
        known += [action for action in actions.split(",") if action not in known]
    return [resource + ",".join(actions) for resource, actions in merged.items()]


class Authenticator:
    """Answers challenges, and keeps the answers for each host and scope. Thread-safe.

    Args:
        credentials: gives the logins.
        send: asks a token server.
        is_insecure: tells whether the user allows plain HTTP there.
    """

    def __init__(self, credentials: Credentials, send: Sender, is_insecure: Callable[[Origin], bool]) -> None:
        self._credentials, self._send, self._is_insecure = credentials, send, is_insecure
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[tuple[str, str], Authorization] = {}
        self._demands: dict[tuple[str, str], Demand] = {}

    def realms(self, host: str) -> frozenset[str]:
        """Return the addresses of the token servers that have given tokens for a registry."""
        with self._lock:
            demands = [demand for (registry, _), demand in self._demands.items() if registry == host]
        challenges = [challenge for demand in demands for challenge in demand.challenges]
        bearers = (each.parameters for each in challenges if each.scheme == "bearer")
        return frozenset(parameters["realm"] for parameters in bearers if "realm" in parameters)

    def current(self, host: str, scope: str) -> Optional[Authorization]:
        """Return what to send at once; None when nothing was asked for yet.

        A token that has run out is replaced before it is refused: what is refused then may be a large upload, of
        which a proxy in front reads every byte before it asks the registry.

        Raises:
            UnavailableError: the token server has a passing problem.
        """
        known = self.known(host, scope)
        with self._lock:
            demand, last = self._demands.get((host, scope)), self._known.get((host, scope))
        if known or not demand or not last:
            return known
        try:
            return self.answer(demand, last)
        except AuthenticationError:
            return None  # the registry may ask for something else by now

    def known(self, host: str, scope: str) -> Optional[Authorization]:
        """Return what to send at once; None when none was asked for, or the token has expired."""
        with self._lock:
            known = self._known.get((host, scope))
        return known if known and known.expires > time.monotonic() else None

    def note_served(self, host: str, scope: str, login: Authorization) -> None:
        """Remember that the registry took this for a request with that scope."""
        with self._lock:
            known = self._known.get((host, scope))
            if known and known.header == login.header and not known.served:
                self._known[host, scope] = dataclasses.replace(known, served=True)

    def answer(
        self, demand: Demand, rejected: Optional[Authorization] = None, fresh: bool = False
    ) -> Optional[Authorization]:
        """Answer a 401.

        Args:
            demand: the 401.
            rejected: what it refused, if anything.
            fresh: that was new to who asks, so that another token with the same login is no use; but one that served
                others meanwhile has only run out.

        Returns:
            What to send; None when every login was tried.

        Raises:
            AuthenticationError: no login, a refused one, or a challenge that must not be answered.
            ContentError: a web page came, and no token.
            UnavailableError: the token server has a passing problem.
        """
        key = (demand.host, demand.scope)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            # Of many workers that meet the same expired token, only the first fetches a new one.
            known = self.known(*key)
            if known and (rejected is None or known.header != rejected.header):
                return known
            last = self._known.get(key, rejected)
            first = last.rank + (fresh and last == rejected and not last.served) if last else 0
            found = self._fetch(demand, rejected, first)
            if found:
                with self._lock:
                    self._known[key], self._demands[key] = found, demand
            return found

    def _fetch(self, demand: Demand, rejected: Optional[Authorization], first: int) -> Optional[Authorization]:
        """Try the logins from number `first` on; the error is that of the best one."""
        failure: Optional[BundleError] = None
        for rank in itertools.count(first):
            try:
                credential = self._credential(demand, rank)
            except BundleError as error:
                raise (failure or error) from None
            if credential is None and rank > 0:
                break
            try:
                header, expires = self._log_in(demand, credential)
            except AuthenticationError as error:
                failure = failure or error
                continue
            # A token server may well give the same token again; any other login that was refused stays refused.
            if rejected and header == rejected.header and expires == float("inf"):
                failure = failure or _refused(demand, "refused the login")
                continue
            return Authorization(header, expires, rank, anonymous=credential is None)
        if failure:
            raise failure
        return None

    def _credential(self, demand: Demand, rank: int) -> Optional[Credential]:
        logins = self._credentials(demand.host, scope_repository(demand.scope))
        return next(itertools.islice(logins, rank, None), None)

    def _log_in(self, demand: Demand, credential: Optional[Credential]) -> tuple[str, float]:
        """Return the header that answers one of the challenges, and until when it serves."""
        schemes = {each.scheme for each in demand.challenges}
        bearer = next(
            (each for each in demand.challenges if each.scheme == "bearer" and each.parameters.get("realm")), None
        )
        if credential and credential.registry_token and "bearer" in schemes:
            if not _fits_a_header(credential.registry_token):
                raise _refused(demand, "gets no login: the `registrytoken` in Docker's config.json is no token")
            return "Bearer " + credential.registry_token, float("inf")
        if bearer:
            self._check_realm(demand, bearer.parameters["realm"], bool(credential))
            return self._token(demand, bearer.parameters, credential)
        if "basic" in schemes:
            if not credential or not credential.basic:
                raise _refused(demand, "wants a login")
            return credential.basic, float("inf")
        raise _refused(demand, "refuses access and names no way to log in that is known here")

    def _check_realm(self, demand: Demand, realm: str, secret: bool) -> None:
        """Check where a token comes from. That may be another host: that is the protocol.

        Over plain HTTP nothing secret goes there, unless the user named the host as an insecure one.
        """
        try:
            origin = Origin.of(realm)
        except NetworkError:
            raise AuthenticationError(f"`{demand.host}` names a token server that is not a URL") from None
        if secret and origin.scheme == "http" and demand.url.startswith("https:") and not self._is_insecure(origin):
            raise AuthenticationError(
                f"`{demand.host}` asks for the login over plain HTTP, at `{origin.host_port}`: "
                "it would travel unencrypted",
                hint="tell its administrator that the token realm must be an https URL; if plain HTTP is meant to be: "
                f"--insecure-registry {origin.host_port}",
            )

    def _token(
        self, demand: Demand, parameters: Mapping[str, str], credential: Optional[Credential]
    ) -> tuple[str, float]:
        asked = time.monotonic()
        scopes = merge_scopes(demand.scope, parameters.get("scope", ""))
        url, service = parameters["realm"], parameters.get("service", "")
        if credential and credential.identity_token:
            answer = self._refresh(url, service, scopes, credential.identity_token)
        else:
            query = [("service", service)] if service else []
            query += [("scope", each) for each in scopes]
            headers = {"Authorization": credential.basic} if credential and credential.basic else {}
            answer = self._send("GET", _with_query(url, query), headers, None)
        if answer.status != 200:
            raise _refused(demand, "refused the login" if credential else "gives no anonymous access")
        refuse_web_page(answer.url, answer.headers, answer.data, f"a token for `{demand.host}`")
        try:
            value = parse_json(answer.data, "the token")
        except UsageError:
            value = {}
        token = value.get("token") or value.get("access_token")
        if not isinstance(token, str) or not _fits_a_header(token):
            raise AuthenticationError(f"the token server of `{demand.host}` sent no token", status=answer.status)
        lifetime = value.get("expires_in")
        # Not NaN either, nor what overflows in a sum.
        if not isinstance(lifetime, (int, float)) or isinstance(lifetime, bool) or not 0 < lifetime < _MAX_LIFETIME:
            lifetime = _DEFAULT_LIFETIME
        # A tenth is kept for requests on their way. The server's `issued_at` is not used: clocks differ.
        return "Bearer " + token, asked + 0.9 * lifetime

    def _refresh(self, url: str, service: str, scopes: list[str], identity_token: str) -> TokenAnswer:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": "bundle",
            "scope": " ".join(scopes),
            "refresh_token": identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._send("POST", url, headers, urlencode(form).encode("ascii"))


def _refused(demand: Demand, what: str) -> AuthenticationError:
    host, subject = demand.host, scope_subject(demand.scope)
    about = "" if subject == "the registry" else f" for `{subject}`"
    hint = f"{login_command(host)}; and check the name: registries also answer like this when a repository is unknown"
    return AuthenticationError(f"`{host}` {what}{about}", hint=hint, status=401, cause=f"`{host}` {what}")


def _fits_a_header(token: str) -> bool:
    """Tell whether a token fits: http.client refuses a line break with an error that shows it."""
    return bool(token) and token.isprintable() and token.isascii()


def _with_query(url: str, query: list[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, joined, ""))
