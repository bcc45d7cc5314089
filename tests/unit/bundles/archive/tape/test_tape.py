"""The tape: URLs without secrets, what answers a request, and the same bytes for the same answers."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from bundles.archive.tape.answer import Answer, Tape, asked_headers, kept_headers, media_type_of
from bundles.archive.tape.manifest import manifest_of, record_of, split
from bundles.archive.tape.record import Recorded
from bundles.archive.tape.url import hides, normalise
from bundles.errors import ArchiveError, NewerFormatError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform


def page(url: str = "http://host/page", text: bytes = b"page", **fields: object) -> Answer:
    content = Descriptor.of("text/html", text)
    return Answer("GET", url, 200, {"content-type": "text/html; charset=utf-8"}, content, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url, kept",
    [
        ("HTTP://Host:80", "http://host/"),
        ("https://host:443/a?b=c&d#part", "https://host/a?b=c&d"),
        ("https://host:8443/%7ea", "https://host:8443/%7ea"),
        ("https://me:s3cr3t@host/", "https://host/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("https://h/?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/?X-Amz-Signature=-&X-Amz-Date=1"),
        ("https://h/?sv=1&sig=abc%3D", "https://h/?sv=1&sig=-"),
        ("https://h/?access_token=x&Token=y&api_key=z", "https://h/?access_token=-&Token=-&api_key=-"),
        ("https://h/?X-Amz-Security-Token=abc", "https://h/?X-Amz-Security-Token=-"),
        ("https://h/?keyword=x&design=y&token=", "https://h/?keyword=x&design=y&token="),
    ],
)
def test_a_url_has_one_spelling_and_no_secret(url: str, kept: str) -> None:
    assert normalise(url) == kept
    assert normalise(kept) == kept
    assert hides(kept) == ("=-" in kept)


@pytest.mark.parametrize("url", ["ftp://host/", "/page", "http://", "http://host:x/", "http://[::1/"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not an http or https URL"):
        normalise(url)


def test_an_answer_cannot_hold_a_secret_or_break_http() -> None:
    with pytest.raises(UsageError, match=r"`https://h/\?sig=-`"):
        page("https://h/?sig=abc")
    with pytest.raises(UsageError, match="a header"):
        Answer("GET", "http://h/", 200, {"x": "a\r\nset-cookie: b"})
    with pytest.raises(UsageError, match="status"):
        Answer("GET", "http://h/", 100)


def test_the_header_that_fits_decides_and_any_answer_is_better_than_none() -> None:
    html = page(text=b"<html>", asked={"accept": "text/html"})
    simple = page(text=b"{}", asked={"accept": "application/json"})
    missing = Answer("GET", "http://host/page", 404, asked={"accept": "x"})
    tape = Tape([html, missing, simple])
    assert tape.find("GET", "http://host:80/page#x", {"accept": "application/json"}) == simple
    assert tape.find("GET", "http://host/page", {"accept": "x"}) == missing
    assert tape.find("GET", "http://host/page", {}) == html
    assert tape.find_exact("GET", "http://host/page", {}) is None
    assert tape.find("HEAD", "http://host/page", {"accept": "text/html"}) == html
    assert tape.find("POST", "http://host/page", {}) is None
    assert tape.find("GET", "http://host/other", {}) is None


def test_the_body_of_a_request_is_part_of_it() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    first = Answer("POST", "http://h/", 200, body=one)
    tape = Tape([first, dataclasses.replace(first, status=204, body=two)])
    assert tape.find("POST", "http://h/", {}, one) == first
    assert tape.find("POST", "http://h/", {}, Digest.of(b"3")) is None


def test_a_later_answer_takes_the_place_of_an_earlier_one() -> None:
    tape = Tape([Answer("GET", "http://h/", 401), page("http://h/")])
    assert [answer.status for answer in tape] == [200]


def test_the_same_answers_are_the_same_bytes_and_come_back() -> None:
    answers = [
        page("http://h/b", b"x" * 1000, asked={"accept": "b", "x-y": ""}),
        page("http://h/b", b"y", asked={"accept": "a"}, login=True),
        Answer("POST", "http://h/a", 204, {"etag": '"\u00e9"'}, body=Digest.of(b"q")),
        Answer("HEAD", "http://h/a", 200, {"content-length": "12"}),
    ]
    written = {Tape(order).to_bytes() for order in itertools.permutations(answers)}
    assert len(written) == 1
    data = written.pop()
    assert list(Tape.parse(data)) == sorted(
        answers, key=lambda a: (a.url, a.method, str(a.body), a.asked["accept"] if a.asked else "")
    )
    assert Tape.parse(data).to_bytes() == data
    assert json.loads(data)["answers"][2] == {
        "method": "GET",
        "url": "http://h/b",
        "status": 200,
        "headers": {"content-type": "text/html; charset=utf-8"},
        "asked": {"accept": "a"},
        "digest": str(Digest.of(b"y")),
        "size": 1,
        "login": True,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"version":1}',
        b'{"version":1,"answers":[{}]}',
        b'{"version":1,"answers":[{"method":"GET","url":"http://u:p@h/","status":200}]}',
        b'{"version":1,"answers":[{"method":"GET","url":"http://h/","status":200,"headers":{"a":1}}]}',
        b'{"version":1,"answers":[{"method":"GET","url":"http://h/","status":200,"digest":"sha256:x","size":1}]}',
        b'{"version":1,"answers":[{"method":"GET","url":"http://h/","status":"200"}]}',
        b'{"version":1,"answers":[7]}',
    ],
)
def test_what_is_no_tape_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="the tape cannot be read"):
        Tape.parse(data)


def test_a_later_format_is_named() -> None:
    with pytest.raises(NewerFormatError, match="version 2"):
        Tape.parse(b'{"version":2,"answers":[]}')


def test_headers_of_the_session_are_not_kept() -> None:
    came = {"Content-Type": "a/b", "Set-Cookie": "x", "X-Auth-Token": "s", "Transfer-Encoding": "chunked", "ETag": "1"}
    assert kept_headers("http://h/", came) == {"content-type": "a/b", "etag": "1"}
    moved = kept_headers("http://h/a/b", {"Location": "../c?sig=s3cr3t#d"})
    assert moved == {"location": "http://h/c?sig=-"}
    request = {"accept": "x", "cookie": "s", "accept-language": "de", "private-token": "t"}
    assert asked_headers("Accept-Language, Cookie, Private-Token, Accept-Encoding, *", request) == {
        "accept": "x",
        "accept-language": "de",
    }
    assert asked_headers("", {}) == {"accept": ""}


def test_a_manifest_lists_each_content_once_under_a_type_that_registries_take() -> None:
    tape = Tape(
        [page("http://h/1"), page("http://h/2"), page("http://h/3", b"other"), Answer("GET", "http://h/4", 404)]
    )
    manifest = parse_manifest(manifest_of(tape))
    assert manifest.config == Descriptor.of("application/vnd.offline-bundle.tape.v1+json", tape.to_bytes())
    assert {layer.digest for layer in manifest.layers} == {Digest.of(b"page"), Digest.of(b"other")}
    assert json.loads(manifest_of(tape))["artifactType"] == "application/vnd.offline-bundle.tape.v1"
    assert media_type_of("Text/HTML; charset=x") == "text/html"
    for strange in ("", "nonsense", "a/b c", "application/vnd.oci.image.manifest.v1+json", "x" * 300 + "/y"):
        assert media_type_of(strange) == "application/octet-stream"


def test_the_record_is_the_first_layer_and_no_page_can_pass_for_it() -> None:
    recorded = Recorded("app", "v0.34.2", (Platform("linux", "amd64"),), ())
    media_type = "application/vnd.offline-bundle.record.v1+json"
    manifest = parse_manifest(manifest_of(Tape([page()]), recorded))
    assert manifest.layers[0] == Descriptor.of(media_type, recorded.to_bytes()) == record_of(manifest)
    assert manifest.layers[1].digest == Digest.of(b"page")
    assert record_of(parse_manifest(manifest_of(Tape([page()])))) is None
    assert record_of(parse_manifest(manifest_of(Tape()))) is None
    assert media_type_of(media_type) == "application/octet-stream"


def test_a_long_tape_is_cut_by_url_and_an_empty_one_is_a_tape() -> None:
    tape = Tape(page(f"http://h/{number}") for number in range(5))
    parts = list(split(tape, 2))
    assert [[answer.url[-1] for answer in part] for part in parts] == [["0", "1"], ["2", "3"], ["4"]]
    assert [len(part) for part in split(Tape())] == [0]
    assert [len(part) for part in split(tape, 5)] == [5]
