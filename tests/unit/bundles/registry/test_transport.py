"""The transport against a fake registry: logins, redirects, proxies, TLS, retries, messages."""

from __future__ import annotations

import base64
import email.utils
import io
import socket
import ssl
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
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
from bundles.registry.read import fetch_list, fetch_manifest
from bundles.registry.transport import Settings, Transport
from bundles.registry.urls import Origin, insecure_hosts
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.stall import Stall

SECRET = "hunter2-secret"
Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]


def get(transport: Transport, registry: FakeRegistry, digest: object, host: str = "", **options: Any) -> bytes:
    path = f"/v2/app/blobs/{digest}"
    return transport.fetch("GET", host or registry.host, path, scope=pull_scope("app"), limit=1 << 20, **options).data


def login(name: str = "me", password: str = SECRET) -> Callable[[str, str], list[Credential]]:
    return lambda host, repository: [Credential(name, password)]


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
    transport = connect(credentials=lambda *_: [Credential(identity_token=SECRET)])
    assert get(transport, registry, blob.digest) == b"abc"
    (request,) = registry.seen("", "/token")
    assert (request.method, request.path) == ("POST", "/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.authorization == ""


def test_a_registry_token_that_is_none_is_not_shown(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    with pytest.raises(AuthenticationError, match="is no token") as caught:
        get(connect(credentials=lambda *_: [Credential(registry_token=f"{SECRET}\n")]), registry, blob.digest)
    assert SECRET not in str(caught.value)


def test_a_registry_token_is_used_as_it_is(fake: Make, connect: Connect) -> None:
    registry = fake(auth="bearer", anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    registry.tokens[SECRET] = ({"app": {"pull"}}, time.monotonic() + 60)
    assert get(connect(credentials=lambda *_: [Credential(registry_token=SECRET)]), registry, blob.digest) == b"abc"
    assert registry.seen("", "/token") == []


def test_a_token_that_ran_out_is_replaced_before_anything_is_sent(
    fake: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = fake(auth="bearer", token_lifetime=300)
    blob = registry.blob("app", b"abc")
    transport = connect()
    get(transport, registry, blob.digest)
    monkeypatch.setattr("bundles.registry.auth.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 300))
    get(transport, registry, blob.digest)
    assert len(registry.seen("GET", "/token")) == 2
    asked, first, second = (request.authorization for request in registry.seen("GET", "/blobs/"))
    assert (asked, first[:7], second[:7]) == ("", "Bearer ", "Bearer ")
    assert first != second


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

    def credentials(host: str, repository: str) -> list[Credential]:
        asked.append(host)
        return [Credential("me", SECRET)]

    with pytest.raises(NetworkError) as caught:
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


@pytest.mark.parametrize(
    "text", ["registry.example:{}", "Registry.Example:{}", "https://registry.example:{}/", "http://registry.example"]
)
def test_an_insecure_registry_is_known_however_it_is_written(
    fake: Make, connect: Connect, names: None, text: str
) -> None:
    registry = fake()
    blob, host = registry.blob("app", b"abc"), f"registry.example:{registry.port}"
    insecure = insecure_hosts([text.format(registry.port)])
    assert get(connect(insecure=insecure), registry, blob.digest, host=host) == b"abc"


def test_what_names_no_insecure_registry() -> None:
    assert insecure_hosts(["Index.docker.io", "[FD00::1]:5000", "h:443"]) == {"docker.io", "[fd00::1]:5000", "h:443"}
    for text in ("", "mirror.corp:5000/hub", "https://", "a b", "*"):
        with pytest.raises(UsageError, match=r"names no registry: expected HOST\[:PORT\]"):
            insecure_hosts([text])
    with pytest.raises(UsageError) as caught:
        insecure_hosts(["anna:S3CRET@mirror.corp:5000"])
    assert "S3CRET" not in str(caught.value)


def test_docker_hub_is_insecure_by_any_of_its_names() -> None:
    with Transport(Settings(insecure=insecure_hosts(["https://index.docker.io/"]))) as transport:
        connections = transport._connections  # no test asks Docker Hub itself
        assert connections.is_insecure(Origin.of("https://registry-1.docker.io"))
        assert not connections.is_insecure(Origin.of("https://auth.docker.io"))


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


# Several logins for one registry


def parts(registry: FakeRegistry, *names: str) -> list[Credential]:
    """A login for each of these users, with the password that is the name backwards."""
    return [Credential(name, name[::-1]) for name in names]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_the_next_login_is_tried_where_one_is_refused(fake: Make, connect: Connect, auth: str) -> None:
    users = {"anna": "anna", "otto": "otto"}
    registry = fake(auth=auth, users=users, members={"anna": "team", "otto": "app"}, anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    asked: list[tuple[str, str]] = []

    def credentials(host: str, repository: str) -> list[Credential]:
        asked.append((host, repository))
        return parts(registry, "nobody", "anna", "otto")

    transport = connect(credentials=credentials)
    assert get(transport, registry, blob.digest) == b"abc"
    assert set(asked) == {(registry.host, "app")}
    before = len(registry.seen())
    assert get(transport, registry, blob.digest) == b"abc"
    assert len(registry.seen()) == before + 1


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_when_no_login_serves_the_answer_is_a_refusal(fake: Make, connect: Connect, auth: str) -> None:
    users = {"anna": "anna", "otto": "otto"}
    registry = fake(auth=auth, users=users, members={"anna": "team", "otto": "other"}, anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    for _ in range(2):
        with pytest.raises(AuthenticationError, match=f"`{registry.host}` refused") as caught:
            get(connect(credentials=lambda *_: parts(registry, "anna", "otto")), registry, blob.digest)
        assert caught.value.status == 401
    assert len(registry.seen()) <= 12


def test_a_login_that_expires_is_renewed_and_not_given_up(fake: Make, connect: Connect) -> None:
    users = {"anna": "anna", "otto": "otto"}
    registry = fake(auth="bearer", users=users, members={"anna": "team"}, anonymous_pull=False)
    blob = registry.blob("app", b"abc")
    transport = connect(credentials=lambda *_: parts(registry, "anna", "otto"))
    get(transport, registry, blob.digest)
    registry.expire_tokens()
    assert get(transport, registry, blob.digest) == b"abc"


def test_a_token_that_served_others_until_it_ran_out_is_replaced_by_one_of_the_same_login(
    fake: Make, connect: Connect
) -> None:
    """Who waited for a token and sends it late is refused, as new as it is to them: the login is as good as before."""
    registry = fake(auth="bearer", users={"me": SECRET}, anonymous_pull=False)
    first, second = registry.blob("app", b"abc"), registry.blob("app", b"def")
    transport = connect(credentials=login())

    def overtake() -> None:
        assert get(transport, registry, second.digest) == b"def"
        registry.expire_tokens()

    path = f"/blobs/{first.digest}"
    late = [registry.fault("GET", path), *(registry.fault("GET", path, before=overtake) for _ in range(3))]
    assert get(transport, registry, first.digest) == b"abc"
    assert [fault.times for fault in late] == [0] * 4
    assert len(registry.seen("GET", "/token")) == 4
    assert len({each.authorization for each in registry.seen("GET", path)}) == 5


def test_a_new_token_that_served_nobody_is_refused_once(fake: Make, connect: Connect) -> None:
    """However good those before it were, and whatever else the login may do: the next token would be no better."""
    registry = fake(auth="bearer", users={"me": SECRET}, anonymous_pull=False)
    first, second = registry.blob("app", b"abc"), registry.blob("app", b"def")
    transport = connect(credentials=login())
    assert get(transport, registry, first.digest) == b"abc"
    realm = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'}
    registry.fault("GET", f"/blobs/{second.digest}", status=401, headers=realm, times=-1)
    with pytest.raises(AuthenticationError, match=f"`{registry.host}` refused"):
        get(transport, registry, second.digest)
    assert len(registry.seen("GET", f"/blobs/{second.digest}")) == 2
    assert len(registry.seen("GET", "/token")) == 2


# A token server without TLS


def test_a_token_for_everyone_may_come_over_plain_http(
    fake: Make, connect: Connect, certificate: Certificate, names: None
) -> None:
    tokens = fake(auth="bearer")
    registry = fake(tls=certificate, auth="bearer", token_realm=f"http://other.example:{tokens.port}/token")
    registry.tokens = tokens.tokens
    blob = registry.blob("app", b"abc")
    transport = connect(ca_file=certificate.file)
    assert get(transport, registry, blob.digest, host=f"registry.example:{registry.port}") == b"abc"


def test_a_login_goes_over_plain_http_to_a_host_that_is_named_insecure(
    fake: Make, connect: Connect, certificate: Certificate, names: None
) -> None:
    tokens = fake(auth="bearer", users={"me": SECRET}, anonymous_pull=False)
    registry = fake(tls=certificate, auth="bearer", token_realm=f"http://other.example:{tokens.port}/token")
    registry.tokens = tokens.tokens
    blob = registry.blob("app", b"abc")
    host = f"registry.example:{registry.port}"
    with pytest.raises(AuthenticationError, match="unencrypted") as caught:
        get(connect(ca_file=certificate.file, credentials=login()), registry, blob.digest, host=host)
    named = f"other.example:{tokens.port}"
    assert str(caught.value.hint).endswith(f"--insecure-registry {named}")
    assert tokens.requests == []
    insecure = frozenset({named})
    transport = connect(ca_file=certificate.file, credentials=login(), insecure=insecure)
    assert get(transport, registry, blob.digest, host=host) == b"abc"


# Storages behind registries


def test_an_address_that_ran_out_is_asked_for_once_more(fake: Make, connect: Connect) -> None:
    storage, registry = fake(), fake()
    blob = storage.blob("store", b"abc")
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/v2/store/blobs/{blob.digest}?signature=old", times=1)
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/v2/store/blobs/{blob.digest}?signature=new", times=1)
    storage.fault("GET", "signature=old", status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
    assert get(connect(), registry, blob.digest) == b"abc"
    assert len(registry.seen()) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_storage_that_refuses_is_named(fake: Make, connect: Connect, status: int) -> None:
    storage, registry = fake(), fake()
    body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    storage.fault("GET", "/x", status=status, times=-1, body=body)
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/x?signature={SECRET}", times=-1)
    with pytest.raises(
        NetworkError, match=f"storage `{storage.host}`.*`{registry.host}`.*Request has expired"
    ) as caught:
        get(connect(), registry, "x")
    assert not isinstance(caught.value, AuthenticationError)
    assert "docker login" not in str(caught.value.hint)
    assert SECRET not in shown(caught.value)
    assert (len(registry.seen()), len(storage.seen())) == (2, 2)


@pytest.mark.parametrize(
    "location",
    ["//[", "http://[", "http://[::1", "http://a:99999/", "http://a:b/", "http://\u2100.example/", "https:///x",
     "javascript:1", "//user:word@host/", "http://%00/", "/\x00[", "http://[::1]x/", "http://[v1.x]/"],
)  # fmt: skip
def test_a_hostile_location_is_an_error_like_any_other(fake: Make, connect: Connect, location: str) -> None:
    registry = fake()
    registry.fault("GET", "/blobs/", status=307, headers={"Location": location.encode().decode("latin-1")}, times=-1)
    with pytest.raises(NetworkError) as caught:
        get(connect(attempts=1, timeout=(0.5, 0.5)), registry, "x")
    assert "word" not in shown(caught.value)


@pytest.mark.parametrize("link", ["<//[>; rel=next", '<http://[::1>; rel="next"', "<http://a:b/>; rel=next"])
def test_a_hostile_link_is_an_error_like_any_other(registry: FakeRegistry, connect: Connect, link: str) -> None:
    registry.fault("GET", "/tags/", status=200, body=b'{"tags": ["1"]}', headers={"Link": link})
    with pytest.raises(NetworkError, match="not a URL"):
        list(fetch_list(connect(), registry.host, "/v2/app/tags/list", "tags", scope=pull_scope("app"), pages=2))


# Web pages

PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in &amp; surf\x1b</title></head><body>Welcome</body></html>"


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/html; charset=utf-8"}, {"Content-Type": "application/json"}]
)
def test_a_web_page_instead_of_a_token(fake: Make, connect: Connect, headers: dict[str, str]) -> None:
    registry, portal = fake(auth="bearer"), fake()
    registry.fault("GET", "/token", redirect=f"{portal.url}/login?secret={SECRET}", times=-1)
    portal.fault("GET", "/login", status=200, body=PAGE, headers=headers, times=-1)
    with pytest.raises(ContentError, match=f"`{portal.host}` sent a web page, `Log in & surf`") as caught:
        get(connect(), registry, registry.blob("app", b"abc").digest)
    assert f"a token for `{registry.host}`" in caught.value.message
    assert "HTTPS_PROXY" in str(caught.value.hint)
    assert SECRET not in shown(caught.value)


def test_a_web_page_instead_of_a_list(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/tags/", status=200, body=PAGE)
    with pytest.raises(ContentError, match=f"`{registry.host}` sent a web page, `Log in & surf`.*the list of tags"):
        list(fetch_list(connect(), registry.host, "/v2/app/tags/list", "tags", scope=pull_scope("app"), pages=2))


def test_a_web_page_instead_of_a_manifest(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/manifests/", status=200, body=PAGE)
    with pytest.raises(ContentError, match=f"`{registry.host}` sent a web page, `Log in & surf`.*the manifest `1`"):
        fetch_manifest(connect(), registry.host, "app", "1")


# Client certificates


@pytest.fixture
def client(tmp_path: Path) -> Certificate:
    """A certificate to show; it is its own CA, as servers see it."""
    directory = tmp_path / "client"
    directory.mkdir()
    return Certificate.make(directory)


def test_a_client_certificate_is_shown_to_the_host_of_its_directory(
    fake: Make, connect: Connect, certificate: Certificate, client: Certificate, names: None, tmp_path: Path
) -> None:
    registry = fake(tls=certificate, client_ca=client.file)
    host = f"registry.example:{registry.port}"
    directory = tmp_path / "certs.d" / host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(certificate.file.read_bytes())
    (directory / "client.cert").write_bytes(client.file.read_bytes())
    (directory / "client.key").write_bytes(client.key.read_bytes())
    blob = registry.blob("app", b"abc")
    transport = connect(certs_d=(tmp_path / "nowhere", tmp_path / "certs.d"))
    assert get(transport, registry, blob.digest, host=host) == b"abc"
    with pytest.raises(NetworkError, match="TLS") as caught:
        get(transport, registry, blob.digest, host=f"other.example:{registry.port}")
    assert "--ca" in str(caught.value.hint)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_is_not_asked_again(
    fake: Make, connect: Connect, certificate: Certificate, client: Certificate, names: None, version: ssl.TLSVersion
) -> None:
    registry = fake(tls=certificate, client_ca=client.file)
    assert registry._server.tls
    registry._server.tls.minimum_version = registry._server.tls.maximum_version = version
    said: list[str] = []
    host = f"registry.example:{registry.port}"
    for _ in range(20):  # what the client meets depends on who is quicker
        with pytest.raises(NetworkError, match="TLS") as caught:
            get(connect(ca_file=certificate.file, backoff=10, say=said.append), registry, "x", host=host)
        assert not isinstance(caught.value, UnavailableError)
        assert f"~/.docker/certs.d/{host}/" in str(caught.value.hint)
    assert said == []


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"client.cert": b"x"}, r"`client\.key` beside it"),
        ({"client.cert": b"x", "client.key": b"y"}, r"client\.cert.*cannot be used: they are no PEM"),
        ({"ca.crt": b"x"}, r"ca\.crt.*holds no PEM certificate"),
    ],
)
def test_certificates_that_cannot_be_used(
    fake: Make, connect: Connect, certificate: Certificate, names: None, tmp_path: Path, files: Any, problem: str
) -> None:
    registry = fake(tls=certificate)
    host = f"registry.example:{registry.port}"
    (tmp_path / host).mkdir()
    for name, data in files.items():
        (tmp_path / host / name).write_bytes(data)
    with pytest.raises(UsageError, match=problem):
        get(connect(ca_file=certificate.file, certs_d=(tmp_path,)), registry, "x", host=host)
    assert registry.seen() == []


def test_a_directory_of_certificates_is_no_ca_file(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        connect(ca_file=tmp_path)
    assert caught.value.message == f"the CA file `{tmp_path}` cannot be used: is a directory"


# Waiting


def test_a_wait_for_a_registry_that_limits_is_said_once_while_it_lasts(
    registry: FakeRegistry, connect: Connect
) -> None:
    registry.fault("GET", "/blobs/", status=429, headers={"Retry-After": "60"}, times=-1)
    said: list[str] = []
    spoken = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        spoken.set()

    transport = connect(say=say)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            get(transport, registry, "x")
        except InterruptedByUser as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert spoken.wait(10)
    while len(registry.seen()) < 5:
        time.sleep(0.01)
    assert failures == []
    transport.close()
    for thread in threads:
        thread.join()
    assert said == [f"`{registry.host}` limits how much it serves (429): next try in 60 s"]
    assert len(failures) == 5


@pytest.mark.parametrize(
    ("asked", "limits"), [("/token", "how often it is asked: run"), ("/blobs/", "how much it serves: ")]
)
def test_what_helps_against_a_limit_depends_on_who_limits(
    fake: Make, connect: Connect, asked: str, limits: str
) -> None:
    registry = fake(auth="bearer", users={"me": "secret"})
    blob = registry.blob("app", b"abc")
    registry.fault("GET", asked, times=-1, status=429)
    with pytest.raises(UnavailableError) as caught:
        get(connect(attempts=1, credentials=login()), registry, blob.digest)
    assert f"`{registry.host}` limits {limits}" in str(caught.value.hint)
    assert ("docker login" in str(caught.value.hint)) is (asked == "/blobs/")


def test_a_short_wait_is_not_worth_a_word(registry: FakeRegistry, connect: Connect) -> None:
    registry.fault("GET", "/blobs/", status=503, times=2)
    said: list[str] = []
    assert get(connect(say=said.append), registry, registry.blob("app", b"abc").digest) == b"abc"
    assert said == []


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


def test_silence_is_retried(registry: FakeRegistry, connect: Connect, stall: Stall) -> None:
    blob = registry.blob("app", b"abc")
    registry.fault("GET", "/blobs/", before=stall.wait, times=1)
    # Where the machine is busy, an answer that was not held up may be too late as well.
    assert get(connect(timeout=(5.0, 0.5), attempts=20), registry, blob.digest) == b"abc"
    assert len(registry.seen()) > 1


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

    def wait(event: threading.Event, timeout: float) -> bool:
        seconds.append(timeout)
        return event.is_set()

    monkeypatch.setattr("bundles.registry.transport.happens", wait)
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
    assert str(caught.value.hint).endswith(f"ss -ltn sport = :{host.rpartition(chr(58))[2]}")


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


def test_an_error_that_stands_alone_is_told(registry: FakeRegistry, connect: Connect) -> None:
    """As zot sends it to a wrong login, with an object for `detail`."""
    body = b'{"code":"UNAUTHORIZED","message":"authentication required","detail":{"description":"why"}}'
    registry.fault("GET", "/v2/", times=3, status=401, body=body)
    with pytest.raises(AuthenticationError) as caught:
        connect().fetch("GET", registry.host, "/v2/", scope="", limit=100)
    assert caught.value.codes == ("UNAUTHORIZED",)
    assert caught.value.message == f"`{registry.host}` refused access: UNAUTHORIZED: authentication required"


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
