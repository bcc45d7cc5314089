"""What names a bucket, and what does not."""

from __future__ import annotations

import pytest

from bundles.errors import UsageError
from installer.model.job import is_directory
from installer.model.registry.storage import S3Storage, parse_endpoint, parse_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://registry", ("registry", "")),
        ("s3://registry/", ("registry", "")),
        ("s3://my.bucket/team/a", ("my.bucket", "team/a")),
        ("s3://my.bucket/team/a/", ("my.bucket", "team/a")),
    ],
)
def test_a_place(text: str, place: tuple[str, str]) -> None:
    assert parse_place(text) == place
    storage = S3Storage(*place, "http://s3:9000")
    assert parse_place(str(storage)) == place
    assert S3Storage.from_json(storage.to_json()) == storage
    assert not is_directory(str(storage))


@pytest.mark.parametrize("text", ["registry", "s3://", "s3:///x", "s3://b/../x", "s3://b/a b", "s3://b/.x", "/data"])
def test_no_place(text: str) -> None:
    with pytest.raises(UsageError):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://192.168.1.5:9000", "http://192.168.1.5:9000"),
        ("https://s3.corp/", "https://s3.corp"),
        ("https://S3.corp", "https://s3.corp"),
        (f"https://{'x' * 63}.s3_a.corp:", f"https://{'x' * 63}.s3_a.corp"),
        ("http://[fd00::1]:9000", "http://[fd00::1]:9000"),
    ],
)
def test_an_endpoint(text: str, endpoint: str) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "s3.corp:9000",
        "https://s3.corp/bucket",
        "https://s3.corp?x=1",
        "ftp://s3.corp",
        "https://s3..corp",
        f"https://{'x' * 64}.corp",
        "https://" + ".".join(["x" * 60] * 5),
        "https://a b",
        "https://s3.corp:0",
        "https://s3.corp:99999",
        "https://b\u00fccher.example",
        "http://[::g]:9000",
        "http://[fe80::1%eth0]:9000",
    ],
)
def test_no_endpoint(text: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(text)


def test_a_login_in_an_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint("https://AKIA1:hunter2@s3.corp")
    assert "hunter2" not in str(caught.value) and "AKIA1" not in str(caught.value)
