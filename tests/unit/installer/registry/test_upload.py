"""Blobs in pieces: below the limit of a proxy in front, with tokens that expire and connections that break."""

from __future__ import annotations

import tracemalloc
from typing import Any, Callable

import pytest

from bundles.errors import NetworkError, NotFoundError, ReadError, TooLargeError, UnavailableError
from bundles.oci.descriptor import Descriptor
from bundles.registry.auth import Credential
from bundles.registry.transport import Transport
from installer.registry.client import Registry
from tests.support.fake_registry import FakeRegistry, Refusal
from tests.support.images import noise
from tests.support.upload_body import Body

Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]
KIB, MIB = 1 << 10, 1 << 20
LOGIN = {"credentials": lambda *_: [Credential("me", "secret")]}
PLACES = ["0-1048575", "1048576-2097151", "2097152-3145727"]


def octets(data: bytes) -> Descriptor:
    return Descriptor.of("application/octet-stream", data)


def send(target: Registry, data: bytes, repository: str = "team/app") -> None:
    target.upload_blob(repository, octets(data), lambda: Body(data))


@pytest.fixture
def behind(fake: Make) -> FakeRegistry:
    """A registry behind a proxy that takes 1 MiB."""
    return fake(largest_body=MIB)


@pytest.fixture
def target(behind: FakeRegistry, connect: Connect) -> Registry:
    """What pushes there, and knows the limit by now."""
    target = Registry(connect(), behind.host)
    send(target, noise("first", 2 * MIB))
    behind.requests.clear()
    return target


def test_what_a_proxy_refuses_whole_goes_in_pieces_below_its_limit(behind: FakeRegistry, connect: Connect) -> None:
    data = noise("pieces", 2 * MIB + 300 * KIB)
    send(Registry(connect(), behind.host), data)
    assert behind.content[octets(data).digest] == data
    assert octets(data).digest in behind.repositories["team/app"].blobs
    # The whole is refused, and 2 MiB; then what was refused goes on as two pieces.
    assert [(each.method, each.body_size) for each in behind.seen()] == [
        ("POST", 0),
        ("PUT", len(data)),
        ("DELETE", 0),
        ("POST", 0),
        ("PATCH", 2 * MIB),
        ("PATCH", MIB),
        ("PATCH", MIB),
        ("PATCH", 300 * KIB),
        ("PUT", 0),
    ]
    places = [each.headers["content-range"] for each in behind.seen("PATCH")]
    assert places == ["0-2097151", "0-1048575", "1048576-2097151", "2097152-2404351"]
    assert behind.uploads == {}


def test_the_limit_is_found_once(fake: Make, connect: Connect) -> None:
    registry = fake(largest_body=100 * KIB)
    target = Registry(connect(), registry.host)
    blobs = [noise(number, size) for number, size in enumerate((500 * KIB, 200 * KIB, 90 * KIB, 60 * KIB, 0))]
    for data in blobs:
        send(target, data)
    assert all(registry.content[octets(data).digest] == data for data in blobs)
    assert [each.body_size for each in registry.seen() if each.body_size > 100 * KIB] == [
        500 * KIB,
        256 * KIB,
        128 * KIB,
    ]
    assert registry.seen("PUT")[-2].body_size == 60 * KIB


def test_a_limit_below_all_sense_is_named(fake: Make, connect: Connect) -> None:
    registry = fake(largest_body=10_000)
    target = Registry(connect(), registry.host)
    send(target, noise("small", 9_000))
    with pytest.raises(TooLargeError) as caught:
        send(target, noise("large", 3 * MIB))
    assert caught.value.message == (
        f"a proxy in front of `{registry.host}`, which calls itself `nginx/1.22.1`, limits the size of an upload: "
        "16.0 KiB were refused with 413, 8.8 KiB came through, and 16.0 KiB is the least that is tried"
    )
    assert "nginx: client_max_body_size 0" in str(caught.value.hint)
    assert caught.value.status == 413


def test_a_limit_of_the_registry_is_not_blamed_on_a_proxy(registry: FakeRegistry, connect: Connect) -> None:
    body = b'{"errors":[{"code":"SIZE_INVALID","message":"no layer above 1 GB"}]}'
    for method in ("PUT", "PATCH"):
        registry.fault(method, "/uploads/", status=413, body=body, times=-1)
    with pytest.raises(TooLargeError, match=f"^`{registry.host}` itself limits") as caught:
        send(Registry(connect(), registry.host), noise("large", MIB))
    assert "nginx" not in str(caught.value)
    assert caught.value.codes == ("SIZE_INVALID",)


@pytest.mark.parametrize(
    "refusal",
    [Refusal(405, "UNSUPPORTED", "no"), Refusal(404, "NOT_FOUND", "no"), Refusal(400, "UNSUPPORTED", "no")],
    ids=lambda refusal: str(refusal.status),
)
def test_a_registry_that_takes_no_pieces(fake: Make, connect: Connect, refusal: Refusal) -> None:
    registry = fake(largest_body=MIB, chunks=refusal)
    target = Registry(connect(), registry.host)
    send(target, noise("small", 600 * KIB))
    with pytest.raises(TooLargeError) as caught:
        send(target, noise("large", 5 * MIB // 4))
    assert "1.2 MiB were refused with 413, 600.0 KiB came through" in caught.value.message
    assert f"the registry takes no pieces: {refusal.code}: no" in caught.value.message
    assert "a proxy in front" in caught.value.message
    assert len(registry.seen("PATCH")) == 1


def test_a_registry_that_wants_large_pieces_gets_them(fake: Make, connect: Connect) -> None:
    registry = fake(largest_body=700 * KIB, smallest_chunk=600 * KIB)
    data = noise("large", 2 * MIB)
    send(Registry(connect(), registry.host), data)
    assert registry.content[octets(data).digest] == data
    assert [each.body_size for each in registry.seen("PATCH")] == [MIB, *3 * [600 * KIB], 248 * KIB]


def test_a_registry_that_wants_larger_pieces_than_the_proxy_takes(fake: Make, connect: Connect) -> None:
    registry = fake(largest_body=MIB, smallest_chunk=5 * MIB)
    with pytest.raises(TooLargeError, match=r"5.0 MiB is the least that the registry takes in a piece"):
        send(Registry(connect(), registry.host), noise("large", 6 * MIB))


def test_a_token_for_each_piece(fake: Make, connect: Connect) -> None:
    """A token that is good for one request: after every answer it is the end of it."""
    registry = fake(largest_body=MIB, auth="bearer", users={"me": "secret"}, anonymous_pull=False, token_uses=1)
    data = noise("tokens", 3 * MIB)
    send(Registry(connect(**LOGIN), registry.host), data)
    assert registry.content[octets(data).digest] == data
    taken = [each.authorization for each in registry.seen("PATCH") if each.body_size <= MIB]
    assert len(taken) == 2 * 3  # refused with the old one, taken with a new one
    assert len(set(taken)) == 4


def test_a_token_that_expires_between_pieces(fake: Make, connect: Connect) -> None:
    registry = fake(largest_body=MIB, auth="bearer", users={"me": "secret"}, anonymous_pull=False)
    data = noise("expired", 3 * MIB)
    target = Registry(connect(**LOGIN), registry.host)
    send(target, noise("first", 2 * MIB))
    faults = [registry.fault(method, "/uploads/", before=registry.expire_tokens) for method in ("PATCH", "PUT")]
    send(target, data)
    assert registry.content[octets(data).digest] == data
    assert [each.times for each in faults] == [0, 0]


FAULTS: dict[str, dict[str, Any]] = {
    "503": {"status": 503},
    "close": {"close": True},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "unknown": {"status": 404, "body": b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'},
    "416": {"status": 416},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_piece_that_fails_is_sent_again_and_no_other(
    behind: FakeRegistry, target: Registry, fault: dict[str, Any]
) -> None:
    data = noise("second", 3 * MIB)
    behind.fault("PATCH", f"-{MIB}", **fault)
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert [(each.method, each.headers.get("content-range", "")) for each in behind.seen()] == [
        ("POST", ""),
        ("PATCH", PLACES[0]),
        ("PATCH", PLACES[1]),
        ("GET", ""),
        ("PATCH", PLACES[1]),
        ("PATCH", PLACES[2]),
        ("PUT", ""),
    ]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_end_that_fails_sends_no_piece_again(behind: FakeRegistry, target: Registry, fault: dict[str, Any]) -> None:
    data = noise("second", 2 * MIB)
    behind.fault("PUT", "/uploads/", **fault)
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert [each.method for each in behind.seen()] == ["POST", "PATCH", "PATCH", "PUT", "GET", "PUT"]


def test_a_piece_whose_answer_was_lost_is_not_sent_again(behind: FakeRegistry, target: Registry) -> None:
    data = noise("second", 3 * MIB)

    def taken() -> None:
        (session,) = behind.uploads
        behind.uploads[session] += data[:MIB]

    behind.fault("PATCH", "/uploads/", status=504, before=taken)
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert [each.headers["content-range"] for each in behind.seen("PATCH")] == PLACES


def test_every_piece_may_fail_as_often_as_a_blob_may(behind: FakeRegistry, connect: Connect) -> None:
    target = Registry(connect(attempts=2), behind.host)
    send(target, noise("first", 2 * MIB))
    data = noise("second", 6 * MIB)
    faults = [behind.fault("PATCH", f"-{number * MIB}", status=503) for number in range(6)]
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert [each.times for each in faults] == 6 * [0]


def test_an_upload_that_was_forgotten_between_pieces_begins_anew(behind: FakeRegistry, target: Registry) -> None:
    data = noise("second", 3 * MIB)
    behind.fault("PATCH", f"-{MIB}", before=behind.uploads.clear)
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert [each.method for each in behind.seen()] == [
        *("POST", "PATCH", "PATCH", "GET"),
        *("HEAD", "POST", "PATCH", "PATCH", "PATCH", "PUT"),
    ]


def test_a_registry_that_does_not_say_how_far_it_is(behind: FakeRegistry, target: Registry) -> None:
    data = noise("second", 3 * MIB)
    behind.fault("PATCH", f"-{MIB}", status=503)
    behind.fault("GET", "/uploads/", status=405)
    send(target, data)
    assert behind.content[octets(data).digest] == data
    assert len(behind.seen("POST")) == 2


def test_pieces_end(behind: FakeRegistry, target: Registry) -> None:
    behind.fault("PATCH", f"-{MIB}", status=503, times=-1)
    with pytest.raises(UnavailableError):
        send(target, noise("second", 3 * MIB))
    assert [each.headers["content-range"] for each in behind.seen("PATCH")] == [PLACES[0], *3 * [PLACES[1]]]


def test_damage_in_a_piece_is_told_as_such(behind: FakeRegistry, target: Registry) -> None:
    data = noise("short", 3 * MIB)

    class Short(Body):
        def __init__(self) -> None:
            super().__init__(data[:-1])

        def __len__(self) -> int:
            return len(data)

    with pytest.raises(ReadError, match="1 bytes early"):
        target.upload_blob("team/app", octets(data), Short)
    assert octets(data).digest not in behind.content


def test_wrong_bytes_in_pieces_are_refused(behind: FakeRegistry, target: Registry) -> None:
    with pytest.raises(NetworkError) as caught:
        target.upload_blob("team/app", octets(noise("right", 2 * MIB)), lambda: Body(noise("wrong", 2 * MIB)))
    assert caught.value.codes == ("DIGEST_INVALID",)


def test_pieces_take_little_memory(behind: FakeRegistry, target: Registry) -> None:
    """Of a blob that is far larger than a piece, no more is in memory than the piece."""
    size, most = 16 * MIB, 0
    ours = [tracemalloc.Filter(True, "*/installer/registry/upload.py")]

    class Zeros(Body):
        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return size

        def read(self, count: int, /) -> bytes:
            nonlocal most
            statistics = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
            most = max(most, sum(each.size for each in statistics))
            return bytes(count)

    blob = Descriptor("application/octet-stream", octets(bytes(size)).digest, size)
    tracemalloc.start()
    try:
        target.upload_blob("team/app", blob, Zeros)
    finally:
        tracemalloc.stop()
    assert 0 < most < 3 * MIB
    assert behind.content[blob.digest] == bytes(size)


# What is refused for other reasons


def test_a_repository_that_a_push_does_not_make(fake: Make, connect: Connect) -> None:
    registry = fake(created=frozenset({"team/app"}))
    target = Registry(connect(), registry.host)
    send(target, b"abc")
    with pytest.raises(NotFoundError) as caught:
        send(target, b"abc", "team/other")
    assert caught.value.message.startswith(
        f"`{registry.host}` has no repository `team/other`, and makes none on a push"
    )
    assert "aws ecr create-repository --repository-name" in str(caught.value.hint)


@pytest.mark.parametrize("largest", [None, MIB])
def test_a_full_project(fake: Make, connect: Connect, largest: int | None) -> None:
    registry = fake(quota=2 * MIB, largest_body=largest, auth="bearer", users={"me": "secret"}, anonymous_pull=False)
    target = Registry(connect(**LOGIN), registry.host)
    send(target, noise("first", MIB))
    with pytest.raises(NetworkError) as caught:
        send(target, noise("second", 3 * MIB))
    assert caught.value.codes == ("DENIED",)
    assert "opened an upload to `team/app`, and then refused its content: DENIED: adding 29.0 MiB" in str(caught.value)
    assert "quota" in str(caught.value.hint)
    assert "docker login" not in str(caught.value)


def test_no_new_token_is_asked_for_to_end_an_upload(fake: Make, connect: Connect) -> None:
    """distribution wants the right to delete for it, which who may only push does not have."""
    registry = fake(auth="bearer", users={"me": "secret"})
    challenge = f'Bearer realm="{registry.scheme}://{registry.host}/token",service="fake",error="insufficient_scope"'
    registry.fault("DELETE", "/uploads/", times=-1, status=401, headers={"WWW-Authenticate": challenge})
    Registry(connect(**LOGIN), registry.host).check_write("team/app")
    assert [each.method for each in registry.seen(part="/uploads/")] == ["POST", "POST", "DELETE"]
    assert len(registry.seen("GET", "/token")) == 1
