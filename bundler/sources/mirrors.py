"""Which endpoints stand for a registry, which of them are down, and one error when all have failed."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

from bundles.errors import (
    AuthenticationError,
    ContentError,
    NetworkError,
    NotFoundError,
    UnavailableError,
    UnreachableError,
    UsageError,
)
from bundles.oci.reference import is_port, registry_name
from bundles.registry.urls import describe

_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9][a-z0-9._/-]*", re.ASCII)

# The kinds of failure, the most telling first. What is only temporary elsewhere explains least.
_TELLING = (ContentError, AuthenticationError)


class Mirrors:
    """The endpoints of each registry, in the order they are tried. Thread-safe.

    Args:
        mirrors: registry -> `HOST[:PORT][/prefix]` in order. Only what is listed is asked, so the registry itself is
            asked when it is listed, too. A registry without an entry stands for itself.

    Raises:
        UsageError: an entry is no such address.
    """

    def __init__(self, mirrors: Mapping[str, Sequence[str]]) -> None:
        self._endpoints = {
            registry_name(registry): tuple(map(Endpoint.parse, texts)) for registry, texts in mirrors.items() if texts
        }
        self._lock = threading.Lock()
        self._down: dict[Endpoint, NetworkError] = {}

    def of(self, registry: str, avoid: Iterable[Endpoint] = ()) -> tuple[Endpoint, ...]:
        """Return all endpoints of a registry but those to avoid."""
        unwanted = frozenset(avoid)
        endpoints = self._endpoints.get(registry_name(registry), (Endpoint(registry),))
        return tuple(each for each in endpoints if each not in unwanted)

    def failure_of(self, endpoint: Endpoint) -> Optional[NetworkError]:
        """Return why the endpoint is not worth asking again in this run, or None when it is."""
        with self._lock:
            return self._down.get(endpoint)

    def note(self, endpoint: Endpoint, error: NetworkError) -> None:
        """Remember an endpoint that cannot be reached: a thousand images must not each wait for its timeout."""
        if isinstance(error, UnreachableError):
            with self._lock:
                self._down.setdefault(endpoint, error)


def all_failed(what: str, failures: Mapping[Endpoint, NetworkError]) -> NetworkError:
    """Make one error of all endpoints' reasons. Its type, hint, status and codes are those of the most telling one."""
    if not failures:
        return ContentError(f"{what}: no endpoint is left to ask, each one sent wrong bytes")
    errors = list(failures.values())
    kind = _kind(errors)
    telling = next((error for error in errors if isinstance(error, kind)), errors[0])
    if len(errors) == 1:
        message = f"{what}: {telling.message}"
    else:
        message = f"{what}: " + "; ".join(f"from {endpoint}: {error.message}" for endpoint, error in failures.items())
    causes = [error.cause for error in errors if error.cause]
    cause = "; ".join(dict.fromkeys(causes)) if len(causes) == len(errors) else None
    return kind(message, hint=telling.hint, status=telling.status, codes=telling.codes, cause=cause, said=telling.said)


def _kind(errors: Sequence[NetworkError]) -> type[NetworkError]:
    if all(isinstance(error, NotFoundError) for error in errors):
        return NotFoundError
    for kind in _TELLING:
        if any(isinstance(error, kind) for error in errors):
            return kind
    if all(isinstance(error, (NotFoundError, UnavailableError)) for error in errors):
        unreachable = all(isinstance(error, UnreachableError) for error in errors)
        return UnreachableError if unreachable else UnavailableError
    return NetworkError


@dataclasses.dataclass(frozen=True, order=True)
class Endpoint:
    """A host to ask, and what comes before the repository there; or the address of one blob, see `Descriptor.urls`."""

    host: str
    prefix: str = ""
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST[:PORT][/prefix]`.

        Raises:
            UsageError: anything else.
        """
        host, _, prefix = text.strip().partition("/")
        prefix = prefix.rstrip("/")
        found = _HOST.fullmatch(host)
        if not found or not is_port(found[1] or "443") or (prefix and not _PREFIX.fullmatch(prefix)):
            # What stands before an @ is a login, which is nobody's business.
            shown = text.rpartition("@")[2]
            raise UsageError(
                f"`{shown[:100]}` is not a mirror: expected HOST[:PORT][/prefix], such as mirror.corp:5000/hub"
            )
        return cls(host, prefix)

    def repository(self, repository: str) -> str:
        """Return the name of a repository of the upstream registry here. Docker Hub's `library/` stays."""
        return f"{self.prefix}/{repository}" if self.prefix else repository

    def __str__(self) -> str:
        if self.url:
            return describe("", self.url).strip()
        return f"{self.host}/{self.prefix}" if self.prefix else self.host
