"""What writing to a registry and reading from it mean: one contract, for the fake and for real registries.

    pytest tests/unit/test_registry_contract.py              the fake
    pytest tests/unit/test_registry_contract.py -m e2e       distribution 3.1 and 2.8.3, from the testbed

What follows the contract is how `Registry` behaves when things go wrong, which only the fake can be told to do.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from bundler.sources.registry import RegistrySource
from bundler.sources.source import BlobRequest
from bundles.errors import (
    AuthenticationError,
    ContentError,
    NetworkError,
    NotFoundError,
    ReadError,
    UnavailableError,
    UnreachableError,
)
from bundles.oci.descriptor import Descriptor
from bundles.oci.reference import Reference
from bundles.registry.auth import Credential
from bundles.registry.transport import Transport
from installer.registry.client import Registry
from tests.support.fake_registry import MANIFEST_BLOB_UNKNOWN, FakeRegistry, Refusal
from tests.support.images import Content, noise
from tests.support.real_registry import RealRegistry
from tests.support.upload_body import Body

Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]


@pytest.fixture
def target(any_registry: str, connect: Connect) -> Registry:
    return Registry(connect(), any_registry)


@pytest.fixture
def source(connect: Connect) -> RegistrySource:
    return RegistrySource(connect(), {})


@pytest.fixture
def content() -> Content:
    return Content()


def octets(data: bytes) -> Descriptor:
    return Descriptor.of("application/octet-stream", data)


def push(registry: Registry, repository: str, content: Content, descriptor: Descriptor, *tags: str) -> None:
    """Blobs first, then manifests, then the index, tags last."""
    for child in content.children(descriptor):
        push(registry, repository, content, child)
    data = content.data(descriptor)
    if descriptor.is_index or descriptor.is_manifest:
        for selector in tags or (str(descriptor.digest),):
            registry.put_manifest(repository, selector, descriptor, data)
    else:
        registry.upload_blob(repository, descriptor, lambda: Body(data))


def stream(source: RegistrySource, reference: Reference, descriptor: Descriptor, offset: int = 0) -> bytes:
    data, buffer = bytearray(), bytearray(10_000)
    with source.open_blob(BlobRequest(reference, descriptor, offset)) as blob:
        while count := blob.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


# The contract


def test_ping(target: Registry) -> None:
    target.ping()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_blobs_arrive_as_they_are(target: Registry, source: RegistrySource, size: int) -> None:
    data = noise(size, size)
    blob = octets(data)
    assert not target.has_blob("a/b", blob.digest)
    target.upload_blob("a/b", blob, lambda: Body(data))
    assert target.has_blob("a/b", blob.digest)
    assert not target.has_blob("a/c", blob.digest)
    assert stream(source, Reference.parse(f"{target.host}/a/b"), blob) == data


def test_an_upload_of_what_is_there_does_no_harm(target: Registry) -> None:
    blob = octets(b"abc")
    for _ in range(2):
        target.upload_blob("app", blob, b"abc")
    assert target.has_blob("app", blob.digest)


def test_the_rest_of_a_blob(target: Registry, source: RegistrySource) -> None:
    data = noise("rest", 100_000)
    target.upload_blob("app", octets(data), data)
    reference = Reference.parse(f"{target.host}/app")
    assert stream(source, reference, octets(data), 99_000) == data[99_000:]
    assert stream(source, reference, octets(data), 99_999) == data[99_999:]


def test_an_upload_with_wrong_bytes_is_refused(target: Registry) -> None:
    with pytest.raises(NetworkError) as caught:
        target.upload_blob("app", octets(b"abc"), lambda: Body(b"abd"))
    assert (caught.value.status, caught.value.codes) == (400, ("DIGEST_INVALID",))
    assert not target.has_blob("app", octets(b"abc").digest)


def test_mounting(target: Registry) -> None:
    blob = octets(b"abc")
    target.upload_blob("from/here", blob, b"abc")
    assert target.mount_blob("to/here", blob.digest, "from/here")
    assert target.has_blob("to/here", blob.digest)
    assert not target.mount_blob("to/here", octets(b"other").digest, "from/here")
    assert not target.mount_blob("to/here", octets(b"other").digest, "no/where")


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_images_keep_their_bytes(target: Registry, source: RegistrySource, content: Content, kind: str) -> None:
    images = [content.image(platform, kind=kind) for platform in ("linux/amd64", "linux/arm/v7")]
    index = content.index(*images, kind=kind)
    push(target, "library/app", content, index, "1", "latest")
    for tag in ("1", "latest"):
        reference = Reference.parse(f"{target.host}/library/app:{tag}")
        found, data = source.manifest(reference)
        assert (found, data) == (index, content.data(index))
        assert target.manifest_digest("library/app", tag) == index.digest
        assert target.get_manifest("library/app", tag) == (found, data)
    for image in images:
        by_digest = Reference.parse(f"{target.host}/library/app@{image.digest}")
        assert source.manifest(by_digest)[1] == content.data(image)
        config, *layers = content.children(image)
        assert source.read_blob(by_digest, config, 10_000) == content.data(config)
        assert [stream(source, by_digest, layer) for layer in layers] == [content.data(layer) for layer in layers]


def test_attestations_and_nested_indexes(target: Registry, source: RegistrySource, content: Content) -> None:
    amd64, arm64 = content.image("linux/amd64"), content.image("linux/arm64")
    inner = content.index(arm64)
    outer = content.index(amd64, content.attestation(amd64), inner)
    push(target, "app", content, outer, "1")
    assert source.manifest(Reference.parse(f"{target.host}/app:1"))[1] == content.data(outer)
    assert target.manifest_digest("app", str(inner.digest)) == inner.digest


def test_a_manifest_whose_blob_is_missing_is_refused(target: Registry, content: Content) -> None:
    image = content.image()
    config, *layers = content.children(image)
    for blob in (config, *layers[:-1]):
        target.upload_blob("app", blob, content.data(blob))
    with pytest.raises(NetworkError) as caught:
        target.put_manifest("app", "1", image, content.data(image))
    assert caught.value.status in (400, 404)
    assert "MANIFEST_BLOB_UNKNOWN" in caught.value.codes
    assert target.manifest_digest("app", "1") is None


def test_a_sparse_index(request: pytest.FixtureRequest, target: Registry, content: Content) -> None:
    amd64, arm64 = content.image("linux/amd64"), content.image("linux/arm64")
    push(target, "app", content, amd64)
    index = content.index(amd64, arm64)
    if "distribution2" in request.node.name:
        with pytest.raises(NetworkError) as caught:
            target.put_manifest("app", "1", index, content.data(index))
        assert (caught.value.status, caught.value.codes) == (400, ("MANIFEST_BLOB_UNKNOWN",))
    else:
        target.put_manifest("app", "1", index, content.data(index))
        assert target.manifest_digest("app", "1") == index.digest


def test_tags_move(target: Registry, content: Content) -> None:
    old, new = content.image(seed="old"), content.image(seed="new")
    push(target, "app", content, old, "1")
    push(target, "app", content, new, "1")
    assert target.manifest_digest("app", "1") == new.digest
    assert target.manifest_digest("app", str(old.digest)) == old.digest


def test_manifests_and_tags_go(request: pytest.FixtureRequest, target: Registry, content: Content) -> None:
    """A tag by itself, and a manifest with every tag of it. What is gone already is no error."""
    one, two = content.image(seed="one"), content.image(seed="two")
    push(target, "gone", content, one, "1", "also")
    push(target, "gone", content, two, "2", "twice")
    target.delete_manifest("gone", str(two.digest))
    if "distribution2" in request.node.name:
        assert sorted(target.tags("gone")) == ["1", "also"]
        with pytest.raises(NetworkError) as caught:
            target.delete_manifest("gone", "1")
        assert (caught.value.status, caught.value.codes) == (400, ("DIGEST_INVALID",))
    else:
        target.delete_manifest("gone", "1")
        assert target.tags("gone") == ("also",)
        target.delete_manifest("gone", "1")
    assert target.manifest_digest("gone", str(one.digest)) == one.digest
    assert target.manifest_digest("gone", str(two.digest)) is None
    target.delete_manifest("gone", str(two.digest))


def test_what_is_not_there(target: Registry, source: RegistrySource, content: Content) -> None:
    absent = octets(b"absent").digest
    assert target.manifest_digest("no/where", "1") is None
    assert target.manifest_digest("no/where", str(absent)) is None
    assert target.tags("no/where") == ()
    with pytest.raises(NotFoundError):
        target.get_manifest("no/where", "1")
    with pytest.raises(NotFoundError):
        source.open_blob(BlobRequest(Reference.parse(f"{target.host}/no/where"), octets(b"absent")))
    push(target, "debian", content, content.image(), "12", "12-slim")
    with pytest.raises(NotFoundError) as caught:
        source.manifest(Reference.parse(f"{target.host}/debian:12-slin"))
    assert f"`{target.host}/debian:12-slim`" in str(caught.value)
    with pytest.raises(NotFoundError, match="`no/where` is unknown"):
        source.manifest(Reference.parse(f"{target.host}/no/where:1"))


def test_lists(target: Registry, content: Content) -> None:
    assert list(target.repositories()) == []
    image = content.image()
    push(target, "b/one", content, image, *(f"v{number:04}" for number in range(30)))
    push(target, "a", content, image, "1")
    assert sorted(target.tags("b/one")) == [f"v{number:04}" for number in range(30)]
    assert target.tags("a") == ("1",)
    assert list(target.repositories()) == ["a", "b/one"]


def test_many_uploads_at_once(target: Registry) -> None:
    blobs = [noise(number, 200_000) for number in range(24)]
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for data in blobs[first::8]:
                target.upload_blob("app", octets(data), lambda data=data: Body(data))  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(target.has_blob("app", octets(data).digest) for data in blobs)


# When things go wrong


@pytest.fixture
def bent(registry: FakeRegistry, connect: Connect) -> Registry:
    return Registry(connect(), registry.host)


def test_long_lists_come_in_pages(fake: Make, connect: Connect) -> None:
    registry = fake(page_size=7)
    image = registry.image()
    for number in range(20):
        registry.tag("app", f"{number:02}", image)
        registry.tag(f"repository-{number:02}", "1", image)
    target = Registry(connect(), registry.host)
    assert target.tags("app") == tuple(f"{number:02}" for number in range(20))
    assert list(target.repositories()) == ["app", *(f"repository-{number:02}" for number in range(20))]
    assert len(registry.seen("GET", "/tags/list")) == 3


def test_only_404_means_absent(registry: FakeRegistry, bent: Registry) -> None:
    digest = octets(b"abc").digest
    for status, kind in ((403, AuthenticationError), (400, NetworkError), (503, UnavailableError)):
        registry.fault("HEAD", "/v2/app", status=status, times=6)
        with pytest.raises(kind):
            bent.has_blob("app", digest)
        with pytest.raises(kind):
            bent.manifest_digest("app", "1")
        registry.faults.clear()


def test_an_upload_is_one_post_and_one_put(registry: FakeRegistry, bent: Registry) -> None:
    blob = octets(b"abc")
    bent.upload_blob("app", blob, lambda: Body(b"abc"))
    post, put = registry.seen()
    assert (post.method, post.path, post.headers["content-length"]) == ("POST", "/v2/app/blobs/uploads/", "0")
    assert put.method == "PUT"
    assert put.path.startswith("/v2/app/blobs/uploads/")
    assert "?_state=state-" in put.path
    assert put.path.endswith(f"&digest={blob.digest}")
    assert put.headers["content-length"] == "3"
    assert put.headers["content-type"] == "application/octet-stream"
    assert "transfer-encoding" not in put.headers


@pytest.mark.parametrize("fault", [{"status": 503}, {"close": True}, {"status": 500}])
def test_an_upload_that_fails_begins_anew(registry: FakeRegistry, bent: Registry, fault: dict[str, Any]) -> None:
    registry.fault("PUT", "/uploads/", **fault)
    data = noise("upload", 50_000)
    bent.upload_blob("app", octets(data), lambda: Body(data))
    assert [request.method for request in registry.seen()] == ["POST", "PUT", "HEAD", "POST", "PUT"]
    assert registry.content[octets(data).digest] == data


def test_an_upload_that_arrived_although_it_failed_is_not_repeated(registry: FakeRegistry, bent: Registry) -> None:
    registry.fault("PUT", "/uploads/", status=504, before=lambda: registry.blob("app", b"abc"))
    bent.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    assert [request.method for request in registry.seen()] == ["POST", "PUT", "HEAD"]


def test_a_forgotten_upload_begins_anew(registry: FakeRegistry, bent: Registry) -> None:
    registry.fault("PUT", "/uploads/", times=1, status=404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
    bent.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    assert len(registry.seen("PUT")) == 2


def test_uploads_end(registry: FakeRegistry, bent: Registry) -> None:
    registry.fault("PUT", "/uploads/", status=503, times=-1)
    with pytest.raises(UnavailableError):
        bent.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    assert len(registry.seen("PUT")) == 3


def test_a_body_that_fails_is_told_as_such(registry: FakeRegistry, bent: Registry) -> None:
    with pytest.raises(ReadError, match="1 bytes early"):
        bent.upload_blob("app", octets(b"abcd"), _Short)
    assert len(registry.seen("POST")) == 1


class _Short(Body):
    def __init__(self) -> None:
        super().__init__(b"abc")

    def __len__(self) -> int:
        return 4


def test_an_upload_elsewhere_goes_without_the_login(fake: Make, connect: Connect) -> None:
    storage = fake()
    registry = fake(auth="basic", users={"me": "secret"}, upload_base=storage.url)
    storage.uploads = registry.uploads
    target = Registry(connect(credentials=lambda *_: [Credential("me", "secret")]), registry.host)
    target.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    (put,) = storage.seen()
    assert put.method == "PUT"
    assert put.authorization == ""
    assert registry.seen()[-1].authorization.startswith("Basic ")


def test_an_absolute_location_on_the_same_host_keeps_the_login(fake: Make, connect: Connect) -> None:
    registry = fake(auth="basic", users={"me": "secret"})
    registry.upload_base = registry.url
    target = Registry(connect(credentials=lambda *_: [Credential("me", "secret")]), registry.host)
    target.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    assert target.has_blob("app", octets(b"abc").digest)


def test_a_login_with_tokens_covers_writing_and_mounting(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", users={"me": "secret"}, anonymous_pull=False)
    target = Registry(connect(credentials=lambda *_: [Credential("me", "secret")]), registry.host)
    target.ping()
    target.upload_blob("one", octets(b"abc"), lambda: Body(b"abc"))
    assert target.mount_blob("two", octets(b"abc").digest, "one")
    assert list(target.repositories()) == ["one", "two"]
    registry.expire_tokens()
    target.upload_blob("one", octets(b"def"), lambda: Body(b"def"))
    assert target.has_blob("one", octets(b"def").digest)


def test_a_mount_that_opens_an_upload_ends_it(fake: Make, connect: Connect) -> None:
    registry = fake(mounts=False)
    blob = registry.blob("one", b"abc")
    assert not Registry(connect(), registry.host).mount_blob("two", blob.digest, "one")
    assert [request.method for request in registry.seen()] == ["POST", "DELETE"]
    assert registry.uploads == {}


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_mount_that_opens_an_upload_ends_it_with_its_own_login(fake: Make, connect: Connect, auth: str) -> None:
    """Nothing else was written to that repository yet, for which there would be another login."""
    registry = fake(auth=auth, users={"ci": "hunter2"}, mounts=False)
    blob = registry.blob("one", b"abc")
    target = Registry(connect(credentials=lambda *_: (Credential("ci", "hunter2"),)), registry.host)
    assert not target.mount_blob("two", blob.digest, "one")
    assert registry.uploads == {}


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(401, "UNAUTHORIZED", "authentication required"),
        Refusal(403, "DENIED", "requested access to the resource is denied"),
        Refusal(404, "NAME_UNKNOWN", "repository name not known to registry"),
        Refusal(405, "UNSUPPORTED", "The operation is unsupported"),
    ],
    ids=lambda refusal: str(refusal.status),
)
@pytest.mark.parametrize("auth", [None, "basic", "bearer"])
def test_a_mount_that_is_refused_is_not_asked_for_again(
    fake: Make, connect: Connect, refusal: Refusal, auth: str | None
) -> None:
    registry = fake(mounts=refusal, auth=auth, users={"me": "secret"}, anonymous_pull=False)
    blobs = [registry.blob(name, name.encode()) for name in ("one", "other")]
    target = Registry(connect(credentials=lambda *_: [Credential("me", "secret")]), registry.host)
    assert not target.mount_blob("two", blobs[0].digest, "one")
    asked = len(registry.requests)
    assert not target.mount_blob("two", blobs[0].digest, "one")
    assert not target.mount_blob("three", blobs[0].digest, "one")
    assert len(registry.requests) == asked
    # Another repository may be open to this login; and what cannot be uploaded is asked for all the same.
    registry.mounts = True
    assert target.mount_blob("two", blobs[1].digest, "other")
    assert target.mount_blob("two", blobs[0].digest, "one", insist=True)


def test_mounts_that_never_come_to_anything_are_given_up(fake: Make, connect: Connect) -> None:
    registry = fake(mounts=False)
    blob = registry.blob("one", b"abc")
    target = Registry(connect(), registry.host)
    assert [target.mount_blob(f"two/{number}", blob.digest, "one") for number in range(10)] == 10 * [False]
    assert len(registry.seen("POST")) == 3
    assert registry.uploads == {}


def test_a_server_in_trouble_does_not_count_as_a_mount_refused(fake: Make, connect: Connect) -> None:
    registry = fake()
    blob = registry.blob("one", b"abc")
    target = Registry(connect(attempts=1), registry.host)
    registry.fault("POST", "mount=", status=503)
    with pytest.raises(UnavailableError):
        target.mount_blob("two", blob.digest, "one")
    assert target.mount_blob("two", blob.digest, "one")


def test_a_blob_is_copied_where_it_cannot_be_mounted(target: Registry, source: RegistrySource) -> None:
    data = noise("copy", 3_000_000)
    target.upload_blob("from/here", octets(data), data)
    target.copy_blob("to/here", octets(data), "from/here")
    assert stream(source, Reference.parse(f"{target.host}/to/here"), octets(data)) == data
    with pytest.raises(NotFoundError):
        target.copy_blob("to/here", octets(b"other"), "from/here")


@pytest.mark.parametrize("fault", [{"cut_after": 100_000}, {"status": 503}, {"corrupt": True}])
def test_a_copy_that_breaks_begins_anew(registry: FakeRegistry, bent: Registry, fault: dict[str, Any]) -> None:
    data = noise("copy", 1_000_000)
    blob = registry.blob("one", data)
    registry.fault("GET", "/v2/one/blobs/", **fault)
    if "corrupt" in fault:
        with pytest.raises(NetworkError, match="DIGEST_INVALID"):
            bent.copy_blob("two", blob, "one")
        assert "two" not in registry.repositories
    else:
        bent.copy_blob("two", blob, "one")
        assert blob.digest in registry.repositories["two"].blobs


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_registry_that_lists_nothing(registry: FakeRegistry, bent: Registry, status: int) -> None:
    registry.blob("one", b"abc")
    assert bent.find_repositories() == ("one",)
    registry.fault("GET", "/v2/_catalog", status=status)
    assert bent.find_repositories() is None
    registry.fault("GET", "/v2/_catalog", status=503, times=-1)
    with pytest.raises(UnavailableError):
        bent.find_repositories()


def test_who_limits_pushes_is_asked_again_later(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("POST", "/uploads/", status=429, headers={"Retry-After": "0"}, times=-1)
    target = Registry(connect(credentials=lambda *_: [Credential("me", "secret")]), registry.host)
    with pytest.raises(UnavailableError) as caught:
        target.upload_blob("app", octets(b"abc"), b"abc")
    assert caught.value.hint == (
        f"`{registry.host}` limits how much it takes: run this again later, and what is there is not sent again"
    )
    assert caught.value.retry_after == 0
    assert len(registry.seen("POST")) == 3


def test_the_registry_must_keep_what_was_sent(registry: FakeRegistry, bent: Registry) -> None:
    other = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    registry.fault("PUT", "/v2/app", extra=other, times=-1)
    with pytest.raises(ContentError, match="0000"):
        bent.upload_blob("app", octets(b"abc"), lambda: Body(b"abc"))
    image = registry.image()
    registry.link("app", image)
    with pytest.raises(ContentError, match=str(image.digest)):
        bent.put_manifest("app", "1", image, registry.data(image))


def test_a_digest_without_the_header_is_computed(fake: Make, connect: Connect) -> None:
    registry = fake(digest_header=False)
    image = registry.tag("app", "1", registry.image())
    target = Registry(connect(), registry.host)
    assert target.manifest_digest("app", "1") == image.digest
    assert target.manifest_digest("app", "2") is None


def test_a_sparse_index_is_refused_by_old_registries(fake: Make, connect: Connect) -> None:
    registry = fake(sparse_index=MANIFEST_BLOB_UNKNOWN)
    amd64, arm64 = registry.image("linux/amd64"), registry.image("linux/arm64")
    registry.link("app", amd64)
    index = registry.index(amd64, arm64)
    with pytest.raises(NetworkError) as caught:
        Registry(connect(), registry.host).put_manifest("app", "1", index, registry.data(index))
    assert (caught.value.status, caught.value.codes) == (400, ("MANIFEST_BLOB_UNKNOWN",))


def test_something_else_than_a_registry(registry: FakeRegistry, bent: Registry) -> None:
    registry.fault("GET", "/v2/", status=404, body=b"<html>", times=-1)
    with pytest.raises(NetworkError, match="is not a registry") as caught:
        bent.ping()
    assert not isinstance(caught.value, NotFoundError)


def test_a_registry_that_does_not_listen_yet_is_waited_for(registry: FakeRegistry, connect: Connect) -> None:
    """Docker takes the connection in its place, and breaks it."""
    target = Registry(connect(attempts=3), registry.host)
    broken = registry.fault("GET", "/v2/", close=True, times=2)
    target.ping()
    assert broken.times == 0


def test_a_closed_port_is_not_waited_for(connect: Connect) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        Registry(connect(backoff=30.0), "localhost:1").ping()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("link", ['<{}>; rel="next"', "<{}>; rel=next", '<?n=1>; rel="prev", <{}>; rel="next"'])
def test_the_next_page_is_where_the_registry_says(link: str, registry: FakeRegistry, bent: Registry) -> None:
    there = {"Link": link.format("/v2/app/tags/list?last=1")}
    registry.fault("GET", "/tags/list", status=200, body=b'{"tags": ["1"]}', headers=there)
    registry.fault("GET", "/tags/list?last=1", status=200, body=b'{"tags": ["2"]}')
    assert bent.tags("app") == ("1", "2")
    registry.fault("GET", "/tags/list", status=200, body=b'{"tags": ["1"]}', headers={"Link": '<?n=1>; rel="prev"'})
    assert bent.tags("app") == ("1",)


def test_a_list_that_is_none(registry: FakeRegistry, bent: Registry) -> None:
    registry.fault("GET", "/tags/list", status=200, body=b'{"tags": null}')
    assert bent.tags("app") == ()
    registry.fault("GET", "/tags/list", status=200, body=b'{"tags": "x"}')
    with pytest.raises(ContentError):
        bent.tags("app")


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["distribution3", "distribution2"])
def test_an_upload_survives_a_restart_of_the_registry(name: str, tmp_path: Path, connect: Connect) -> None:
    """A registry that is restarted in the middle forgets its uploads, and refuses connections for a moment."""
    data = noise("restart", 20_000_000)
    with RealRegistry(name, tmp_path) as real:
        target = Registry(connect(attempts=10, backoff=0.1), real.host)
        target.ping()
        restarts: list[int] = []

        class Restarting(Body):
            def read(self, count: int, /) -> bytes:
                if not restarts and self._stream.tell() > 5_000_000:
                    restarts.append(self._stream.tell())
                    real.restart()
                return super().read(count)

        target.upload_blob("app", octets(data), lambda: Restarting(data))
        assert len(restarts) == 1
        assert target.has_blob("app", octets(data).digest)
