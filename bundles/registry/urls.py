"""Addresses on the network: where a secret may go, and how a request is shown to people."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urljoin, urlsplit

from bundles.errors import NetworkError, UsageError
from bundles.oci.reference import DOCKER_HUB, registry_name

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?:[a-z0-9][a-z0-9._-]*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a secret may go: scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute URL.

        Raises:
            NetworkError: it is not an http or https URL that can be connected to.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise NetworkError("a registry sent an address that is not a URL") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
            raise NetworkError("a registry sent an address that is not an http or https URL")
        return cls(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme])

    @property
    def host_port(self) -> str:
        """Return `host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_address(text: str) -> bool:
    """Tell whether a text is an http or https URL that can be connected to."""
    try:
        Origin.of(text)
    except NetworkError:
        return False
    return True


def join(base: str, target: str) -> str:
    """Return the address that `target`, a path or an address, means at `base`.

    Raises:
        NetworkError: it is no address, as a Location or Link that somebody made up may be.
    """
    try:
        return urljoin(base, target)
    except ValueError:
        raise NetworkError(f"`{Origin.of(base).host_port}` sent an address that is not a URL") from None


def describe(method: str, url: str) -> str:
    """Name a request for people, without the query string."""
    parts = urlsplit(url)
    return f"{method} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def insecure_hosts(texts: Iterable[str]) -> frozenset[str]:
    """Return `host[:port]` of each text that --insecure-registry was given, however it is written.

    The port stays: without one a host stands for all its ports.

    Raises:
        UsageError: a text is no host, or has more behind it.
    """
    hosts = set()
    for text in texts:
        host = text.strip().rpartition("://")[2].removesuffix("/").lower()
        if not _HOST.fullmatch(host):
            # What stands before an @ is a login, which is nobody's business.
            shown = text.rpartition("@")[2][:100]
            raise UsageError(
                f"`--insecure-registry {shown}` names no registry: expected HOST[:PORT], such as mirror.corp:5000"
            )
        hosts.add(DOCKER_HUB if registry_name(host) == DOCKER_HUB else host)
    return frozenset(hosts)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine: localhost, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
