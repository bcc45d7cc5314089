"""Answers that are errors: what a status and a registry's JSON error mean (distribution-spec "Error Codes")."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Sequence
from typing import Any, Optional

from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from bundles.errors import AuthenticationError, NetworkError, NotFoundError, TooLargeError, UnavailableError
from bundles.registry.auth import login_command, scope_repository, scope_writes
from bundles.registry.connections import Response
from bundles.registry.urls import Origin
from bundles.registry.web_page import title, web_page

TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_LIMIT = 64 << 10


class Login(enum.Enum):
    """What is known of the login of a request that was refused."""

    MISSING = "there was none, or it is no good"
    UNASKED = "the registry does not say that one helps"
    GOOD = "somebody took it: it is a right that is missing"


def refusal(
    response: Response, host: str, scope: str, home: Optional[Origin] = None, login: Login = Login.MISSING
) -> NetworkError:
    """Return the error that an unexpected status stands for, with what the answer says about it.

    Args:
        response: the answer.
        host: the registry, as references name it.
        scope: what the request needed.
        home: where the registry is; what answers elsewhere is the storage to which it leads.
        login: what is known of the login that the request had.
    """
    data = _beginning(response)
    page = web_page(response.url, response.headers, data, f"an answer of `{host}`") if response.status < 300 else None
    return page or _meaning(response, data, host, scope, home=home, login=login)


def _meaning(
    response: Response, data: bytes, host: str, scope: str, *, home: Optional[Origin], login: Login
) -> NetworkError:
    codes, words = _explanation(response.status, data)
    status = response.status
    text = f"{response.action}: {words}"
    origin = Origin.of(response.url)
    if status == 404:
        return NotFoundError(text, status=status, codes=codes, said=words)
    if status in (401, 403) and home and origin != home:
        return NetworkError(
            f"the storage `{origin.host_port}`, to which `{host}` leads, refused access: {words} ({response.action})",
            hint="its address was fresh: check the clock here, and whether a proxy or firewall lets this host through",
            status=status,
            codes=codes,
            cause=f"the storage `{origin.host_port}`, to which `{host}` leads, refused access: {words}",
            said=words,
        )
    if status in (401, 403):
        repository = scope_repository(scope)
        error = AuthenticationError(
            f"`{host}` refused access{f' to `{repository}`' if repository else ''}: {words}",
            hint=_missing_login(host) if login is Login.MISSING else _missing_right(host, scope, login),
            status=status,
            codes=codes,
            # Of all repositories there it is said once.
            cause=f"`{host}` refused access: {words}",
            said=words,
        )
        error.login_taken = login is Login.GOOD
        return error
    if status in TEMPORARY:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        hint = _patience(host, scope) if status == 429 else None
        cause = f"`{origin.host_port}` answers: {words}"
        return UnavailableError(text, hint=hint, status=status, codes=codes, retry_after=wait, cause=cause, said=words)
    if status == 413:
        return _too_large(response, text, codes, words)
    cause = f"`{origin.host_port}` answers: {words}"
    return NetworkError(text, status=status, codes=codes, cause=cause, said=words)


def _missing_login(host: str) -> str:
    return f"{login_command(host)}; and check the name: registries answer like this for unknown ones, too"


def _missing_right(host: str, scope: str, login: Login) -> str:
    """Say what to do where no other login helps. Who may not see something is not told either that it is missing."""
    good = f"the login for `{host}` is good: " if login is Login.GOOD else ""
    project, _, rest = scope_repository(scope).partition("/")
    if not project:
        return f"{good}ask who administers `{host}` for the right to this"
    action, role = ("push", "Developer") if scope_writes(scope) else ("pull", "Guest")
    where = f"the project `{project}`" if rest else f"`{project}`"
    return (
        f"{good}see whether {where} exists there, which a push does not make, and whether this login may {action} "
        f"there (in Harbor: a member with the role {role})"
    )


def _patience(host: str, scope: str) -> str:
    if not scope:
        # A token server, or a registry as such: a login there is not what helps.
        return f"`{host}` limits how often it is asked: run this again later"
    if scope_writes(scope):
        return f"`{host}` limits how much it takes: run this again later, and what is there is not sent again"
    return f"`{host}` limits how much it serves: {login_command(host)}, or use a mirror"


def _too_large(response: Response, text: str, codes: Sequence[str], words: str) -> TooLargeError:
    """Say whose limit it is: a registry answers in its own form, and a proxy before it with a page, or nothing."""
    hint = "a proxy before the registry limits the size of uploads (nginx: client_max_body_size 0)"
    error = TooLargeError(text, hint=None if codes else hint, status=413, codes=codes, said=words)
    name = response.headers.get("Server", "") if not codes else ""
    error.server = "".join(letter for letter in name if letter.isprintable())[:50]
    return error


def _beginning(response: Response) -> bytes:
    with contextlib.suppress(NetworkError):
        return response.read(_ERROR_LIMIT)
    return b""


def _explanation(status: int, data: bytes) -> tuple[list[str], str]:
    """Read the codes of a registry's JSON error, and its first one in words; else the status, and a page's title.

    Nexus has the reason in `detail` alone, and zot sends the error of a wrong login without a list around it.
    """
    errors: list[dict[str, Any]] = []
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        document = json.loads(data)
        listed = [document] if "code" in document else document["errors"]
        errors = [error for error in listed if isinstance(error, dict)]
    codes = [error["code"] for error in errors if isinstance(error.get("code"), str)]
    first = errors[0] if errors else {}
    texts = [str(first[key]) for key in ("code", "message") if first.get(key)]
    words = ": ".join([*texts, *([first["detail"]] if isinstance(first.get("detail"), str) else [])])
    words = "".join(letter for letter in words if letter.isprintable())[:200]
    page = title(data)
    return codes, words or f"HTTP status {status}" + (f", `{page}`" if page else "")


def _retry_after(value: str) -> Optional[float]:
    """Read Retry-After in seconds (RFC 9110, section 10.2.3: a number or a date); None when it is neither."""
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, TypeError, ValueError, IndexError, OverflowError):
        return None
