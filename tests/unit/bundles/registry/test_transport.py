"""The transport against a fake registry: logins, redirects, proxies, TLS, retries, messages."""

from __future__ import annotations

import base64
import email.utils
import io
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Optional, Union

import pytest

from bundles.errors import (
    AuthenticationError,
    ContentError,
    InterruptedByUser,
    NetworkError,
    NotFoundError,
    ReadError,
    UnavailableError,
    UnreachableError,
    UsageError,
)
from bundles.registry.auth import Credential, pull_scope, push_scope
from bundles.registry.transport import Settings, Transport
from tests.support.fake_registry import Certificate, FakeRegistry

SECRET = "hunter2-secret"
Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]


def get(transport: Transport, registry: FakeRegistry, digest: object, host: str = "", **options: Any) -> bytes:
    path = f"/v2/app/blobs/{digest}"
    return transport.fetch("GET", host or registry.host, path, scope=pull_scope("app"), limit=1 << 20, **options).data


def login(name: str = "me", password: str = SECRET) -> Callable[[str], Optional[Credential]]:
    return lambda host: Credential(name, password)


def shown(error: BaseException) -> str:
    """All that a user or a log could see of an error."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)) + str(vars(error))


# Bodies and connections


def test_a_blob_comes_in_pieces_over_one_connection(registry: FakeRegistry, connect: Connect) -> None:
    data = bytes(range(256)) * 1000
    blob = registry.blob("app", data)
    transport = connect()
    path, scope = f"/v2/app/blobs/{blob.digest}", pull_scope("app")
    received = bytearray()
    buffer = bytearray(10_000)
    for _ in range(3):
        with transport.request("GET", registry.host, path, scope=scope) as response:
            assert response.status == 200
            assert response.headers["content-TYPE"] == "application/octet-stream"
            assert response.length == len(data)
            while count := response.readinto(memoryview(buffer)):
                received += buffer[:count]
    assert bytes(received) == data * 3
    assert len({id(connection) for connection in registry._server._open}) == 1


def test_an_answer_beyond_the_limit_is_refused(registry: FakeRegistry, connect: Connect) -> None:
    blob = registry.blob("app", b"x" * 1001)
    with pytest.raises(ContentError, match="longer than 1000 bytes"):
        connect().fetch("GET", registry.host, f"/v2/app/blobs/{blob.digest}", scope=pull_scope("app"), limit=1000)
    assert len(registry.seen()) == 1


def test_a_broken_small_answer_is_fetched_again(registry: FakeRegistry, connect: Connect) -> None:
    blob = registry.blob("app", b"0123456789")
    registry.fault("GET", "/blobs/", cut_after=4)
    assert get(connect(), registry, blob.digest) == b"0123456789"
    assert len(registry.seen("GET", "/blobs/")) == 2


def test_an_upload_has_a_length_and_is_read_in_pieces(registry: FakeRegistry, connect: Connect) -> None:
    class Body:
        def __init__(self) -> None:
            self.data, self.largest = io.BytesIO(b"y" * 1_000_000), 0

        def __len__(self) -> int:
            return 1_000_000

        def read(self, count: int, /) -> bytes:
            self.largest = max(self.largest, count)
            return self.data.read(count)

    bodies: list[Body] = []

    def fresh() -> Body:
        bodies.append(Body())
        return bodies[-1]

    registry.fault("PUT", "/v2/app", status=503)
    registry.fault("PUT", "/v2/app", status=201)
    connect().request("PUT", registry.host, "/v2/app", scope="", body=fresh, expect=frozenset({201})).close()
    assert [request.body_size for request in registry.seen("PUT")] == [1_000_000] * 2
    assert {request.headers["content-length"] for request in registry.seen("PUT")} == {"1000000"}
    assert not any("transfer-encoding" in request.headers for request in registry.seen("PUT"))
    assert len(bodies) == 2
    assert bodies[0].largest <= 1 << 20


class Bare:
    """A body that says how long it is, rightly or not."""

    def __init__(self, data: bytes, length: int) -> None:
        self._data, self._length = io.BytesIO(data), length

    def __len__(self) -> int:
        return self._length

    def read(self, count: int, /) -> bytes:
        return self._data.read(count)


def test_a_body_that_ends_early_is_not_a_failure_of_the_network(registry: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(ReadError, match="ends 7 bytes early"):
        connect().request("PUT", registry.host, "/v2/app", scope="", body=lambda: Bare(b"abc", 10))


def test_a_body_that_cannot_be_read_is_not_a_failure_of_the_network(registry: FakeRegistry, connect: Connect) -> None:
    class Bad(Bare):
        def read(self, count: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(ReadError, match="input/output error"):
        connect().request("PUT", registry.host, "/v2/app", scope="", body=lambda: Bad(b"", 10))


# Logins


def test_anonymous_pulls_get_one_token_for_each_repository(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer")
    blob = registry.blob("app", b"abc")
    transport = connect()
    assert [get(transport, registry, blob.digest) for _ in range(3)] == [b"abc"] * 3
    tokens = registry.paths("GET", "/token")
    assert tokens == ["/token?service=fake%2C+service&scope=repository%3Aapp%3Apull"]
    assert registry.seen("GET", "/token")[0].authorization == ""
    assert len(registry.seen("GET", "/blobs/")) == 4


def test_workers_that_start_together_share_a_token(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer")
    blob = registry.blob("app", b"abc")
    transport = connect()
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(get(transport, registry, blob.digest))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"abc"] * 16
    assert len(registry.seen("GET", "/token")) == 1


def test_a_name_and_password_go_to_the_token_server_only(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", users={"me": SECRET}, anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    assert get(connect(credentials=login()), registry, blob.digest) == b"abc"
    basic = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert [request.authorization for request in registry.seen("GET", "/token")] == [basic]
    assert [request.authorization.partition(" ")[0] for request in registry.seen("GET", "/blobs/")] == ["", "Bearer"]


def test_basic_logins(fake: Make, connect: Connect) -> None:
    registry = fake(auth="basic", users={"me": SECRET})
    blob = registry.blob("app", b"abc")
    transport = connect(credentials=login())
    assert get(transport, registry, blob.digest) == b"abc"
    assert get(transport, registry, blob.digest) == b"abc"
    assert len(registry.seen()) == 3


def test_an_identity_token_is_exchanged(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", identity_tokens=frozenset({SECRET}), anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    transport = connect(credentials=lambda host: Credential(identity_token=SECRET))
    assert get(transport, registry, blob.digest) == b"abc"
    (request,) = registry.seen("", "/token")
    assert (request.method, request.path) == ("POST", "/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.authorization == ""


def test_a_registry_token_that_is_none_is_not_shown(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    with pytest.raises(AuthenticationError, match="is no token") as caught:
        get(connect(credentials=lambda host: Credential(registry_token=f"{SECRET}\n")), registry, blob.digest)
    assert SECRET not in str(caught.value)


def test_a_registry_token_is_used_as_it_is(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    registry.tokens[SECRET] = ({"app": {"pull"}}, time.monotonic() + 60)
    assert get(connect(credentials=lambda host: Credential(registry_token=SECRET)), registry, blob.digest) == b"abc"
    assert registry.seen("", "/token") == []


def test_a_token_that_ran_out_is_not_sent_again(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", token_lifetime=0.2)
    blob = registry.blob("app", b"abc")
    transport = connect()
    get(transport, registry, blob.digest)
    time.sleep(0.25)
    get(transport, registry, blob.digest)
    assert len(registry.seen("GET", "/token")) == 2
    sent = [request.authorization.partition(" ")[0] for request in registry.seen("GET", "/blobs/")]
    assert sent == ["", "Bearer", "", "Bearer"]


def test_a_token_that_is_refused_in_the_middle_of_a_run_is_renewed(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer")
    blob = registry.blob("app", b"abc")
    transport = connect()
    get(transport, registry, blob.digest)
    registry.expire_tokens()
    assert get(transport, registry, blob.digest) == b"abc"
    assert len(registry.seen("GET", "/token")) == 2


def test_writing_asks_for_more_than_reading(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", users={"me": SECRET})
    transport = connect(credentials=login())
    with transport.request(
        "POST", registry.host, "/v2/app/blobs/uploads/", scope=push_scope("app"), body=b"", expect=frozenset({202})
    ):
        pass
    assert registry.paths("GET", "/token") == ["/token?service=fake%2C+service&scope=repository%3Aapp%3Apull%2Cpush"]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_refused_login_names_host_and_repository_and_not_the_secret(fake: Make, connect: Connect, auth: str) -> None:
    registry = fake(auth=auth, users={"me": "other"}, anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    with pytest.raises(AuthenticationError) as caught:
        get(connect(credentials=login()), registry, blob.digest)
    assert caught.value.status == 401
    assert registry.host in caught.value.message
    assert "`app`" in caught.value.message
    assert f"docker login {registry.host}" in str(caught.value.hint)
    assert SECRET not in shown(caught.value)
    assert base64.b64encode(f"me:{SECRET}".encode()).decode() not in shown(caught.value)
    assert len(registry.seen("GET", "/blobs/")) <= 2


def test_no_login_where_one_is_needed(fake: Make, connect: Connect) -> None:
    registry = fake(auth="basic", users={"me": SECRET})
    with pytest.raises(AuthenticationError, match="wants a login for `app`"):
        get(connect(), registry, registry.blob("app", b"abc").digest)


def test_403_is_a_refusal_and_is_not_repeated(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/blobs/", status=403, body=b'{"errors":[{"code":"DENIED","message":"not yours"}]}')
    with pytest.raises(AuthenticationError, match="DENIED: not yours") as caught:
        get(connect(), registry, "sha256:" + "0" * 64)
    assert (caught.value.status, caught.value.codes) == (403, ("DENIED",))
    assert len(registry.seen()) == 1


def test_the_token_server_may_be_another_host(fake: Make, connect: Connect) -> None:
    tokens = fake(auth="bearer")
    registry = fake(auth="bearer", token_realm=f"{tokens.url}/token?account=x")
    registry.tokens = tokens.tokens
    assert get(connect(), registry, registry.blob("app", b"abc").digest) == b"abc"
    assert tokens.paths() == ["/token?account=x&service=fake%2C+service&scope=repository%3Aapp%3Apull"]


def test_a_login_does_not_leave_https(fake: Make, connect: Connect, certificate: Certificate, names: None) -> None:
    tokens = fake(auth="bearer")
    registry = fake(tls=certificate, auth="bearer", token_realm=f"{tokens.url}/token")
    transport = connect(ca_file=certificate.file, credentials=login())
    with pytest.raises(AuthenticationError, match="plain HTTP"):
        get(transport, registry, "sha256:" + "0" * 64, host=f"registry.example:{registry.port}")
    assert tokens.requests == []


def test_a_token_server_in_trouble_is_asked_again(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer")
    registry.fault("GET", "/token", status=503)
    assert get(connect(), registry, registry.blob("app", b"abc").digest) == b"abc"
    assert len(registry.seen("GET", "/token")) == 2


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token": ""}', b'{"token": "a\\nb"}', b'{"token": 1}'])
def test_an_answer_without_a_token(fake: Make, connect: Connect, body: bytes) -> None:
    registry = fake(auth="bearer")
    registry.fault("GET", "/token", status=200, body=body)
    with pytest.raises(AuthenticationError, match="sent no token"):
        get(connect(), registry, registry.blob("app", b"abc").digest)


# Redirects


def test_a_redirect_to_another_host_goes_without_the_login(fake: Make, connect: Connect) -> None:
    storage, registry = fake(), fake(auth="basic", users={"me": SECRET})
    blob = storage.blob("store", b"abc")
    target = f"{storage.url}/v2/store/blobs/{blob.digest}?signature={SECRET}"
    registry.fault("GET", "/blobs/", status=401, headers={"WWW-Authenticate": "Basic realm=x"})
    registry.fault("GET", "/blobs/", redirect=target)
    assert get(connect(credentials=login()), registry, "sha256:" + "0" * 64, headers={"X-Kept": "yes"}) == b"abc"
    (request,) = storage.seen()
    assert request.authorization == ""
    assert request.headers["x-kept"] == "yes"
    assert registry.seen()[-1].authorization.startswith("Basic ")


def test_a_redirect_on_the_same_host_keeps_the_login(fake: Make, connect: Connect) -> None:
    registry = fake(auth="basic", users={"me": SECRET})
    blob = registry.blob("app", b"abc")
    transport = connect(credentials=login())
    get(transport, registry, blob.digest)
    registry.fault("GET", "sha256:000", redirect=f"/v2/app/blobs/{blob.digest}")
    assert get(transport, registry, "sha256:" + "0" * 64) == b"abc"


def test_redirects_end(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/v2/app", redirect=f"/v2/app/loop?token={SECRET}", times=-1)
    with pytest.raises(NetworkError, match="more than 5 redirects") as caught:
        get(connect(), registry, "x")
    assert SECRET not in shown(caught.value)
    assert len(registry.seen()) == 6


def test_a_refusal_of_the_storage_is_no_reason_to_log_in(fake: Make, connect: Connect) -> None:
    storage, registry = fake(), fake()
    storage.fault("GET", "/x", status=401, headers={"WWW-Authenticate": "Basic realm=x"}, times=-1)
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/x?sig={SECRET}")
    asked: list[str] = []

    def credentials(host: str) -> Optional[Credential]:
        asked.append(host)
        return Credential("me", SECRET)

    with pytest.raises(AuthenticationError) as caught:
        get(connect(credentials=credentials), registry, "x")
    assert asked == []
    assert SECRET not in shown(caught.value)


def test_a_redirect_does_not_leave_https(fake: Make, connect: Connect, certificate: Certificate, names: None) -> None:
    plain, registry = fake(), fake(tls=certificate)
    registry.fault("GET", "/blobs/", redirect=f"http://other.example:{plain.port}/x?sig={SECRET}")
    with pytest.raises(NetworkError, match="from https to plain http") as caught:
        get(connect(ca_file=certificate.file), registry, "x", host=f"registry.example:{registry.port}")
    assert f"--insecure-registry other.example:{plain.port}" in str(caught.value.hint)
    assert SECRET not in shown(caught.value)
    assert plain.requests == []


# TLS and plain HTTP


def test_this_machine_is_tried_with_tls_and_then_without(fake: Make, connect: Connect) -> None:
    registry = fake()
    blob = registry.blob("app", b"abc")
    transport = connect()
    assert get(transport, registry, blob.digest) == b"abc"
    assert get(transport, registry, blob.digest) == b"abc"
    assert len([request for request in registry.requests if request.is_ping]) == 1


def test_this_machine_with_tls_needs_no_ca(fake: Make, connect: Connect, certificate: Certificate) -> None:
    registry = fake(tls=certificate)
    assert get(connect(), registry, registry.blob("app", b"abc").digest) == b"abc"


def test_a_tls_failure_by_chance_does_not_turn_a_registry_into_a_plain_one(
    fake: Make, connect: Connect, certificate: Certificate
) -> None:
    registry = fake(tls=certificate)
    registry.fault("GET", "/v2/", close=True)
    assert get(connect(), registry, registry.blob("app", b"abc").digest) == b"abc"


def test_a_named_host_is_verified(fake: Make, connect: Connect, certificate: Certificate, names: None) -> None:
    registry = fake(tls=certificate)
    blob, host = registry.blob("app", b"abc"), f"registry.example:{registry.port}"
    assert get(connect(ca_file=certificate.file), registry, blob.digest, host=host) == b"abc"
    with pytest.raises(NetworkError, match=r"self.signed certificate") as caught:
        get(connect(), registry, blob.digest, host=host)
    assert "--ca FILE" in str(caught.value.hint)
    assert not isinstance(caught.value, UnavailableError)
    wrong = f"unknown.example:{registry.port}"
    with pytest.raises(NetworkError, match="hostname mismatch"):
        get(connect(ca_file=certificate.file), registry, blob.digest, host=wrong)
    assert get(connect(insecure=frozenset({host})), registry, blob.digest, host=host) == b"abc"
    assert get(connect(insecure=frozenset({"unknown.example"})), registry, blob.digest, host=wrong) == b"abc"


def test_a_plain_registry_must_be_named_as_such(fake: Make, connect: Connect, names: None) -> None:
    registry = fake()
    blob, host = registry.blob("app", b"abc"), f"registry.example:{registry.port}"
    with pytest.raises(NetworkError, match="does not speak TLS") as caught:
        get(connect(), registry, blob.digest, host=host)
    assert f"--insecure-registry {host}" in str(caught.value.hint)
    assert registry.requests == []
    assert get(connect(insecure=frozenset({host})), registry, blob.digest, host=host) == b"abc"


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_bad_ca_file(tmp_path: Path, content: Optional[bytes]) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"ca\.pem"):
        Transport(Settings(ca_file=path))


def test_docker_hub_has_another_name_on_the_wire(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    asked: list[Any] = []

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        asked.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UnreachableError, match=r"registry-1\.docker\.io"):
        connect().fetch("GET", "docker.io", "/v2/", scope="", limit=1)
    assert set(asked) == {("registry-1.docker.io", 443)}


# Retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_failures_are_retried(registry: FakeRegistry, connect: Connect, status: int) -> None:
    blob = registry.blob("app", b"abc")
    registry.fault("GET", "/blobs/", status=status, times=2)
    assert get(connect(attempts=3), registry, blob.digest) == b"abc"
    assert len(registry.seen()) == 3


def test_retries_end(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/blobs/", status=503, times=-1)
    with pytest.raises(UnavailableError, match="503") as caught:
        get(connect(attempts=4), registry, "x")
    assert caught.value.status == 503
    assert len(registry.seen()) == 4


def test_a_connection_that_breaks_is_retried(registry: FakeRegistry, connect: Connect) -> None:
    blob = registry.blob("app", b"abc")
    registry.fault("GET", "/blobs/", close=True, times=2)
    assert get(connect(attempts=3), registry, blob.digest) == b"abc"


def test_silence_is_retried(registry: FakeRegistry, connect: Connect) -> None:
    blob = registry.blob("app", b"abc")
    registry.fault("GET", "/blobs/", before=lambda: time.sleep(0.5), times=1)
    assert get(connect(timeout=(5.0, 0.2)), registry, blob.digest) == b"abc"
    assert len(registry.seen()) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(400, NetworkError), (404, NotFoundError), (403, AuthenticationError), (405, NetworkError)]
)
def test_definite_answers_are_not_retried(
    registry: FakeRegistry, connect: Connect, status: int, kind: type[NetworkError]
) -> None:
    registry.fault("GET", "/blobs/", status=status, times=-1)
    with pytest.raises(NetworkError) as caught:
        get(connect(), registry, "x")
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert len(registry.seen()) == 1


def waits(connect: Connect, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[float]:
    """How long the transport would have waited."""
    seconds: list[float] = []
    transport = connect(**settings)

    def wait(timeout: float) -> bool:
        seconds.append(timeout)
        return False

    monkeypatch.setattr(transport._closed, "wait", wait)
    with pytest.raises(UnavailableError):
        get(transport, registry, "x")
    return seconds


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("3600", 60, 60), (20, 15, 20), (-20, 0, 0), (7200, 60, 60), ("soon", 0.5, 1), ("", 0.5, 1)],
)
def test_retry_after_is_honoured_up_to_a_minute(
    registry: FakeRegistry,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    value: Union[str, int],
    low: float,
    high: float,
) -> None:
    if isinstance(value, int):
        value = email.utils.formatdate(time.time() + value, usegmt=True)
    registry.fault("GET", "/blobs/", status=429, headers={"Retry-After": value}, times=-1)
    (wait,) = waits(connect, registry, monkeypatch, attempts=2, backoff=1)
    assert low <= wait <= high


def test_waits_double_with_some_chance(
    registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.fault("GET", "/blobs/", status=503, times=-1)
    seconds = waits(connect, registry, monkeypatch, attempts=8, backoff=1)
    assert len(seconds) == 7
    for wait, most in zip(seconds, [1, 2, 4, 8, 16, 30, 30]):
        assert most / 2 <= wait <= most


def test_closing_ends_the_waits(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/blobs/", status=503, headers={"Retry-After": "60"}, times=-1)
    transport = connect()
    threading.Timer(0.2, transport.close).start()
    begun = time.monotonic()
    with pytest.raises(InterruptedByUser):
        get(transport, registry, "x")
    assert time.monotonic() - begun < 5


def test_an_interruption_is_not_swallowed(registry: FakeRegistry, connect: Connect) -> None:
    def interrupted() -> Bare:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect().request("PUT", registry.host, "/v2/app", scope="", body=interrupted)


def test_a_refused_connection_says_what_to_do(connect: Connect) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="connection refused") as caught:
            connect().fetch("GET", host, "/v2/", scope="", limit=1)
    assert host in caught.value.message
    assert "running?" in str(caught.value.hint)


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_a_host_that_never_answered_is_tried_twice(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, code: int
) -> None:
    asked: list[Any] = []

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UnreachableError, match=r"`registry\.example:443`.*does not resolve") as caught:
        connect(attempts=5).fetch("GET", "registry.example", "/v2/", scope="", limit=1)
    assert "--mirror" in str(caught.value.hint)
    assert "HTTPS_PROXY" in str(caught.value.hint)
    assert len(asked) == 2


def test_a_host_that_has_answered_is_tried_to_the_end(
    registry: FakeRegistry, connect: Connect, names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"registry.example:{registry.port}"
    transport = connect(insecure=frozenset({host}), attempts=5)
    get(transport, registry, registry.blob("app", b"abc").digest, host=host)
    registry.close()
    asked: list[Any] = []
    known = socket.getaddrinfo

    def resolve(*args: Any, **options: Any) -> Any:
        asked.append(args[0])
        return known(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UnavailableError):
        get(transport, registry, "x", host=host)
    assert len(asked) >= 4


# What the registry says


def test_the_registrys_error_is_told(registry: FakeRegistry, connect: Connect) -> None:
    body = b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob\\u001b[31m \\nunknown"},{"code":"SECOND"}]}'
    registry.fault("PUT", "/manifests/", status=400, body=body)
    with pytest.raises(NetworkError) as caught:
        connect().request("PUT", registry.host, "/v2/app/manifests/1", scope=push_scope("app"), body=b"{}")
    assert caught.value.codes == ("MANIFEST_BLOB_UNKNOWN", "SECOND")
    assert caught.value.message == (
        f"PUT http://{registry.host}/v2/app/manifests/1: MANIFEST_BLOB_UNKNOWN: blob[31m unknown"
    )


@pytest.mark.parametrize(
    "body",
    [b"<html>no</html>", b"[]", b'{"errors": null}', b'{"errors": [1]}', b'{"errors": []}', b"\xff", b"[" * 9999],
)
def test_other_errors_are_told_by_their_status(registry: FakeRegistry, connect: Connect, body: bytes) -> None:
    registry.fault("GET", "/blobs/", status=400, body=body)
    with pytest.raises(NetworkError, match="HTTP status 400") as caught:
        get(connect(), registry, "x")
    assert caught.value.codes == ()


def test_long_messages_are_cut(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/blobs/", status=400, body=b'{"errors":[{"code":"X","message":"%s"}]}' % (b"y" * 5000))
    with pytest.raises(NetworkError) as caught:
        get(connect(), registry, "x")
    assert len(caught.value.message) < 300


def test_queries_do_not_show_anywhere(registry: FakeRegistry, connect: Connect) -> None:
    path = f"/v2/app/blobs/uploads/1?_state={SECRET}"
    for fault in ({"status": 404}, {"status": 503}, {"close": True}, {"cut_after": 2}, {"status": 401}):
        registry.fault("PUT", "/uploads/", **{"times": 3, "body": b"{}", **fault})
        with pytest.raises(NetworkError) as caught:
            connect().fetch("PUT", registry.host, path, scope=push_scope("app"), body=b"", limit=10)
        assert SECRET not in shown(caught.value)
        registry.faults.clear()
    registry.close()
    with pytest.raises(NetworkError) as caught:
        connect().fetch("PUT", registry.host, path, scope=push_scope("app"), body=b"", limit=10)
    assert SECRET not in shown(caught.value)


# Proxies
