"""The registry that takes BuildKit's caches: what is whole is in the record, what is not is nowhere."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from bundler.recording.cache_registry import CacheRegistry
from bundler.recording.directory import RecordDirectory
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest

LAYER = b"a layer" * 400_000
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": str(Digest.of(b"{}")), "size": 2},
    "layers": [],
}


class Push:
    """A client of the registry, on one connection."""

    def __init__(self, record: RecordDirectory) -> None:
        self.record = record
        self.registry = CacheRegistry(record)
        host, _, name = self.registry.reference("127.0.0.1", "app").partition("/")
        self.start = f"/v2/{name.removesuffix(':app')}/"
        self._connection = http.client.HTTPConnection(host, timeout=20)

    def ask(
        self, method: str, path: str, body: Optional[bytes] = None, headers: Optional[dict[str, str]] = None
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        response.read()
        return response

    def put(self, data: bytes, digest: object) -> int:
        location = self.ask("POST", f"{self.start}blobs/uploads/").headers["Location"]
        return self.ask("PUT", f"{location}?digest={digest}", data).status

    def close(self) -> None:
        self._connection.close()
        self.registry.close()
        self.record.close()

    def blobs(self) -> list[str]:
        return sorted(file.name for file in (self.record.path / "blobs" / "sha256").iterdir())

    def spooled(self) -> list[Path]:
        return list((self.record.path / "spool").iterdir())


@pytest.fixture
def push(tmp_path: Path) -> Iterator[Push]:
    record = RecordDirectory(tmp_path / "app.record")
    push = Push(record)
    yield push
    push.close()


def test_what_is_pushed_is_in_the_record(push: Push) -> None:
    assert push.ask("GET", "/v2/").status == 200
    assert push.ask("HEAD", f"{push.start}blobs/{Digest.of(LAYER)}").status == 404
    assert [push.put(data, Digest.of(data)) for data in (LAYER, b"{}")] == [201, 201]
    assert push.blobs() == sorted(Digest.of(data).hex for data in (LAYER, b"{}"))
    there = push.ask("HEAD", f"{push.start}blobs/{Digest.of(LAYER)}")
    assert (there.status, there.headers["Content-Length"]) == (200, str(len(LAYER)))
    manifest = json.dumps(MANIFEST).encode()
    done = push.ask("PUT", f"{push.start}manifests/app", manifest)
    assert (done.status, done.headers["Docker-Content-Digest"]) == (201, str(Digest.of(manifest)))
    assert push.ask("HEAD", f"{push.start}manifests/app").status == 404
    assert parse_manifest(push.record.caches["app"]).config.size == 2
    assert push.spooled() == []


def test_what_is_damaged_or_cut_is_not(push: Push) -> None:
    assert push.put(LAYER[:-1], Digest.of(LAYER)) == 400
    assert push.put(b"", Digest.of(b"")) == 400
    assert push.put(LAYER, "sha256:x") == 400
    assert push.put(LAYER, "") == 400
    assert push.ask("PUT", f"{push.start}manifests/app", b"{}").status == 400
    assert (push.blobs(), push.spooled(), push.record.caches) == ([], [], {})


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("GET", "/v2/other/blobs/x", {}, 404),
        ("POST", "/v2/other/blobs/uploads/", {}, 404),
        ("PUT", "/v2/other/blobs/uploads/x", {"Content-Length": "0"}, 404),
        ("PUT", "/v2/other/manifests/app", {"Content-Length": "0"}, 404),
        ("PUT", "{start}manifests/app", {"Transfer-Encoding": "chunked"}, 411),
        ("PUT", "{start}manifests/app", {"Content-Length": "99999999"}, 413),
        ("GET", "{start}manifests/app", {}, 404),
    ],
)
def test_there_is_nothing_else(push: Push, method: str, path: str, headers: dict[str, Any], status: int) -> None:
    assert push.ask(method, path.format(start=push.start), headers=headers).status == status
    assert (push.blobs(), push.record.caches) == ([], {})


def test_what_an_interrupted_run_left_is_asked_for_again(tmp_path: Path) -> None:
    for _ in range(2):
        record = RecordDirectory(tmp_path / "app.record")
        push = Push(record)
        assert push.ask("HEAD", f"{push.start}blobs/{Digest.of(LAYER)}").status == 404
        assert push.put(LAYER, Digest.of(LAYER)) == 201
        push.close()
