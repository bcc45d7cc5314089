"""Answers that are errors: what a status and a registry's JSON error mean (distribution-spec "Error Codes")."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Optional

from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from bundles.errors import AuthenticationError, NetworkError, NotFoundError, UnavailableError
from bundles.registry.auth import login_command, scope_subject
from bundles.registry.connections import Response
from bundles.registry.urls import Origin
from bundles.registry.web_page import title

TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_LIMIT = 64 << 10


def refusal(response: Response, host: str, scope: str, home: Optional[Origin] = None) -> NetworkError:
    """Return the error that an unexpected status stands for, with what the answer says about it.

    Args:
        response: the answer.
        host: the registry, as references name it.
        scope: what the request needed.
        home: where the registry is; what answers elsewhere is the storage to which it leads.
    """
    codes, words = _explanation(response)
    status = response.status
    text = f"{response.action}: {words}"
    origin = Origin.of(response.url)
    if status == 404:
        return NotFoundError(text, status=status, codes=codes)
    if status in (401, 403) and home and origin != home:
        return NetworkError(
            f"the storage `{origin.host_port}`, to which `{host}` leads, refused access: {words} ({response.action})",
            hint="its address was fresh: check the clock here, and whether a proxy or firewall lets this host through",
            status=status,
            codes=codes,
            cause=f"the storage `{origin.host_port}`, to which `{host}` leads, refused access: {words}",
        )
    if status in (401, 403):
        return AuthenticationError(
            f"`{host}` refused access to `{scope_subject(scope)}`: {words}",
            hint=f"{login_command(host)}; and check the name: registries answer like this for unknown ones, too",
            status=status,
            codes=codes,
        )
    if status in TEMPORARY:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        hint = f"`{host}` limits how much it serves: {login_command(host)}, or use a mirror" if status == 429 else None
        cause = f"`{origin.host_port}` answers: {words}"
        return UnavailableError(text, hint=hint, status=status, codes=codes, retry_after=wait, cause=cause)
    if status == 413:
        hint = "a proxy before the registry limits the size of uploads (nginx: client_max_body_size 0)"
        return NetworkError(text, hint=hint, status=status, codes=codes)
    return NetworkError(text, status=status, codes=codes)


def _explanation(response: Response) -> tuple[list[str], str]:
    """Read the codes of a registry's JSON error, and its first one in words; else the status, and a page's title."""
    data = b""
    errors: list[dict[str, Any]] = []
    with contextlib.suppress(NetworkError, ValueError, KeyError, TypeError, RecursionError):
        data = response.read(_ERROR_LIMIT)
        errors = [error for error in json.loads(data)["errors"] if isinstance(error, dict)]
    codes = [error["code"] for error in errors if isinstance(error.get("code"), str)]
    words = ": ".join(str(errors[0][key]) for key in ("code", "message") if errors[0].get(key)) if errors else ""
    words = "".join(letter for letter in words if letter.isprintable())[:200]
    page = title(data)
    return codes, words or f"HTTP status {response.status}" + (f", `{page}`" if page else "")


def _retry_after(value: str) -> Optional[float]:
    """Read Retry-After in seconds (RFC 9110, section 10.2.3: a number or a date); None when it is neither."""
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, TypeError, ValueError, IndexError, OverflowError):
        return None
