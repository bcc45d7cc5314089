"""The tape: URLs without secrets, what answers a request, and the same bytes for the same answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import pytest

from bundles.archive.tape.answer import Answer, Tape, asked_headers, kept_headers, media_type_of
from bundles.archive.tape.manifest import manifest_of, record_of, split
from bundles.archive.tape.record import Recorded
from bundles.archive.tape.url import hides, is_secret, normalise, shown
from bundles.errors import ArchiveError, NewerFormatError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform

SECRETS = """
    authToken accessKey clientSecret refreshToken sessionid passphrase pass_phrase apitoken jobtoken APIKey apiKEY
    secretkey key2 JSESSIONID PHPSESSID SAMLToken oauth_token userPass user[password] secret_id tokenValue
    q-signature private_token pwd sid X-JFrog-Art-Api X-Api-Key X-NuGet-ApiKey Ocp-Apim-Subscription-Key
    Authorization Proxy-Authorization Cookie
"""
OTHERS = """
    keyword design monkey tokenizer author token_type X-Token-Type npm-auth-type X-Amz-Date X-Amz-SignedHeaders
    api version page max_tokens secretary compass accept content-type etag x-checksum-sha256 docker-content-digest
    git-protocol 1 -
"""


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
        # A name in other spellings.
        ("https://h/?to%6ben=x&to%256ben=x", "https://h/?to%6ben=-&to%256ben=-"),
        ("https://h/?access-token[]=x&auth%5Btoken%5D=y", "https://h/?access-token[]=-&auth%5Btoken%5D=-"),
        # Parameters that a semicolon parts; what follows one without a name is of the value.
        ("https://h/?a=1;token=x;b=2", "https://h/?a=1;token=-;b=2"),
        ("https://h/?a=1;b;token=x;y;c=2&d", "https://h/?a=1;b;token=-;c=2&d"),
        ("https://h/?a=1&amp;token=x", "https://h/?a=1&amp;token=-"),
        ("https://h/page;jsessionid=x/more;v=1?a", "https://h/page;jsessionid=-/more;v=1?a"),
        # A secret in a value: an address, JSON, a signed policy.
        ("https://h/?to=https%3A%2F%2Fi%2F%3Fa%3Db%26token%3Dx&c", "https://h/?to=https://i/?a=b%26token=-&c"),
        ("https://h/?to=https://me:x@i/", "https://h/?to=https://i/"),
        ("https://h/?q=%7B%22token%22%3A%22x%22%7D", "https://h/?q=%7B%22token%22:-"),
        ("https://h/?p=exp=1~acl=/*~hmac=x", "https://h/?p=exp=1~acl=/*~hmac=-"),
        # What has no secret stays as it is spelt, and what stands in a path is not looked at.
        (
            "https://h/key=1/?to=https%3A%2F%2Fi%2F%3Fa%3Db%2526c",
            "https://h/key=1/?to=https%3A%2F%2Fi%2F%3Fa%3Db%2526c",
        ),
        ("https://h/?a=1;b=2;c&;d=;&", "https://h/?a=1;b=2;c&;d=;&"),
    ],
)
def test_a_url_has_one_spelling_and_no_secret(url: str, kept: str) -> None:
    assert normalise(url) == kept
    assert normalise(kept) == kept
    assert hides(kept) == ("=-" in kept or ":-" in kept)


@pytest.mark.parametrize(
    "name",
    SECRETS.split(),
)
def test_names_of_secrets_are_known_in_every_writing(name: str) -> None:
    assert is_secret(name)
    assert is_secret(name.replace("e", "%65"))


@pytest.mark.parametrize(
    "name",
    OTHERS.split(),
)
def test_names_of_other_things_are_not(name: str) -> None:
    assert not is_secret(name)


def test_the_parameters_of_a_long_url_are_gone_through_once() -> None:
    for text in ("a" * 200_000, "%25" * 50_000, "token=" * 50_000, "%74oken%3Da%26" * 10_000, ";a" * 100_000):
        kept = normalise(f"https://h/;{text}?{text}")
        assert normalise(kept) == kept


def test_what_is_shown_is_without_secrets() -> None:
    assert shown("https://me:x@h/a.git?token=y&a#main") == "https://h/a.git?token=-&a#main"
    assert shown("ssh://me:x@h/a.git?token=y") == "ssh://h/a.git?token=-"
    assert shown("git@h:team/a.git") == "git@h:team/a.git"
    assert shown("https://h:x/?token=y") == "https://h:x/?token=-"
    with pytest.raises(UsageError, match=re.escape("`app://h/?token=-` is not an http")):
        normalise("app://me:x@h/?token=y")


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
    request = {"x-jfrog-art-api": "s", "referer": "https://h/?apiKey=s", "x-page": "1"}
    assert asked_headers("X-JFrog-Art-Api, Referer, X-Page", request) == {"accept": "", "x-page": "1"}


def test_headers_that_hold_addresses_lose_the_secrets_in_them() -> None:
    links = '<https://h/c?page=2&access_token=s>; rel="next", <d?sig=s>; rel="last"'
    came = {"Link": links, "Content-Location": "c?sig=s", "Refresh": "5; url=https://h/?token=s", "X-Api-Key": "s"}
    assert kept_headers("https://h/a/b", came) == {
        "link": '<https://h/c?page=2&access_token=->; rel="next", <https://h/a/d?sig=->; rel="last"',
        "content-location": "https://h/a/c?sig=-",
    }
    # What may hold an address and is not known to goes as a whole.
    other = {"X-Download": "https://h/?clientSecret=s", "X-Original": "/a%3Ftoken%3Ds", "X-State": '{"token": "s"}'}
    assert kept_headers("https://h/", {**other, "X-Page": "https://h/?page=2"}) == {"x-page": "https://h/?page=2"}
    assert kept_headers("https://h/", {"Link": "<mailto:a@h?token=s>", "Content-Location": "app://h"}) == {}
    assert kept_headers("https://h/", {"Location": "/key=1/"}) == {"location": "https://h/key=1/"}


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


def test_a_tape_of_another_version_is_read_without_secrets() -> None:
    """One may have known fewer names of them."""
    tape = Tape.parse(b'{"version":1,"answers":[{"method":"GET","url":"http://u:p@h/?token=S","status":200}]}')
    assert [answer.url for answer in tape] == ["http://h/?token=-"]
    assert tape.find("GET", "http://h/?token=other", {})
