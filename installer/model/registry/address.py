"""Where the local registry is reached: `localhost:5000`, or an address that the LAN sees."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket
from typing import Optional

from bundles.errors import UsageError

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_PORT = re.compile("[0-9]{1,5}")
_WITH_PORT = re.compile(":[0-9]+$")


@dataclasses.dataclass(frozen=True)
class Address:
    """Host and port of a registry. `str()` is the form that stands in image names."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, where HOST is a name, an IPv4 address or `[IPv6]`.

        Raises:
            UsageError: anything else, or an address that means "every address".
        """
        host, colon, port = text.strip().lower().rpartition(":")
        if not colon or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise UsageError(f"`{text[:100]}` is not a registry address: expected HOST:PORT, such as localhost:5000")
        inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        ip = _as_ip(inner)
        if (ip is None and not _HOST.fullmatch(host)) or (ip is not None and (ip.version == 6) != (inner != host)):
            raise UsageError(f"`{text}` is not a registry address: `{host}` is no name and no IP address")
        if ip is not None and ip.is_unspecified:
            raise UsageError(
                f"`{text}` would listen on every address: expected one address",
                hint="give the address that the others use, such as 192.168.10.10:5000",
            )
        return cls(host, int(port))

    @classmethod
    def of_host(cls, text: str) -> Address:
        """Read `HOST` or `HOST:PORT` of a registry that speaks TLS, where the port is 443 unless it is given.

        Raises:
            UsageError: see `parse`.
        """
        return cls.parse(text if _WITH_PORT.search(text) else f"{text}:443")

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this host reaches it. Docker and BuildKit use plain HTTP there without being told."""
        if self.host == "localhost":
            return True
        ip = _as_ip(self.host.strip("[]"))
        return ip is not None and ip.is_loopback

    @property
    def is_name(self) -> bool:
        """Tell whether something has to be asked what it means; `localhost` is the same everywhere."""
        return self.host != "localhost" and _as_ip(self.host.strip("[]")) is None

    def listen_ip(self) -> str:
        """Return the IP address at which the registry is asked for: one, never every one.

        Raises:
            OSError: the name does not resolve.
        """
        if self.host == "localhost":
            return "127.0.0.1"
        if _as_ip(self.host.strip("[]")) is not None:
            return self.host.strip("[]")
        return socket.gethostbyname(self.host)

    def listen_ips(self) -> tuple[str, ...]:
        """Return every IP address on which the registry is published.

        `localhost` is two of them where the host has both: what were free could be listened on by any user, and many a
        program asks there first.

        Raises:
            OSError: the name does not resolve.
        """
        return (self.listen_ip(), *(("::1",) if self.host == "localhost" and _has_ipv6_loopback() else ()))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _as_ip(text: str) -> Optional[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
