"""Reading images: verification, mirrors, downloads that repair themselves."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from bundler.sources.mirrors import Endpoint
from bundler.sources.registry import RegistrySource
from bundler.sources.source import BlobRequest
from bundles.errors import (
    AuthenticationError,
    ContentError,
    NetworkError,
    NotFoundError,
    UnavailableError,
    UnreachableError,
    UsageError,
)
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from bundles.registry.auth import Credential
from bundles.registry.transport import Transport
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.images import noise

Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]
DATA = noise("blob", 100_000)
BLOB = Descriptor("application/octet-stream", Digest("sha256:" + hashlib.sha256(DATA).hexdigest()), len(DATA))


@pytest.fixture
def source(registry: FakeRegistry, connect: Connect) -> RegistrySource:
    return RegistrySource(connect(), {})


def reference(registry: FakeRegistry, rest: str = "app:1") -> Reference:
    return Reference.parse(f"{registry.host}/{rest}")


def read(
    source: RegistrySource,
    repository: Reference,
    descriptor: Descriptor = BLOB,
    offset: int = 0,
    avoid: frozenset[Endpoint] = frozenset(),
    step: int = 7_001,
) -> bytes:
    data, buffer = bytearray(), bytearray(step)
    with source.open_blob(BlobRequest(repository, descriptor, offset, avoid)) as stream:
        while count := stream.readinto(buffer):
            data += buffer[:count]
        assert stream.readinto(buffer) == 0
    return bytes(data)


def ranges(registry: FakeRegistry) -> list[Optional[str]]:
    return [request.headers.get("range") for request in registry.seen("GET", "/blobs/")]


@pytest.fixture
def dead() -> Any:
    """An address where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


# Manifests


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_manifests_come_as_they_are(registry: FakeRegistry, source: RegistrySource, kind: str) -> None:
    images = [registry.image(platform, kind=kind) for platform in ("linux/amd64", "linux/arm64")]
    index = registry.tag("app", "1", registry.index(*images, kind=kind))
    found, data = source.manifest(reference(registry))
    assert data == registry.data(index)
    assert (found.media_type, str(found.digest), found.size) == (
        {
            "oci": "application/vnd.oci.image.index.v1+json",
            "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
        }[kind],
        "sha256:" + hashlib.sha256(data).hexdigest(),
        len(data),
    )
    by_digest = reference(registry, f"app:ignored@{images[1].digest}")
    assert source.manifest(by_digest)[1] == registry.data(images[1])
    accept = registry.seen()[0].headers["accept"].split(", ")
    assert set(accept) == {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }


def test_a_manifest_without_announced_digest(fake: Make, connect: Connect) -> None:
    registry = fake(digest_header=False)
    image = registry.tag("app", "1", registry.image())
    assert RegistrySource(connect(), {}).manifest(reference(registry))[0].digest == image.digest


def test_a_manifest_with_wrong_bytes(registry: FakeRegistry, source: RegistrySource) -> None:
    image = registry.tag("app", "1", registry.image())
    registry.fault("GET", "/manifests/1", extra={"Docker-Content-Digest": "sha256:" + "0" * 64})
    with pytest.raises(ContentError, match="was announced"):
        source.manifest(reference(registry))
    registry.fault("GET", "/manifests/sha256", corrupt=True)
    with pytest.raises(ContentError, match=f"{image.digest} was asked for"):
        source.manifest(reference(registry, f"app@{image.digest}"))


def test_something_else_than_a_manifest(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.fault("GET", "/manifests/1", status=200, body=b"no manifest at all")
    with pytest.raises(ContentError, match="not valid JSON"):
        source.manifest(reference(registry))
    registry.fault("GET", "/manifests/1", status=200, body=b'{"schemaVersion": 1}')
    with pytest.raises(ContentError, match="schema 1"):
        source.manifest(reference(registry))
    registry.fault("GET", "/manifests/1", status=200, body=b"x" * ((4 << 20) + 1))
    with pytest.raises(ContentError, match="longer than"):
        source.manifest(reference(registry))


def test_a_mistyped_tag(registry: FakeRegistry, source: RegistrySource) -> None:
    for tag in ("12", "12-slim", "12.1", "bookworm", "bookworm-slim", "latest"):
        registry.tag("debian", tag, registry.image())
    with pytest.raises(NotFoundError, match="debian:bokworm") as caught:
        source.manifest(reference(registry, "debian:bokworm"))
    assert f"did you mean `{registry.host}/debian:bookworm`" in str(caught.value)
    with pytest.raises(NotFoundError, match="`nosuch` is unknown"):
        source.manifest(reference(registry, "nosuch:1"))
    with pytest.raises(NotFoundError) as caught:
        source.manifest(reference(registry, "debian:zzzzzz"))
    assert "did you mean" not in str(caught.value)


def test_suggestions_span_pages_and_are_at_most_five(fake: Make, connect: Connect) -> None:
    registry = fake(page_size=3)
    image = registry.image()
    for minor in range(20):
        registry.tag("python", f"3.{minor}-slim", image)
    with pytest.raises(NotFoundError) as caught:
        RegistrySource(connect(), {}).manifest(reference(registry, "python:3.12-slum"))
    names = str(caught.value.hint)
    assert f"{registry.host}/python:3.12-slim`" in names
    assert names.count("python:") == 5


def test_suggestions_are_no_reason_to_fail_otherwise(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.fault("GET", "/tags/list", status=500, times=-1)
    with pytest.raises(NotFoundError, match="MANIFEST_UNKNOWN"):
        source.manifest(reference(registry))
    assert len(registry.seen("GET", "/tags/list")) == 1


# Small blobs


def test_small_blobs_are_verified(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    assert source.read_blob(reference(registry), BLOB, 100_000) == DATA
    registry.fault("GET", "/blobs/", corrupt=True)
    with pytest.raises(ContentError):
        source.read_blob(reference(registry), BLOB, 100_000)
    with pytest.raises(ContentError, match="at most 99999"):
        source.read_blob(reference(registry), BLOB, 99_999)
    empty = registry.blob("app", b"")
    assert source.read_blob(reference(registry), empty, 10) == b""


def test_a_small_blob_with_wrong_bytes_comes_from_the_next_mirror(fake: Make, connect: Connect) -> None:
    bad, good = fake(), fake()
    for registry in (bad, good):
        registry.blob("library/debian", DATA)
    bad.fault("GET", "/blobs/", corrupt=True, times=-1)
    source = RegistrySource(connect(), {"docker.io": [bad.host, good.host]})
    assert source.read_blob(Reference.parse("debian:12"), BLOB, 100_000) == DATA
    assert (len(bad.seen()), len(good.seen())) == (1, 1)


# Streams


def test_a_blob_and_its_rest(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    assert read(source, reference(registry)) == DATA
    assert read(source, reference(registry), offset=40_000) == DATA[40_000:]
    assert read(source, reference(registry), offset=100_000) == b""
    assert ranges(registry) == [None, "bytes=40000-99999"]


def test_a_dropped_download_goes_on_where_it_was(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", cut_after=30_000)
    registry.fault("GET", "/blobs/", cut_after=20_000)
    registry.fault("GET", "/blobs/", close=True)
    assert read(source, reference(registry), step=1000) == DATA
    assert ranges(registry) == [None, "bytes=30000-99999", "bytes=50000-99999", "bytes=50000-99999"]


def test_a_server_without_ranges_has_its_first_bytes_skipped(fake: Make, connect: Connect) -> None:
    registry = fake(ranges=False)
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", cut_after=30_000)
    source = RegistrySource(connect(), {})
    assert read(source, reference(registry), step=1000) == DATA
    assert read(source, reference(registry), offset=99_999) == DATA[99_999:]
    assert len(registry.seen()) == 3


def test_attempts_begin_anew_with_every_progress(fake: Make, connect: Connect) -> None:
    registry = fake()
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", cut_after=5_000, times=15)
    assert read(RegistrySource(connect(attempts=2), {}), reference(registry), step=1000) == DATA
    assert len(registry.seen()) == 16


def test_attempts_without_progress_end(fake: Make, connect: Connect) -> None:
    registry = fake()
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", cut_after=10_000)
    registry.fault("GET", "/blobs/", cut_after=0, times=-1)
    with pytest.raises(UnavailableError, match=str(BLOB.digest)):
        read(RegistrySource(connect(attempts=3), {}), reference(registry), step=1000)
    assert len(registry.seen()) == 1 + 3 - 1


@pytest.mark.parametrize(
    "value",
    ["bytes 0-99999/100000", "bytes 40001-99999/100000", "bytes 40000-99998/100000", "bytes 40000-99999/99", "x", ""],
)
def test_a_wrong_content_range_is_refused(registry: FakeRegistry, source: RegistrySource, value: str) -> None:
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", extra={"Content-Range": value})
    with pytest.raises(ContentError, match="asked for bytes 40000-99999 of 100000"):
        read(source, reference(registry), offset=40_000)


@pytest.mark.parametrize("fault", [{"longer": 1}, {"shorter": 1}])
def test_a_body_of_the_wrong_length(registry: FakeRegistry, source: RegistrySource, fault: dict[str, Any]) -> None:
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", **fault)
    with pytest.raises(ContentError, match="100000"):
        read(source, reference(registry))


@pytest.mark.parametrize("extra", [1, 100_000])
def test_what_follows_in_a_body_of_unannounced_length_is_not_wanted(
    registry: FakeRegistry, source: RegistrySource, extra: int
) -> None:
    """The digest has the last word: a wrong body is one of wrong bytes, and the next endpoint is asked."""
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", longer=extra, no_length=True)
    assert read(source, reference(registry)) == DATA
    assert read(source, reference(registry)) == DATA


def test_a_short_body_of_unannounced_length_is_completed(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    registry.fault("GET", "/blobs/", shorter=10, no_length=True)
    assert read(source, reference(registry)) == DATA
    assert ranges(registry) == [None, "bytes=99990-99999"]


def test_no_more_bytes_than_announced_reach_the_buffer(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    buffer = bytearray(b"-" * 200_000)
    with source.open_blob(BlobRequest(reference(registry), BLOB)) as stream:
        total = 0
        while count := stream.readinto(memoryview(buffer)[total:]):
            total += count
    assert bytes(buffer) == DATA + b"-" * 100_000


def test_a_slow_server_is_waited_for(registry: FakeRegistry, source: RegistrySource) -> None:
    blob = registry.blob("app", DATA[:5_000])
    registry.fault("GET", "/blobs/", drip=0.05)
    assert read(source, reference(registry), blob) == DATA[:5_000]
    assert len(registry.seen()) == 1


def test_a_stream_may_be_left_in_the_middle(registry: FakeRegistry, source: RegistrySource) -> None:
    registry.blob("app", DATA)
    with source.open_blob(BlobRequest(reference(registry), BLOB)) as stream:
        stream.readinto(bytearray(10))
    stream.close()
    assert read(source, reference(registry)) == DATA


# Mirrors


def test_mirrors_are_tried_in_order(fake: Make, connect: Connect, dead: str) -> None:
    empty, full, unused = fake(), fake(), fake()
    for registry in (full, unused):
        registry.tag("hub/library/debian", "12", registry.image())
    mirrors = {"docker.io": [dead, f"{empty.host}/hub", f"{full.host}/hub", unused.host]}
    source = RegistrySource(connect(), mirrors)
    found, data = source.manifest(Reference.parse("debian:12"))
    assert data == full.data(found)
    assert empty.paths() == ["/v2/hub/library/debian/manifests/12"]
    assert full.paths() == ["/v2/hub/library/debian/manifests/12"]
    assert unused.paths() == []


def test_a_registry_without_mirrors_is_asked_itself(registry: FakeRegistry, connect: Connect, dead: str) -> None:
    image = registry.tag("app", "1", registry.image())
    assert RegistrySource(connect(), {"docker.io": [dead]}).manifest(reference(registry))[0].digest == image.digest


def test_a_mirror_takes_over_in_mid_blob(fake: Make, connect: Connect) -> None:
    first, second = fake(), fake()
    for registry in (first, second):
        registry.blob("library/debian", DATA)
    first.fault("GET", "/blobs/", cut_after=30_000)
    first.fault("GET", "/blobs/", status=404, times=-1)
    source = RegistrySource(connect(), {"docker.io": [first.host, second.host]})
    with source.open_blob(BlobRequest(Reference.parse("debian:12"), BLOB)) as stream:
        assert stream.endpoint == Endpoint(first.host)
        buffer, data = bytearray(1000), bytearray()
        while count := stream.readinto(buffer):
            data += buffer[:count]
        assert stream.endpoint == Endpoint(second.host)
    assert bytes(data) == DATA
    assert ranges(first) == [None, "bytes=30000-99999"]
    assert ranges(second) == ["bytes=30000-99999"]


def test_a_mirror_that_keeps_breaking_is_left(fake: Make, connect: Connect) -> None:
    first, second = fake(), fake()
    for registry in (first, second):
        registry.blob("library/debian", DATA)
    first.fault("GET", "/blobs/", cut_after=0, times=-1)
    source = RegistrySource(connect(attempts=3), {"docker.io": [first.host, second.host]})
    assert read(source, Reference.parse("debian:12")) == DATA
    assert (len(first.seen()), len(second.seen())) == (3, 1)


def test_endpoints_with_wrong_bytes_can_be_avoided(fake: Make, connect: Connect) -> None:
    first, second = fake(), fake()
    for registry in (first, second):
        registry.blob("library/debian", DATA)
    source = RegistrySource(connect(), {"docker.io": [first.host, second.host]})
    debian = Reference.parse("debian:12")
    assert read(source, debian, avoid=frozenset({Endpoint(first.host)})) == DATA
    assert (len(first.seen()), len(second.seen())) == (0, 1)
    with pytest.raises(ContentError, match="no endpoint is left"):
        read(source, debian, avoid=frozenset({Endpoint(first.host), Endpoint(second.host)}))


def test_a_mirror_with_content_of_another_size_is_passed_over(fake: Make, connect: Connect) -> None:
    first, second = fake(), fake()
    for registry in (first, second):
        registry.blob("library/debian", DATA)
    first.fault("GET", "/blobs/", shorter=1)
    source = RegistrySource(connect(), {"docker.io": [first.host, second.host]})
    assert read(source, Reference.parse("debian:12")) == DATA


def test_a_mirror_that_cannot_be_reached_is_asked_once(
    fake: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = fake()
    registry.tag("library/debian", "12", registry.image())
    registry.blob("library/debian", DATA)
    real, asked = socket.getaddrinfo, []

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host == "mirror.example":
            asked.append(host)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    source = RegistrySource(connect(), {"docker.io": ["mirror.example", registry.host]})
    for _ in range(20):
        source.manifest(Reference.parse("debian:12"))
        read(source, Reference.parse("debian:12"))
    assert len(asked) == 2


# When all fail


def fail(source: RegistrySource, name: str = "debian:12") -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        source.manifest(Reference.parse(name))
    return caught.value


def test_the_error_names_the_reference_and_every_endpoint(fake: Make, connect: Connect, dead: str) -> None:
    broken, empty = fake(), fake()
    broken.fault("GET", "/manifests/", status=503, times=-1)
    error = fail(RegistrySource(connect(), {"docker.io": [dead, broken.host, empty.host]}))
    assert type(error) is UnavailableError
    assert "`debian:12`" in error.message
    assert f"from {dead}: cannot connect" in error.message
    assert (
        f"from {broken.host}: GET http://{broken.host}/v2/library/debian/manifests/12: HTTP status 503" in error.message
    )
    assert f"from {empty.host}: " in error.message
    assert "manifest unknown" in error.message


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ([{"status": 404}, {"status": 404}], NotFoundError),
        ([{"status": 404}, {"status": 403}], AuthenticationError),
        ([{"status": 503}, {"status": 401}], AuthenticationError),
        ([{"status": 403}, {"status": 200, "body": b"x"}], ContentError),
        ([{"status": 404}, {"status": 503}], UnavailableError),
        ([{"status": 404}, {"status": 400}], NetworkError),
    ],
)
def test_the_kind_of_the_error(fake: Make, connect: Connect, faults: Sequence[dict[str, Any]], kind: type) -> None:
    registries = [fake(), fake()]
    for registry, fault in zip(registries, faults):
        registry.fault("GET", "/manifests/", times=-1, **fault)
    source = RegistrySource(connect(), {"docker.io": [registry.host for registry in registries]})
    assert type(fail(source)) is kind


def test_who_is_unreachable_is_not_asked_again(connect: Connect) -> None:
    """A thousand images would each wait for its timeout."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        source = RegistrySource(connect(), {"docker.io": [f"127.0.0.1:{port.getsockname()[1]}"]})
        assert type(fail(source)) is UnreachableError
        port.listen()
        assert type(fail(source)) is UnreachableError
        port.settimeout(0)
        with pytest.raises(BlockingIOError):
            port.accept()


def test_secrets_show_nowhere(fake: Make, connect: Connect) -> None:
    secret = "hunter2-secret"
    registry = fake(auth="bearer", users={"me": "other"})
    registry.fault("GET", "/v2/library", redirect=f"/v2/x/manifests/1?sig={secret}")
    source = RegistrySource(connect(credentials=lambda *_: [Credential("me", secret)]), {"docker.io": [registry.host]})
    for _ in range(2):
        error = fail(source)
        assert secret not in str(error)
        assert secret not in json.dumps(error.to_json())


@pytest.mark.parametrize(
    "text", ["", "http://mirror", "mirror.corp:x", "mirror corp", "mirror.corp/UPPER", "me@mirror", "m:0", "m:65536"]
)
def test_a_mirror_that_is_none(connect: Connect, text: str) -> None:
    with pytest.raises(UsageError, match="is not a mirror"):
        RegistrySource(connect(), {"docker.io": [text]})


def test_endpoints_read_back() -> None:
    for text in ("mirror", "mirror.corp:5000", "mirror.corp:5000/a/b", "[::1]:5000", "10.0.0.1/hub"):
        assert str(Endpoint.parse(text)) == text
    assert Endpoint.parse("mirror/hub/") == Endpoint("mirror", "hub")


def test_many_workers(fake: Make, connect: Connect, certificate: Certificate, tmp_path: Path) -> None:
    registry = fake(tls=certificate, auth="bearer")
    blobs = [registry.blob("app", noise(number, 50_000)) for number in range(32)]
    for number in range(0, 32, 3):
        registry.fault("GET", str(blobs[number].digest), cut_after=10_000 + number)
    source = RegistrySource(connect(), {})
    results: dict[int, bytes] = {}

    def work(first: int) -> None:
        for number in range(first, 32, 16):
            results[number] = read(source, reference(registry), blobs[number], step=4096)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: noise(number, 50_000) for number in range(32)}


def test_a_login_in_the_name_of_a_mirror_is_not_shown() -> None:
    with pytest.raises(UsageError, match=r"`mirror\.corp:5000` is not a mirror"):
        Endpoint.parse("anna:S3CRET@mirror.corp:5000")


# Names of mirrors


@pytest.mark.parametrize(
    "key",
    [
        *("docker.io", "DOCKER.IO", "index.docker.io", "registry-1.docker.io", "https://docker.io"),
        *("https://Docker.io/v2/", "docker.io/", "docker.io:443", "https://Index.Docker.io:443/v1/"),
    ],
)
def test_docker_hub_has_many_names(registry: FakeRegistry, connect: Connect, key: str) -> None:
    image = registry.tag("library/debian", "12", registry.image())
    source = RegistrySource(connect(), {key: [registry.host]})
    assert source.manifest(Reference.parse("debian:12"))[0].digest == image.digest


def test_a_registry_is_one_however_it_is_written(registry: FakeRegistry, connect: Connect) -> None:
    image = registry.tag("org/app", "1", registry.image())
    source = RegistrySource(connect(), {"ghcr.io": [registry.host], "reg.corp:4430": ["127.0.0.1:1"]})
    for name in ("GHCR.io", "ghcr.io:443"):
        assert source.manifest(Reference.parse(f"{name}/org/app:1"))[0].digest == image.digest


def test_a_mirror_that_serves_nothing_is_said(registry: FakeRegistry, fake: Make, connect: Connect, dead: str) -> None:
    registry.tag("library/debian", "12", registry.image())
    partial = fake()
    partial.tag("library/debian", "11", partial.image())
    source = RegistrySource(connect(attempts=1), {"docker.io": [dead, partial.host, registry.host]})
    for tag in ("11", "12"):
        source.manifest(Reference.parse(f"debian:{tag}"))
    assert len(source.notes) == 1
    assert source.notes[0].startswith(f"the mirror {dead} served nothing: cannot connect to `{dead}`")


def test_a_mistyped_image_is_no_fault_of_the_mirror(registry: FakeRegistry, fake: Make, connect: Connect) -> None:
    source = RegistrySource(connect(), {"docker.io": [registry.host, fake().host]})
    with pytest.raises(NotFoundError):
        source.manifest(Reference.parse("debian:12"))
    assert source.notes == ()


# Web pages and other addresses

PAGE = b"<html><head><title>Portal</title></head></html>"


@pytest.mark.parametrize("fault", [{"status": 200}, {"no_length": True}])
def test_a_web_page_instead_of_a_blob(registry: FakeRegistry, source: RegistrySource, fault: dict[str, Any]) -> None:
    html = {"Content-Type": "text/html"}
    if "no_length" in fault:
        digest = registry.blob("app", PAGE).digest
        registry.fault("GET", "/blobs/", extra=html, times=-1, **fault)
    else:
        digest = registry.blob("app", DATA).digest
        registry.fault("GET", "/blobs/", body=PAGE, headers=html, times=-1, **fault)
    with pytest.raises(ContentError, match=f"`{registry.host}` sent a web page, `Portal`, in the place of the blob"):
        read(source, reference(registry), Descriptor("application/octet-stream", digest, len(DATA)))


def test_a_blob_that_is_a_web_page(registry: FakeRegistry, source: RegistrySource) -> None:
    blob = registry.blob("app", PAGE)
    registry.fault("GET", "/blobs/", extra={"Content-Type": "text/html"})
    assert read(source, reference(registry), blob) == PAGE


def test_a_layer_with_addresses_comes_from_there_without_a_login(
    registry: FakeRegistry, fake: Make, connect: Connect
) -> None:
    vendor = fake()
    registry.auth, registry.users = "basic", {"me": "secret"}
    blob = vendor.blob("store", DATA)
    url = f"{vendor.url}/v2/store/blobs/{blob.digest}?key=1"
    vendor.fault("GET", "/blobs/", cut_after=10_000)
    vendor.fault("GET", "/gone", status=404, times=-1)
    source = RegistrySource(connect(credentials=lambda *_: [Credential("me", "secret")]), {})
    layer = Descriptor("x", blob.digest, blob.size, urls=(f"{vendor.url}/gone", url))
    assert read(source, reference(registry), layer) == DATA
    assert [request.authorization for request in vendor.seen()] == [""] * len(vendor.seen())
    assert len(vendor.seen("GET", "/blobs/")) == 2
