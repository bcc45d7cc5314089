"""Logging in to a registry: Basic, and Docker's token protocol (distribution docs, spec/auth/token.md and oauth.md)."""

from __future__ import annotations

import base64
import dataclasses
import re
import threading
import time
from collections.abc import Mapping
from typing import Callable, Optional
from urllib.parse import urlencode, urlsplit, urlunsplit

from bundles.errors import AuthenticationError, UsageError
from bundles.oci.image import parse_json
from bundles.oci.reference import DOCKER_HUB

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
class TokenAnswer:
    """What a token server answered."""

    status: int
    data: bytes


# GET or POST of a URL with headers and a body. Raises UnavailableError for what is worth another try.
Sender = Callable[[str, str, Mapping[str, str], Optional[bytes]], TokenAnswer]


def pull_scope(repository: str) -> str:
    """Return the token scope for reading a repository."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """Return the token scope for reading and writing a repository."""
    return f"repository:{repository}:pull,push"


def scope_subject(scope: str) -> str:
    """Return what a scope is about, for people: the repository."""
    kind, _, rest = scope.split(" ", 1)[0].partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else "the registry"


def login_command(host: str) -> str:
    """Return the command that logs in to `host`."""
    return "docker login" if host == DOCKER_HUB else f"docker login {host}"


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


@dataclasses.dataclass(frozen=True)
class _Authorization:
    header: str = dataclasses.field(repr=False)
    expires: float


class Authenticator:
    """Answers challenges, and keeps the answers for each host and scope. Thread-safe."""

    def __init__(self, credentials: Callable[[str], Optional[Credential]], send: Sender) -> None:
        self._credentials = credentials
        self._send = send
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[tuple[str, str], _Authorization] = {}

    def header(self, host: str, scope: str) -> Optional[str]:
        """Return the `Authorization` to send at once; None when none was asked for, or the token has expired."""
        with self._lock:
            known = self._known.get((host, "")) or self._known.get((host, scope))
        return known.header if known and known.expires > time.monotonic() else None

    def answer(self, host: str, scope: str, registry_url: str, challenge: str, rejected: Optional[str]) -> str:
        """Return the `Authorization` that answers a 401.

        Args:
            host: the registry, as references name it.
            scope: what the request needs, see `pull_scope`.
            registry_url: where the 401 came from.
            challenge: its WWW-Authenticate.
            rejected: the `Authorization` that it refused, if any.

        Raises:
            AuthenticationError: no login, a refused one, or a challenge that must not be answered.
            UnavailableError: the token server has a passing problem.
        """
        with self._lock:
            lock = self._locks.setdefault((host, scope), threading.Lock())
        with lock:
            # Of many workers that meet the same expired token, only the first fetches a new one.
            known = self.header(host, scope)
            if known and known != rejected:
                return known
            return self._fetch(host, scope, registry_url, parse_challenges(challenge), rejected)

    def _fetch(
        self, host: str, scope: str, registry_url: str, challenges: list[Challenge], rejected: Optional[str]
    ) -> str:
        credential = self._credentials(host)
        bearer = next((each for each in challenges if each.scheme == "bearer" and each.parameters.get("realm")), None)
        if credential and credential.registry_token and any(each.scheme == "bearer" for each in challenges):
            if not _fits_a_header(credential.registry_token):
                raise _refused(host, scope, "gets no login: the `registrytoken` in Docker's config.json is no token")
            key, fresh = (host, scope), _Authorization("Bearer " + credential.registry_token, float("inf"))
        elif bearer:
            url = _token_url(host, registry_url, bearer.parameters["realm"])
            key, fresh = (host, scope), self._token(host, scope, url, bearer.parameters, credential)
        elif any(each.scheme == "basic" for each in challenges):
            if not credential or not credential.basic:
                raise _refused(host, scope, "wants a login")
            key, fresh = (host, ""), _Authorization(credential.basic, float("inf"))
        else:
            raise _refused(host, scope, "refuses access and names no way to log in that is known here")
        # A token server may well give the same token again; any other login that was refused stays refused.
        if fresh.header == rejected and fresh.expires == float("inf"):
            raise _refused(host, scope, "refused the login")
        with self._lock:
            self._known[key] = fresh
        return fresh.header

    def _token(
        self, host: str, scope: str, url: str, parameters: Mapping[str, str], credential: Optional[Credential]
    ) -> _Authorization:
        asked = time.monotonic()
        scopes = merge_scopes(scope, parameters.get("scope", ""))
        service = parameters.get("service", "")
        if credential and credential.identity_token:
            answer = self._refresh(url, service, scopes, credential.identity_token)
        else:
            query = [("service", service)] if service else []
            query += [("scope", each) for each in scopes]
            headers = {"Authorization": credential.basic} if credential and credential.basic else {}
            answer = self._send("GET", _with_query(url, query), headers, None)
        if answer.status != 200:
            raise _refused(host, scope, "refused the login" if credential else "gives no anonymous access")
        try:
            value = parse_json(answer.data, "the token")
        except UsageError:
            value = {}
        token = value.get("token") or value.get("access_token")
        if not isinstance(token, str) or not _fits_a_header(token):
            raise AuthenticationError(f"the token server of `{host}` sent no token", status=answer.status)
        lifetime = value.get("expires_in")
        # Not NaN either, nor what overflows in a sum.
        if not isinstance(lifetime, (int, float)) or isinstance(lifetime, bool) or not 0 < lifetime < _MAX_LIFETIME:
            lifetime = _DEFAULT_LIFETIME
        # A tenth is kept for requests on their way. The server's `issued_at` is not used: clocks differ.
        return _Authorization("Bearer " + token, asked + 0.9 * lifetime)

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


def _refused(host: str, scope: str, what: str) -> AuthenticationError:
    subject = scope_subject(scope)
    about = "" if subject == "the registry" else f" for `{subject}`"
    hint = f"{login_command(host)}; and check the name: registries also answer like this when a repository is unknown"
    return AuthenticationError(f"`{host}` {what}{about}", hint=hint, status=401)


def _fits_a_header(token: str) -> bool:
    """Tell whether a token fits: http.client refuses a line break with an error that shows it."""
    return bool(token) and token.isprintable() and token.isascii()


def _token_url(host: str, registry_url: str, realm: str) -> str:
    """Check the realm and return its URL. It may be on another host: that is the protocol."""
    try:
        parts = urlsplit(realm)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise AuthenticationError(f"`{host}` names a token server that is not a URL")
    if parts.scheme == "http" and registry_url.startswith("https:"):
        raise AuthenticationError(
            f"`{host}` asks for the login over plain HTTP, at `{parts.netloc}`: it would travel unencrypted",
            hint="the registry's token realm must be an https URL; tell its administrator",
        )
    return realm


def _with_query(url: str, query: list[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, joined, ""))
