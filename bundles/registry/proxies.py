"""Which proxy a request goes through: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as Go and curl read them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Optional
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from bundles.errors import UsageError
from bundles.registry.urls import Origin, is_loopback


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A proxy's address. `authorization` is the value of Proxy-Authorization, from name and password in the address."""

    scheme: str
    host_port: str
    authorization: Optional[str] = dataclasses.field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, variable: str) -> Proxy:
        """Read `http://[name:password@]host[:port]`; the scheme may be left out.

        Raises:
            UsageError: anything else; the message names the variable, since the value can hold a password.
        """
        try:
            parts = urlsplit(text if "://" in text else "http://" + text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(f"{variable} does not name an http or https proxy: expected such as http://proxy:3128")
        authorization = None
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(login.encode()).decode("ascii")
        return cls(parts.scheme, parts.netloc.rpartition("@")[2], authorization)


class Proxies:
    """The proxies that the environment names at this moment.

    Args:
        direct: `host:port` to which none of them is on the way.
        variables: what names them in place of the environment: HTTP_PROXY, HTTPS_PROXY, NO_PROXY.

    Raises:
        UsageError: one of them cannot be used.
    """

    def __init__(self, direct: frozenset[str] = frozenset(), variables: Optional[Mapping[str, str]] = None) -> None:
        environment: Mapping[str, str] = getproxies_environment()
        if variables is not None:
            environment = {name.lower().partition("_")[0]: value for name, value in variables.items()}
        self._environment, self._direct = environment, direct
        self._proxies = {
            scheme: Proxy.parse(environment[scheme], f"{scheme.upper()}_PROXY")
            for scheme in ("http", "https")
            if scheme in environment
        }

    def find(self, origin: Origin) -> Optional[Proxy]:
        """Find the proxy on the way to `origin`; None for a direct connection, as always to this machine itself."""
        proxy = self._proxies.get(origin.scheme)
        return None if proxy is None or is_loopback(origin.host) or self._bypasses(origin) else proxy

    def _bypasses(self, origin: Origin) -> bool:
        if origin.host_port in self._direct or proxy_bypass_environment(origin.host_port, self._environment):
            return True
        try:
            address = ipaddress.ip_address(origin.host)
        except ValueError:
            return False
        # Go and curl also take networks, such as 10.0.0.0/8; Python's own function does not, nor bare IPv6.
        for entry in self._environment.get("no", "").split(","):
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                    return True
        return False
