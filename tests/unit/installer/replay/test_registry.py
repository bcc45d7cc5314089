"""How the replay service gets into a registry: TLS, logins, tokens, and where the registry leads."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from bundles.errors import AuthenticationError, NotFoundError, UnavailableError
from bundles.oci.descriptor import Descriptor
from bundles.registry.auth import Credential
from bundles.registry.tls import trusting
from installer.replay.blobs import Blobs
from installer.replay.registry import Registry
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.images import noise

REPOSITORY = "team/offline-bundle/tape"
ANNA = Credential("anna", "opensesame")
BASIC = "Basic " + base64.b64encode(b"anna:opensesame").decode()
USERS = {"anna": "opensesame"}


@pytest.fixture
def connect(certificate: Certificate) -> Callable[..., Blobs]:
    """Makes what reads from a registry, with anna's login and the CA of the tests."""

    def make(
        registry: FakeRegistry, logins: Sequence[Credential] = (ANNA,), name: Optional[str] = None, **more: Any
    ) -> Blobs:
        context = trusting(certificate.file) if registry.scheme == "https" else None
        reached = Registry(name or registry.host, "127.0.0.1", context, logins, **more)
        return Blobs(reached, REPOSITORY, patience=0)

    return make


def read(blobs: Blobs, content: Descriptor, start: int = 0) -> bytes:
    return b"".join(blobs.open(content, start, content.size - start))


def logins_of(registry: FakeRegistry, part: str = "") -> list[str]:
    """What was sent as `Authorization`, by its scheme; "" for none."""
    return [request.authorization.partition(" ")[0] for request in registry.seen(part=part)]


def test_over_tls_with_a_login(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate
) -> None:
    registry = fake(tls=certificate, auth="basic", users=USERS)
    content = registry.blob(REPOSITORY, b"content")
    blobs = connect(registry)
    assert (blobs.document(content), read(blobs, content, 3)) == (b"content", b"tent")
    # It is sent when it was asked for, and from then on at once.
    assert logins_of(registry) == ["", "Basic", "Basic"]
    assert registry.seen()[-1].authorization == BASIC


def test_a_server_with_another_certificate_gets_nothing(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate, tmp_path: Path
) -> None:
    registry = fake(tls=Certificate.make(tmp_path), auth="basic", users=USERS)
    content = registry.blob(REPOSITORY, b"content")
    with pytest.raises(UnavailableError, match="its certificate is not trusted here: self-signed certificate"):
        connect(registry).document(content)
    # The right certificate, of another host.
    right = fake(tls=certificate, auth="basic", users=USERS)
    named = connect(right, name=f"harbor.example:{right.port}")
    with pytest.raises(UnavailableError, match="not trusted here: Hostname mismatch"):
        named.document(right.blob(REPOSITORY, b"content"))
    assert (registry.requests, right.requests) == ([], [])


def test_a_certificate_is_for_the_name_wherever_that_is_connected_to(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate
) -> None:
    registry = fake(tls=certificate)
    name = f"registry.example:{registry.port}"
    assert connect(registry, name=name).document(registry.blob(REPOSITORY, b"content")) == b"content"
    assert registry.seen()[0].headers["host"] == name


def test_a_ca_of_a_company_will_do(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extensions that Python 3.13 and later want by themselves, as many have it."""
    real = ssl.create_default_context

    def strict(**options: Any) -> ssl.SSLContext:
        context = real(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    (tmp_path / "old.cnf").write_text(
        "[req]\ndistinguished_name=name\nprompt=no\n[name]\nCN=old\n[ca]\nbasicConstraints=CA:TRUE\n"
        "[leaf]\nsubjectAltName=IP:127.0.0.1\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"
    )
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -config old.cnf -extensions ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -config old.cnf -subj /CN=leaf -keyout old.key -out old.csr",
        "x509 -req -in old.csr -CA ca.pem -CAkey ca.key -set_serial 2 -days 2 -extfile old.cnf -extensions leaf "
        "-out old.pem",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=tmp_path)
    registry, authority = fake(tls=Certificate(tmp_path / "old.pem", tmp_path / "old.key")), tmp_path / "ca.pem"
    content = registry.blob(REPOSITORY, b"content")
    blobs = Blobs(Registry(registry.host, context=trusting(authority)), REPOSITORY, patience=0)
    assert blobs.document(content) == b"content"
    refusing = Blobs(Registry(registry.host, context=strict(cafile=str(authority))), REPOSITORY, patience=0)
    with pytest.raises(UnavailableError, match="not trusted here"):
        refusing.document(content)


def test_a_refused_login_is_told_apart_and_not_sent_again_and_again(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]
) -> None:
    registry = fake(auth="basic", users={"anna": "another"})
    content = registry.blob(REPOSITORY, b"content")
    blobs = connect(registry)
    for _ in range(3):
        with pytest.raises(
            AuthenticationError, match=f"`{registry.host}` refused the login for `{REPOSITORY}`"
        ) as caught:
            blobs.document(content)
        assert caught.value.hint == f"docker login {registry.host}"
    assert logins_of(registry) == ["", "Basic"]
    assert blobs.refusal == f"`{registry.host}` refused the login for `{REPOSITORY}`"
    # When it has rested, it may be right.
    rested = connect(registry, rest=0)
    with pytest.raises(AuthenticationError):
        rested.document(content)
    registry.users = dict(USERS)
    assert rested.document(content) == b"content"
    assert rested.refusal is None


def test_without_a_login_where_one_is_wanted(fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]) -> None:
    registry = fake(auth="basic", users=USERS)
    content = registry.blob(REPOSITORY, b"content")
    with pytest.raises(AuthenticationError, match=f"`{registry.host}` wants a login for `{REPOSITORY}`"):
        connect(registry, ()).document(content)


@pytest.mark.parametrize(("status", "words"), [(401, "refused the login for"), (403, "refuses access to")])
def test_a_right_that_is_missing_is_a_refusal(
    registry: FakeRegistry, connect: Callable[..., Blobs], status: int, words: str
) -> None:
    registry.fault("GET", "/blobs/", status=status)
    with pytest.raises(AuthenticationError, match=f"`{registry.host}` {words} `{REPOSITORY}`"):
        connect(registry).document(registry.blob(REPOSITORY, b"content"))


def test_the_next_login_is_tried(fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]) -> None:
    registry = fake(auth="bearer", users=USERS, anonymous_pull=False)
    content = registry.blob(REPOSITORY, b"content")
    assert connect(registry, (Credential("anna", "old"), ANNA)).document(content) == b"content"


@pytest.mark.parametrize("login", [ANNA, Credential(identity_token="refresh"), None])
def test_a_token_is_fetched_once_and_kept_until_it_is_refused(
    fake: Callable[..., FakeRegistry],
    connect: Callable[..., Blobs],
    certificate: Certificate,
    login: Optional[Credential],
) -> None:
    identity = frozenset({"refresh"})
    registry = fake(tls=certificate, auth="bearer", users=USERS, identity_tokens=identity, anonymous_pull=login is None)
    content = registry.blob(REPOSITORY, noise("content", 700_000))
    whole = registry.content[content.digest]
    blobs = connect(registry, (login,) if login else ())
    # The token ends while a content comes: that comes to its end, and the next request has a token of its own.
    pieces = blobs.open(content, 0, content.size)
    first = next(pieces)
    registry.expire_tokens()
    assert first + b"".join(pieces) == whole
    assert read(blobs, content, 500_000) == whole[500_000:]
    assert read(blobs, content, 600_000) == whole[600_000:]
    assert len(registry.paths(part="/token")) == 2
    assert logins_of(registry, "/v2/") == ["", "Bearer", "Bearer", "Bearer", "Bearer"]
    if login is ANNA:
        assert f"scope=repository%3A{REPOSITORY.replace('/', '%2F')}%3Apull" in registry.paths(part="/token")[0]


def test_a_token_that_ran_out_while_it_served_others_is_no_refused_login(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]
) -> None:
    """Not even where it is new to who sends it late: a refused login would be let rest, and every build with it."""
    registry = fake(auth="bearer", users=USERS, anonymous_pull=False)
    content, other = registry.blob(REPOSITORY, b"content"), registry.blob(REPOSITORY, b"other")
    blobs = connect(registry)

    def overtake() -> None:
        assert read(blobs, other) == b"other"
        registry.expire_tokens()

    path = f"/blobs/{content.digest}"
    late = [registry.fault("GET", path), registry.fault("GET", path, before=overtake)]
    assert read(blobs, content) == b"content"
    assert [fault.times for fault in late] == [0, 0]
    assert len(registry.paths(part="/token")) == 2


def test_a_token_that_says_when_it_ends_is_replaced_before(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]
) -> None:
    registry = fake(auth="bearer", users=USERS, anonymous_pull=False, token_lifetime=1e-9)
    content = registry.blob(REPOSITORY, b"content")
    # Tokens are taken for longer than they say here.
    registry.fault("GET", "/token", status=200, body=b'{"token": "short", "expires_in": 0.000001}')
    registry.tokens["short"] = ({REPOSITORY: {"pull"}}, float("inf"))
    blobs = connect(registry)
    assert blobs.document(content) == b"content"
    registry.token_lifetime = 300
    assert blobs.document(content) == b"content"
    assert len(registry.paths(part="/token")) == 2
    assert logins_of(registry, "/v2/") == ["", "Bearer", "Bearer"]


def test_the_login_goes_to_the_token_server_that_the_registry_names_and_nowhere_else(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate
) -> None:
    tokens = fake(tls=certificate, auth="bearer", users=USERS, anonymous_pull=False)
    registry = fake(tls=certificate, auth="bearer", token_realm=f"{tokens.url}/token")
    registry.tokens = tokens.tokens
    content = registry.blob(REPOSITORY, b"content")
    assert connect(registry).document(content) == b"content"
    assert [request.authorization for request in tokens.seen()] == [BASIC]
    assert logins_of(registry) == ["", "Bearer"]


def test_no_login_goes_over_plain_http_where_the_registry_speaks_tls(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate
) -> None:
    tokens = fake(auth="bearer", users=USERS, anonymous_pull=False)
    registry = fake(tls=certificate, auth="bearer", token_realm=f"{tokens.url}/token")
    content = registry.blob(REPOSITORY, b"content")
    with pytest.raises(AuthenticationError, match="asks for the login over plain HTTP"):
        connect(registry).document(content)
    assert tokens.requests == []


@pytest.mark.parametrize("fault", [{"status": 503}, {"close": True}, {"cut_after": 5}])
def test_a_token_server_that_fails_refuses_nothing(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], fault: dict[str, Any]
) -> None:
    registry = fake(auth="bearer", users=USERS, anonymous_pull=False)
    content = registry.blob(REPOSITORY, b"content")
    registry.fault("GET", "/token", **fault)
    blobs = connect(registry)
    with pytest.raises(UnavailableError, match=f"the token server `{registry.host}`"):
        blobs.document(content)
    assert blobs.document(content) == b"content"


def test_a_page_of_a_portal_is_no_token_and_no_damage(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs]
) -> None:
    registry = fake(auth="bearer", users=USERS)
    content = registry.blob(REPOSITORY, b"content")
    page = {"Content-Type": "text/html"}
    registry.fault("GET", "/token", status=200, headers=page, body=b"<html><title>Sign in</title>")
    with pytest.raises(UnavailableError, match="sent a web page, `Sign in`"):
        connect(registry).document(content)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_storage_gets_no_login(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate, is_encrypted: bool
) -> None:
    tls = certificate if is_encrypted else None
    registry, storage = fake(tls=tls, auth="basic", users=USERS), fake(tls=tls)
    content = registry.blob(REPOSITORY, b"content")
    storage.blob("bucket", b"content")
    blobs = connect(registry)
    assert blobs.document(content) == b"content"
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/v2/bucket/blobs/{content.digest}?signature=x")
    assert read(blobs, content, 3) == b"tent"
    (asked,) = storage.seen()
    assert (asked.authorization, asked.headers["range"]) == ("", "bytes=3-6")
    assert asked.path.endswith("?signature=x")


def test_what_a_storage_says_is_the_storages(
    fake: Callable[..., FakeRegistry], connect: Callable[..., Blobs], certificate: Certificate
) -> None:
    registry, storage, plain = fake(tls=certificate), fake(tls=certificate), fake()
    content = registry.blob(REPOSITORY, b"content")
    blobs = connect(registry)
    registry.fault("GET", "/blobs/", redirect=f"{storage.url}/x")
    storage.fault("GET", "/x", status=403)
    with pytest.raises(UnavailableError, match=f"`{storage.host}` answers 403"):
        blobs.document(content)
    assert blobs.refusal is None
    for target in (f"{plain.url}/x", "https://[", "/v2/" + "x" * 5):
        registry.fault("GET", "/blobs/", redirect=target)
    with pytest.raises(UnavailableError, match=f"leads from https to plain http, at `{plain.host}`"):
        blobs.document(content)
    with pytest.raises(UnavailableError, match="not a URL"):
        blobs.document(content)
    with pytest.raises(NotFoundError):
        blobs.document(content)
    registry.fault("GET", "/v2/", times=-1, redirect="/v2/again")
    with pytest.raises(UnavailableError, match="leads from one address to the next"):
        blobs.document(content)
    assert plain.requests == []
