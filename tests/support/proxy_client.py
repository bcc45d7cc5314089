"""A client of the proxy: requests as they go over the wire, with nothing that a library would hide."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Optional
from urllib.parse import urlsplit


class Came(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    reason: str


class ProxyClient:
    """Asks through the proxy on that port, https through CONNECT with this CA trusted. One connection a request."""

    def __init__(self, port: int, ca: Path) -> None:
        self._port, self._context = port, ssl.create_default_context(cafile=str(ca))

    @contextlib.contextmanager
    def open(
        self, method: str, url: str, headers: Optional[Mapping[str, str]] = None, body: Optional[bytes] = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask, and return the answer with its body still on the wire."""
        parts = urlsplit(url)
        connection: http.client.HTTPConnection
        target = url
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=20)
            connection.set_tunnel(parts.hostname or "", parts.port or 443)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, target, body, dict(headers or {}))
            with connection.getresponse() as response:
                yield response

    def ask(self, method: str, url: str, body: Optional[bytes] = None, **headers: str) -> Came:
        """Ask, and return the whole answer. `_` in the names of headers stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.open(method, url, named, body) as response:
            data = response.read()
            return Came(
                response.status, {name.lower(): value for name, value in response.getheaders()}, data, response.reason
            )

    def get(self, url: str, **headers: str) -> Came:
        return self.ask("GET", url, **headers)
