"""URLs as a tape keeps them: one spelling for each, and no secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from bundles.errors import UsageError

# Names of query parameters and headers whose values open something: X-Amz-Signature, access_token, sig, private-token.
_SECRET = re.compile(
    r"(?:^|[-_.])(?:sig|signature|token|accesstoken|apikey|key|secret|password|passwd|pwd|auth|authorization|jwt|credential"
    r"|credentials|hmac|policy|cookie|session)$",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HIDDEN = "-"


def is_secret(name: str) -> bool:
    """Tell whether a query parameter or header of that name holds what must not be written down."""
    return bool(_SECRET.search(name))


def normalise(url: str) -> str:
    """Return the URL as it is kept: no user name, default port or fragment, and `-` for the values of secrets.

    Raises:
        UsageError: it is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise UsageError(f"`{url[:200]}` is not an http or https URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        host += f":{port}"
    query = "&".join(map(_without_secret, parts.query.split("&"))) if parts.query else ""
    return urlunsplit((parts.scheme, host, parts.path or "/", query, ""))


def hides(url: str) -> bool:
    """Tell whether a URL that is kept has lost the value of a secret: it cannot be asked for as it stands."""
    query = urlsplit(url).query
    return any(is_secret(name) and value == _HIDDEN for name, _, value in (i.partition("=") for i in query.split("&")))


def _without_secret(item: str) -> str:
    name, equals, value = item.partition("=")
    return f"{name}={_HIDDEN}" if equals and value and is_secret(name) else item
