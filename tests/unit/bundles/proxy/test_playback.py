"""Playing an answer: the whole, a part, nothing new, the head alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bundles.archive.tape.answer import Answer
from bundles.oci.descriptor import Descriptor
from bundles.proxy.playback import play
from bundles.proxy.server import Request

TEXT = b"0123456789"
PAGE = Answer("GET", "http://h/", 200, {"etag": '"1"', "last-modified": "Mon"}, Descriptor.of("text/plain", TEXT))


def read(content: Descriptor, start: int, size: int) -> Iterator[bytes]:
    assert content == PAGE.content
    yield TEXT[start : start + size]


@pytest.mark.parametrize(
    "headers, status, body, content_range",
    [
        ({}, 200, TEXT, None),
        ({"range": "bytes=2-4"}, 206, b"234", "bytes 2-4/10"),
        ({"range": "bytes=7-"}, 206, b"789", "bytes 7-9/10"),
        ({"range": "bytes=7-99"}, 206, b"789", "bytes 7-9/10"),
        ({"range": "bytes=0-9"}, 200, TEXT, None),
        ({"range": "bytes=10-"}, 200, TEXT, None),
        ({"range": "bytes=-3"}, 200, TEXT, None),
        ({"range": "bytes=2-4", "if-range": '"1"'}, 206, b"234", "bytes 2-4/10"),
        ({"range": "bytes=2-4", "if-range": '"2"'}, 200, TEXT, None),
        ({"if-none-match": '"0", "1"'}, 304, b"", None),
        ({"if-none-match": '"0"', "if-modified-since": "Mon"}, 200, TEXT, None),
        ({"if-modified-since": "Mon"}, 304, b"", None),
        ({"if-modified-since": "Tue"}, 200, TEXT, None),
    ],
)
def test_play(headers: dict[str, str], status: int, body: bytes, content_range: str) -> None:
    response = play(PAGE, Request("GET", "http://h/", headers), read)
    assert (response.status, b"".join(response.pieces)) == (status, body)
    assert response.headers.get("content-range") == content_range
    assert response.length == len(body)


def test_an_answer_to_head_has_the_length_of_what_it_leaves_out() -> None:
    asked = Request("HEAD", "http://h/", {})
    assert play(PAGE, asked, read).length == 10
    head = play(Answer("HEAD", "http://h/", 200, {"content-length": "77", "etag": "x"}), asked, read)
    assert (head.length, head.headers, list(head.pieces)) == (77, {"etag": "x"}, [])


def test_an_error_and_a_redirect_are_played_as_they_came() -> None:
    moved = play(Answer("GET", "http://h/", 302, {"location": "http://h/x"}), Request("GET", "http://h/", {}), read)
    assert (moved.status, moved.headers, moved.length) == (302, {"location": "http://h/x"}, 0)
