"""Web pages in the place of a registry's answers: what proxies, portals and logins of the network put there."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Optional

from bundles.errors import ContentError
from bundles.registry.urls import Origin

_HTML = frozenset({"text/html", "application/xhtml+xml"})
# The title of a page, and the message of a storage's XML.
_TITLE = re.compile(rb"<(?:title|message)\b[^>]*>\s*([^<]{1,200})", re.IGNORECASE)


def title(data: bytes) -> str:
    """Return what a page calls itself, in printable letters; empty when it does not."""
    found = _TITLE.search(data[:65536])
    text = html.unescape(found[1].decode("utf-8", "replace")) if found else ""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:100]


def is_web_page(headers: Mapping[str, str], data: bytes) -> bool:
    """Tell whether an answer is a web page, of which `data` is at least the beginning."""
    start = data.lstrip()[:15].lower()
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return start[:1] == b"<" and (kind in _HTML or start.startswith((b"<!doctype html", b"<html")))


def web_page(url: str, headers: Mapping[str, str], data: bytes, what: str) -> Optional[ContentError]:
    """Return the error for an answer that is a web page, which says from which host; None for any other.

    Args:
        url: where it came from, after all redirects.
        headers: of the answer.
        data: its beginning.
        what: was asked for.
    """
    if not is_web_page(headers, data):
        return None
    origin = Origin.of(url)
    name = title(data)
    page = f"`{origin.host_port}` sent a web page" + (f", `{name}`" if name else "")
    return ContentError(
        f"{page}, in the place of {what}",
        hint="a proxy, a portal or a single sign-on answers there: see what a browser shows at "
        f"{origin.scheme}://{origin.host_port}/v2/, and check HTTPS_PROXY and NO_PROXY",
        status=200,
        cause=page,
    )


def refuse_web_page(url: str, headers: Mapping[str, str], data: bytes, what: str) -> None:
    """Check that an answer is not a web page; the arguments are those of `web_page`.

    Raises:
        ContentError: it is one.
    """
    page = web_page(url, headers, data, what)
    if page:
        raise page
