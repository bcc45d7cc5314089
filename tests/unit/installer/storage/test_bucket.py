"""Signatures, as the documentation of S3 has them, and errors of connections."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time

import pytest

from bundles.errors import NetworkError, UnreachableError
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.storage.bucket import Answer, Bucket, authorization

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_signature_is_that_of_the_documentation() -> None:
    """S3 API reference, "Using the Authorization Header": its examples GET Bucket Lifecycle and List Objects."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    now = datetime.datetime(2013, 5, 24, tzinfo=datetime.timezone.utc)
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
    }
    for query, signature in (
        ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ):
        assert authorization("us-east-1", keys, now, f"GET\n/\n{query}", headers) == (
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
            f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
        )


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UnreachableError) as caught:
            Bucket(S3Storage("b", "", endpoint), Keys("AKIA1", "hunter2")).send("GET")
    assert caught.value.message == f"the S3 storage `{endpoint}` does not answer: connection refused"
    assert caught.value.hint == f"curl -v {endpoint}"


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_what_is_no_storage(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(9999)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NetworkError):
            Bucket(S3Storage("b", "", f"http://127.0.0.1:{server.getsockname()[1]}"), Keys("a", "b")).send("GET")
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nX-Long: "


@pytest.mark.parametrize(
    "begun", [HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_what_never_ends_is_ended(begun: bytes) -> None:
    """A byte now and then is no silence; where the end of the connection is that of the answer, it looks whole."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(9999)
                connection.sendall(begun)
                # At most this long, should nobody end it.
                for _ in range(200):
                    connection.sendall(b"x")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        storage = S3Storage("b", "", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UnreachableError, match="does not answer: timed out"):
            Bucket(storage, Keys("a", "b"), timeout=0.5).send("GET")
        assert 0.9 < time.monotonic() - began < 5
        thread.join()


def test_an_error_is_read() -> None:
    data = b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>it &amp; all\x1b[1m</Message></Error>"
    answer = Answer(404, data, None, None)
    assert (answer.code, answer.element("Message"), answer.element("Region")) == ("NoSuchBucket", "it & all[1m", "")
