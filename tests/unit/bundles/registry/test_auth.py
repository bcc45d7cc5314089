"""WWW-Authenticate and token scopes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.registry.auth import (
    Authenticator,
    Challenge,
    Credential,
    Demand,
    TokenAnswer,
    merge_scopes,
    parse_challenges,
)

DOCKER_HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/debian:pull,push"'
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            DOCKER_HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/debian:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="a, \\"b\\" c"', [("basic", {"realm": 'a, "b" c'})]),
        ('BASIC Realm = x , bearer realm="y"', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        ("Negotiate abc==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate,Basic", [("negotiate", {}), ("basic", {})]),
        ("Bearer realm=https://a/token,service=s", [("bearer", {"realm": "https://a/token", "service": "s"})]),
        ('Bearer realm="unclosed', [("bearer", {"realm": "unclosed"})]),
        ("", []),
        ('="x", ,', []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(scheme, parameters) for scheme, parameters in expected]


@given(st.text(alphabet=st.sampled_from('Bearer realm="\\,= \t()x'), max_size=60))
def test_any_header_is_read_without_failing(header: str) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(header))


def test_a_hostile_header_is_read_quickly() -> None:
    assert parse_challenges("(" + "a" * 60_000 + "(") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        ("repository:a/b:pull", "", ["repository:a/b:pull"]),
        ("repository:a/b:pull", "repository:a/b:pull,push", ["repository:a/b:pull,push"]),
        ("repository:a:pull", "repository:proxy/a:pull", ["repository:a:pull", "repository:proxy/a:pull"]),
        ("", "registry:catalog:*", ["registry:catalog:*"]),
        ("repository:h:5/a:pull repository:b:pull", "", ["repository:h:5/a:pull", "repository:b:pull"]),
    ],
)
def test_scopes_are_merged(ours: str, theirs: str, merged: list[str]) -> None:
    assert merge_scopes(ours, theirs) == merged


@pytest.mark.parametrize("lifetime", ["1" + "0" * 400, "1e999", "NaN", "-1", "0", "1e9", "true", "null", '"60"', "[]"])
def test_a_strange_lifetime_is_the_default_one(monkeypatch: pytest.MonkeyPatch, lifetime: str) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    url = "https://r.example/token"
    answer = TokenAnswer(200, f'{{"token": "abc", "expires_in": {lifetime}}}'.encode(), url, {})
    authenticator = Authenticator(lambda *_: (), lambda *request: answer, lambda origin: False)
    demand = Demand("r.example", "repository:a:pull", "https://r.example/", f'Bearer realm="{url}"')
    answered = authenticator.answer(demand)
    assert answered
    assert answered.header == "Bearer abc"
    now += 53
    assert authenticator.known("r.example", "repository:a:pull") == answered
    now += 2
    assert authenticator.known("r.example", "repository:a:pull") is None


def test_secrets_do_not_show() -> None:
    shown = repr(Credential("me", "hunter2", "hunter3", "hunter4"))
    assert "me" in shown
    assert "hunter" not in shown
