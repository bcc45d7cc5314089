"""The recorder between a client and an https origin: what the client gets, what is kept, what is asked again."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from bundler.definition.record import read_record
from bundler.recording.directory import RecordDirectory
from bundler.recording.recorder import Recorder
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.record import Recorded, RecordedBuild
from bundles.errors import BundleError, ContentError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.proxy.certificates import Authority
from bundles.proxy.listener import listen
from bundles.proxy.server import Handler, ProxyServer, Reply, Request, Response
from bundles.registry.connections import Connections
from bundles.registry.proxies import Proxies
from tests.support.proxy_client import ProxyClient
from tests.support.web_origin import BIG, WebOrigin

RECORDED = Recorded("app", "v0.34.2", (Platform("linux", "amd64"),), ())
BUILDKIT = {"User_Agent": "buildkit/v0.34"}


class Recording:
    """A recorder at work; `stop` ends it as an interruption does."""

    def __init__(self, path: Path, ca: Path, trusted: Optional[Path] = None) -> None:
        self.record = RecordDirectory(path)
        self._network = Connections(frozenset(), trusted, (), (5.0, 5.0), Proxies())
        self.recorder = Recorder(self.record, self._network, backoff=0.001)
        self._server = ProxyServer(listen(0), Authority(ca), self.recorder)
        self.client = ProxyClient(self._server.port, ca / "ca.pem")

    def stop(self) -> None:
        self._server.close()
        self._network.close()
        self.record.close()

    def kept(self, url: str) -> Answer:
        found = self.record.tape.find("GET", url, {})
        assert found is not None, [answer.url for answer in self.record.tape]
        return found

    def content(self, url: str) -> bytes:
        content = self.kept(url).content
        assert content is not None
        data = (self.record.path / content.digest.blob_path).read_bytes()
        assert (Digest.of(data), len(data)) == (content.digest, content.size)
        return data


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[WebOrigin]:
    origin = WebOrigin(Authority(tmp_path / "origin").context("localhost"))
    yield origin
    origin.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.record"


@pytest.fixture
def recording(path: Path, tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(path, tmp_path / "ca")
    yield recording
    recording.stop()


def test_a_signed_redirect_is_followed_and_the_signature_never_written(
    recording: Recording, origin: WebOrigin, path: Path
) -> None:
    moved = recording.client.get(f"{origin.url}/release")
    assert (moved.status, moved.headers["location"]) == (302, f"{origin.url}/signed?se=1&sig=-")
    assert recording.client.get(moved.headers["location"]).body == b"the release"
    assert recording.content(f"{origin.url}/signed?se=1&sig=-") == b"the release"
    assert recording.kept(f"{origin.url}/signed?se=1&sig=-").headers["content-type"] == "application/gzip"
    assert recording.kept(f"{origin.url}/release").content is None
    again = recording.client.get(f"{origin.url}/release")
    assert (again.status, again.headers["location"], again.body) == (302, moved.headers["location"], b"")
    recording.record.finish(RECORDED)
    written = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    (signature,) = origin.signatures
    assert signature.encode() not in written
    assert origin.paths() == ["GET /release", "GET /signed"]


def test_what_was_kept_is_not_asked_for_again(recording: Recording, origin: WebOrigin) -> None:
    first = recording.client.get(f"{origin.url}/page", Accept="text/html", Cookie="a=b")
    again = recording.client.get(f"{origin.url}/page", Accept="text/html", Cookie="c=d")
    other = recording.client.get(f"{origin.url}/page", Accept="application/json")
    assert first.body == again.body == b"page for text/html"
    assert other.body == b"page for application/json"
    assert origin.paths() == ["GET /page", "GET /page"]
    found = recording.record.tape.find("GET", f"{origin.url}/page", {"accept": "application/json"})
    assert found is not None and found.asked == {"accept": "application/json"}
    assert found.headers == {"content-type": "text/html", "etag": '"1"'}
    assert recording.record.tape.find("GET", f"{origin.url}/page", {"accept": "text/html"}).login  # type: ignore[union-attr]
    assert not found.login


def test_two_clients_at_once_are_one_request(recording: Recording, origin: WebOrigin) -> None:
    bodies: list[bytes] = []
    ask = lambda: bodies.append(recording.client.get(f"{origin.url}/big").body)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [BIG] * 4
    assert origin.paths() == ["GET /big"]


def test_a_part_is_asked_for_whole(recording: Recording, origin: WebOrigin) -> None:
    came = recording.client.get(f"{origin.url}/big", Range="bytes=2-5", If_None_Match='"x"')
    assert (came.status, came.body) == (200, BIG)
    assert not {"range", "if-none-match"} & set(origin.seen[0][2])
    assert recording.content(f"{origin.url}/big") == BIG
    part = recording.client.get(f"{origin.url}/big", Range="bytes=2-5")
    assert (part.status, part.body) == (206, BIG[2:6])
    assert len(origin.seen) == 1


def test_a_body_of_unknown_length_and_a_post_and_a_head(recording: Recording, origin: WebOrigin) -> None:
    assert recording.client.get(f"{origin.url}/chunked").body == b"hello" * 3
    assert recording.content(f"{origin.url}/chunked") == b"hello" * 3
    assert recording.client.ask("POST", f"{origin.url}/post", b"a=1").body == b"posted a=1"
    assert recording.client.ask("POST", f"{origin.url}/post", b"a=2").body == b"posted a=2"
    assert recording.client.ask("POST", f"{origin.url}/post", b"a=1").body == b"posted a=1"
    assert origin.paths().count("POST /post") == 2
    head = recording.client.ask("HEAD", f"{origin.url}/big")
    assert (head.headers["content-length"], head.body) == (str(len(BIG)), b"")
    kept = recording.record.tape.find_exact("HEAD", f"{origin.url}/big", {})
    assert kept is not None and kept.headers["content-length"] == str(len(BIG)) and kept.content is None
    assert any("POST" in note and "/post" in note for note in recording.recorder.notes())


def test_a_relative_redirect_becomes_absolute(recording: Recording, origin: WebOrigin) -> None:
    assert recording.client.get(f"{origin.url}/relative").headers["location"] == f"{origin.url}/page"
    assert recording.kept(f"{origin.url}/relative").headers["location"] == f"{origin.url}/page"


def test_what_is_behind_a_login_is_kept_and_named(recording: Recording, origin: WebOrigin, path: Path) -> None:
    refused = recording.client.get(f"{origin.url}/login")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="x"')
    assert recording.client.get(f"{origin.url}/login", Authorization="Basic c2VjcmV0").body == b"private"
    assert recording.kept(f"{origin.url}/login").login
    (note,) = recording.recorder.notes()
    assert note.startswith(origin.url.removeprefix("https://")) and "login" in note
    recording.record.finish(RECORDED)
    assert not any(b"c2VjcmV0" in file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_a_token_in_a_url_is_not_written_and_what_it_changes_is_named(
    recording: Recording, origin: WebOrigin, path: Path
) -> None:
    url = f"{origin.url}/token?token="
    assert recording.client.get(f"{url}one").body == b"for token=one"
    assert recording.client.get(f"{url}one").body == b"for token=one"
    assert recording.client.get(f"{url}two").body == b"for token=two"
    assert len(origin.seen) == 2
    notes = recording.recorder.notes()
    assert f"{url}-: the values of secrets are left out of it" in notes
    assert f"{url}- differs with the secret in it: only the last answer is kept" in notes
    assert "one" not in (path / "tape.jsonl").read_text()


def test_a_token_in_headers_is_a_login_and_is_not_written(recording: Recording, origin: WebOrigin, path: Path) -> None:
    recording.client.get(f"{origin.url}/pages", X_JFrog_Art_Api="s3cr3t")
    kept = recording.kept(f"{origin.url}/pages")
    assert (kept.login, kept.asked) == (True, {"accept": ""})
    assert kept.headers == {
        "link": f'<{origin.url}/pages?page=2&apiKey=->; rel="next"',
        "content-location": f"{origin.url}/pages?sig=-",
    }
    # What failed is named without it, too.
    recording.client.get("https://localhost:1/page;jsessionid=s3cr3t/more?clientSecret=s3cr3t")
    recording.record.finish(dataclasses.replace(RECORDED, notes=tuple(recording.recorder.notes())))
    assert len(read_record(path).notes) == 2
    assert not any(b"s3cr3t" in file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_a_client_that_leaves_does_not_cut_what_is_kept(recording: Recording, origin: WebOrigin) -> None:
    with recording.client.open("GET", f"{origin.url}/big") as response:
        response.read(10)
    # The next one waits for the first to be whole.
    assert recording.client.get(f"{origin.url}/big").body == BIG
    assert recording.content(f"{origin.url}/big") == BIG
    assert origin.paths() == ["GET /big"]


def test_what_breaks_off_is_not_kept_and_asked_for_again(recording: Recording, origin: WebOrigin, path: Path) -> None:
    origin.breaks = 1
    with pytest.raises(http.client.IncompleteRead):
        recording.client.get(f"{origin.url}/breaks")
    assert any("/breaks was not recorded" in note for note in recording.recorder.notes())
    assert recording.client.get(f"{origin.url}/breaks").body == BIG
    assert recording.content(f"{origin.url}/breaks") == BIG
    assert recording.recorder.notes() == []
    assert list((path / "spool").iterdir()) == []


def test_failures_are_passed_on_and_named(recording: Recording, origin: WebOrigin) -> None:
    assert recording.client.get(f"{origin.url}/busy").status == 503
    assert recording.client.get(f"{origin.url}/missing").status == 404
    assert recording.client.get("https://localhost:1/").status == 502
    assert recording.kept(f"{origin.url}/missing").status == 404
    busy, unreachable = sorted(recording.recorder.notes(), reverse=True)
    assert unreachable.startswith("https://localhost:1/ was not recorded: cannot connect to `localhost:1`")
    assert busy == f"{origin.url}/busy was not recorded: the last answer was 503"
    assert len(recording.record.tape) == 1


BLOB = "sha256:" + "a" * 64


def test_pulls_of_buildkit_are_passed_on_and_not_kept(recording: Recording, origin: WebOrigin) -> None:
    moved = recording.client.get(f"{origin.url}/v2/app/blobs/{BLOB}", **BUILDKIT)
    assert (moved.status, moved.headers["location"]) == (307, f"{origin.url}/blob")
    assert recording.client.get(f"{origin.url}/blob", Range="bytes=0-3", **BUILDKIT).body == b"a layer"
    assert origin.seen[-1][2]["range"] == "bytes=0-3"
    assert len(recording.record.tape) == 0
    assert recording.client.get(f"{origin.url}/page", **BUILDKIT).status == 200  # ADD https://...
    assert len(recording.record.tape) == 1


@pytest.mark.parametrize(
    "place",
    [
        "/v2/",
        "/v2",
        "/v2/app/manifests/latest",
        "/v2/team/app/manifests/sha256:" + "a" * 64,
        "/v2/app/manifests/12?ns=docker.io",
        f"/v2/files/team/app/blobs/{BLOB}",
        f"/v2/app/blobs/{BLOB.replace(':', '%3A')}",
        "/v2/app/blobs/uploads/",
        f"/v2/app/referrers/{BLOB}?artifactType=x",
        "/v2/app/tags/list?n=5",
    ],
)
def test_what_a_registry_is_asked_is_a_pull_of_buildkits_alone(
    recording: Recording, origin: WebOrigin, place: str
) -> None:
    recording.client.get(f"{origin.url}{place}", **BUILDKIT)
    assert len(recording.record.tape) == 0
    recording.client.get(f"{origin.url}{place}", User_Agent="skopeo/1.0")
    assert len(recording.record.tape) == 1


@pytest.mark.parametrize(
    "place", ["a.tar.gz", "manifests", "app/manifests/a/b", "app/blobs/1.tar.gz", "app/blobs", "tags/list.json", "v2/"]
)
def test_a_file_below_v2_is_a_download_like_any_other(recording: Recording, origin: WebOrigin, place: str) -> None:
    assert recording.client.get(f"{origin.url}/v2/files/{place}", **BUILDKIT).body == b"no registry's"
    assert recording.content(f"{origin.url}/v2/files/{place}") == b"no registry's"


class World(Handler):
    """The sites of a network that is reached through a proxy, each at the port that its scheme has."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def answer(self, request: Request, reply: Reply) -> None:
        url = request.url.replace(":443/", "/")
        self.urls.append(url)
        if url == "https://files.example/get":
            return reply(Response(302, {"location": "https://cdn.example/file?sig=s3cr3t"}))
        if url in ("https://cdn.example/file?sig=s3cr3t", "https://cdn.example/layer?sig=s3cr3t"):
            return reply(Response.text(200, "the file"))
        if url == "https://registry.example/v2/app/manifests/1":
            demand = 'Bearer realm="https://Auth.example:443/token",service="registry"'
            return reply(Response(401, {"www-authenticate": demand}))
        if url.startswith("https://auth.example/token"):
            return reply(Response.text(200, "a token"))
        if url == f"https://registry.example/v2/app/blobs/{BLOB}":
            return reply(Response(307, {"location": "https://CDN.example:443/layer?sig=s3cr3t"}))
        return reply(Response.text(403, url))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    with ProxyServer(listen(0), Authority(tmp_path / "world"), world) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        yield world


@pytest.fixture
def abroad(world: World, path: Path, tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(path, tmp_path / "ca", tmp_path / "world" / "ca.pem")
    yield recording
    recording.stop()


def test_a_signed_redirect_is_followed_where_the_port_goes_without_saying(abroad: Recording, path: Path) -> None:
    moved = abroad.client.get("https://files.example/get")
    assert moved.headers["location"] == "https://cdn.example/file?sig=-"
    assert abroad.client.get(moved.headers["location"]).body == b"the file\n"
    assert abroad.client.get("https://cdn.example:443/file?sig=-#x").body == b"the file\n"
    assert abroad.content("https://cdn.example/file?sig=-") == b"the file\n"
    assert "s3cr3t" not in (path / "tape.jsonl").read_text()


def test_tokens_for_pulls_and_where_registries_lead_are_not_kept(abroad: Recording, world: World) -> None:
    assert abroad.client.get("https://registry.example/v2/app/manifests/1", **BUILDKIT).status == 401
    asked = "https://auth.example/token?scope=repository%3Aapp%3Apull&service=registry"
    assert abroad.client.get(asked, **BUILDKIT).body == b"a token\n"
    assert abroad.client.ask("POST", "https://auth.example/token", b"grant_type=password", **BUILDKIT).status == 200
    moved = abroad.client.get(f"https://registry.example/v2/app/blobs/{BLOB}", **BUILDKIT)
    assert abroad.client.get(moved.headers["location"], **BUILDKIT).body == b"the file\n"
    assert len(abroad.record.tape) == 0
    assert abroad.recorder.notes() == []
    # What is there besides is a download: ADD https://auth.example/token
    assert abroad.client.get("https://auth.example/token", **BUILDKIT).status == 200
    assert abroad.client.get("https://auth.example/token.txt", **BUILDKIT).status == 200
    assert len(abroad.record.tape) == 2


def test_an_interrupted_recording_goes_on(origin: WebOrigin, path: Path, tmp_path: Path) -> None:
    first = Recording(path, tmp_path / "ca")
    first.client.get(f"{origin.url}/big")
    first.client.get(f"{origin.url}/chunked")
    moved = first.client.get(f"{origin.url}/release")
    first.stop()
    with (path / "tape.jsonl").open("a") as file:
        file.write('{"method": "GET", "url": "http')  # cut by a crash
    (path / first.kept(f"{origin.url}/chunked").content.digest.blob_path).unlink()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="not whole"):
        read_record(path)
    origin.seen.clear()
    second = Recording(path, tmp_path / "ca")
    assert second.client.get(f"{origin.url}/big").body == BIG
    assert second.client.get(f"{origin.url}/chunked").body == b"hello" * 3
    # The redirect was kept, the address that it led to is lost: it is asked for again.
    assert second.client.get(f"{origin.url}/release").headers["location"] == moved.headers["location"]
    assert second.client.get(moved.headers["location"]).body == b"the release"
    assert origin.paths() == ["GET /chunked", "GET /release", "GET /signed"]
    second.record.finish(RECORDED)
    second.stop()
    assert read_record(path) == RECORDED


def write_cache(recording: Recording, build: str, layer: bytes) -> None:
    """Take in what BuildKit sends for a build whose one step made this layer."""
    config = b'{"records":[]}'
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.buildkit.cacheconfig.v0",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
                "digest": str(Digest.of(layer)),
                "size": len(layer),
            }
        ],
    }
    for blob in (config, layer):
        spool = recording.record.spool()
        spool.write(blob)
        assert recording.record.take_blob(spool, Digest.of(blob))
    recording.record.take_cache(build, json.dumps(manifest).encode())


def test_a_record_is_an_oci_layout_with_tape_and_caches(recording: Recording, origin: WebOrigin, path: Path) -> None:
    recording.client.get(f"{origin.url}/big")
    recording.client.get(f"{origin.url}/page")
    for build, layer in (("api", b"a layer of the cache"), ("web", b"another layer")):
        write_cache(recording, build, layer)
    builds = tuple(RecordedBuild(name, "Dockerfile", None, RECORDED.platforms) for name in ("api", "docs", "web"))
    size = recording.record.finish(dataclasses.replace(RECORDED, builds=builds))
    assert size == len(b"a layer of the cache" + b"another layer")
    assert {file.name for file in path.iterdir()} == {"oci-layout", "index.json", "record.json", "blobs"}
    index = json.loads((path / "index.json").read_bytes())
    assert [
        (entry["artifactType"], entry["annotations"]["org.opencontainers.image.ref.name"])
        for entry in index["manifests"]
    ] == [
        ("application/vnd.offline-bundle.tape.v1", "tape"),
        ("application/vnd.buildkit.cacheconfig.v0", "cache-api"),
        ("application/vnd.buildkit.cacheconfig.v0", "cache-web"),
    ]
    found = {file.name for file in (path / "blobs" / "sha256").iterdir()}
    assert all(Digest.of((path / "blobs" / "sha256" / name).read_bytes()).hex == name for name in found)
    # record.json, two contents, the tape, its manifest; the caches' config, and a layer and a manifest of each.
    assert len(found) == 10
    tape_manifest = json.loads((path / "blobs" / index["manifests"][0]["digest"].replace(":", "/")).read_bytes())
    first = tape_manifest["layers"][0]
    assert first["mediaType"] == "application/vnd.offline-bundle.record.v1+json"
    assert (path / "blobs" / first["digest"].replace(":", "/")).read_bytes() == (path / "record.json").read_bytes()
    tape = Tape.parse((path / "blobs" / tape_manifest["config"]["digest"].replace(":", "/")).read_bytes())
    assert [answer.url for answer in tape] == [f"{origin.url}/big", f"{origin.url}/page"]


def test_recording_anew_asks_again_and_drops_what_went(origin: WebOrigin, path: Path, tmp_path: Path) -> None:
    for wanted in ("/big", "/page"):
        recording = Recording(path, tmp_path / "ca")
        recording.client.get(origin.url + wanted)
        recording.record.finish(RECORDED)
        recording.stop()
    assert origin.paths() == ["GET /big", "GET /page"]
    assert len(list((path / "blobs" / "sha256").iterdir())) == 4
    assert not (path / "blobs" / "sha256" / Digest.of(BIG).hex).exists()


def test_a_content_that_changed_on_the_disk_is_no_record(recording: Recording, origin: WebOrigin, path: Path) -> None:
    recording.client.get(f"{origin.url}/big")
    (path / Digest.of(BIG).blob_path).write_bytes(BIG[:-1] + b"!")
    with pytest.raises(ContentError, match=re.escape(Digest.of(BIG).hex)):
        recording.record.finish(RECORDED)
    assert (path / "tape.jsonl").exists()


def test_a_record_that_cannot_take_the_place_of_another_leaves_it_whole(
    origin: WebOrigin, path: Path, tmp_path: Path
) -> None:
    first = Recording(path, tmp_path / "ca")
    first.client.get(f"{origin.url}/page")
    first.record.finish(RECORDED)
    first.stop()
    second = Recording(path, tmp_path / "ca")
    second.client.get(f"{origin.url}/big")
    # What comes when the record is being made comes too late.
    (path / Digest.of(BIG).blob_path).write_bytes(BIG[:-1] + b"!")
    with pytest.raises(ContentError):
        second.record.finish(dataclasses.replace(RECORDED, notes=("second",)))
    second.client.get(f"{origin.url}/chunked")
    second.stop()
    assert read_record(path) == RECORDED
    assert [json.loads(line)["url"] for line in (path / "next.jsonl").read_text().splitlines()] == [f"{origin.url}/big"]


def test_a_crash_while_one_record_takes_the_place_of_another_is_gone_on_with(
    origin: WebOrigin, path: Path, tmp_path: Path
) -> None:
    first = Recording(path, tmp_path / "ca")
    first.client.get(f"{origin.url}/page")
    first.record.finish(RECORDED)
    first.stop()
    second = Recording(path, tmp_path / "ca")
    second.client.get(f"{origin.url}/big")
    (path / "index.json").unlink()
    (path / "index.json").mkdir()
    with pytest.raises(OSError, match=r"index\.json"):
        second.record.finish(RECORDED)
    second.stop()
    with pytest.raises(UsageError, match="not whole"):
        read_record(path)
    (path / "index.json").rmdir()
    third = Recording(path, tmp_path / "ca")
    assert third.content(f"{origin.url}/big") == BIG
    third.record.finish(RECORDED)
    third.stop()
    assert read_record(path) == RECORDED


def test_one_at_a_time_and_nothing_else_is_overwritten(recording: Recording, path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="another `bundle record`"):
        RecordDirectory(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(UsageError, match="is not a record"):
            RecordDirectory(taken)
    with pytest.raises(UsageError, match="cannot be written"):
        RecordDirectory(tmp_path / "missing" / "app.record")
