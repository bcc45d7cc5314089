"""An answer of a tape as a response: ranges, conditions and HEAD, as the web server that gave it would."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Callable

from bundles.archive.tape.answer import Answer
from bundles.oci.descriptor import Descriptor
from bundles.proxy.server import Request, Response

# Gives `size` bytes of a content from an offset on.
Read = Callable[[Descriptor, int, int], Iterable[bytes]]


def play(answer: Answer, request: Request, read: Read) -> Response:
    """Return what a client gets for `request`."""
    headers = dict(answer.headers)
    head_length = headers.pop("content-length", None)
    if answer.status == 200 and _unchanged(answer, request):
        return Response(304, headers)
    content = answer.content
    if content is None:
        return Response(answer.status, headers, int(head_length or 0))
    start, end = _range(answer, request, content.size)
    status = answer.status
    if (start, end) != (0, content.size):
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{content.size}"
    elif status == 200:
        headers["accept-ranges"] = "bytes"
    return Response(status, headers, end - start, read(content, start, end - start))


def _unchanged(answer: Answer, request: Request) -> bool:
    tag, modified = answer.headers.get("etag"), answer.headers.get("last-modified")
    if "if-none-match" in request.headers:
        return tag is not None and tag in (item.strip() for item in request.headers["if-none-match"].split(","))
    return modified is not None and request.headers.get("if-modified-since") == modified


def _range(answer: Answer, request: Request, size: int) -> tuple[int, int]:
    """Return where to begin and to end: with the whole where nothing else, or nothing that can be had, is asked."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""), re.ASCII)
    condition = request.headers.get("if-range")
    if (
        not match
        or answer.status != 200
        or condition not in (None, *map(answer.headers.get, ("etag", "last-modified")))
    ):
        return 0, size
    start, end = int(match[1]), min(int(match[2] or size - 1), size - 1) + 1
    return (start, end) if start < end else (0, size)
