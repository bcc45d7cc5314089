"""Answers that are errors: what a status and a registry's JSON error mean (distribution-spec "Error Codes")."""

from __future__ import annotations

import json
from typing import Any, Optional

from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from bundles.errors import AuthenticationError, NetworkError, NotFoundError, UnavailableError
from bundles.registry.auth import login_command, scope_subject
from bundles.registry.connections import Response

TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_LIMIT = 64 << 10


def refusal(response: Response, host: str, scope: str) -> NetworkError:
    """Return the error that an unexpected status stands for, with what the registry says about it."""
    codes, words = _explanation(response)
    status = response.status
    text = f"{response.action}: {words}" if words else f"{response.action}: HTTP status {status}"
    if status == 404:
        return NotFoundError(text, status=status, codes=codes)
    if status in (401, 403):
        return AuthenticationError(
            f"`{host}` refused access to `{scope_subject(scope)}`: {words or f'HTTP status {status}'}",
            hint=f"{login_command(host)}; and check the name: registries answer like this for unknown ones, too",
            status=status,
            codes=codes,
        )
    if status in TEMPORARY:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        hint = f"`{host}` limits how much it serves: {login_command(host)}, or use a mirror" if status == 429 else None
        return UnavailableError(text, hint=hint, status=status, codes=codes, retry_after=wait)
    if status == 413:
        hint = "a proxy before the registry limits the size of uploads (nginx: client_max_body_size 0)"
        return NetworkError(text, hint=hint, status=status, codes=codes)
    return NetworkError(text, status=status, codes=codes)


def _explanation(response: Response) -> tuple[list[str], str]:
    """Read the codes of a registry's JSON error, and its first one in words. Nothing when there is none."""
    try:
        value: Any = json.loads(response.read(_ERROR_LIMIT))
        errors = [error for error in value["errors"] if isinstance(error, dict)]
    except (NetworkError, ValueError, KeyError, TypeError, RecursionError):
        return [], ""
    codes = [error["code"] for error in errors if isinstance(error.get("code"), str)]
    if not errors:
        return codes, ""
    words = ": ".join(str(errors[0][key]) for key in ("code", "message") if errors[0].get(key))
    return codes, "".join(letter for letter in words if letter.isprintable())[:200]


def _retry_after(value: str) -> Optional[float]:
    """Read Retry-After in seconds (RFC 9110, section 10.2.3: a number or a date); None when it is neither."""
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, TypeError, ValueError, IndexError, OverflowError):
        return None
