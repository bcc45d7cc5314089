"""How an installed registry goes on being spoken to: its container's labels say it, and options change it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bundles.errors import UsageError
from installer import preflight
from installer.host.docker.container import Container
from installer.host.host import Host
from installer.host.labels import LABEL_OWNER, LABEL_ROLE
from installer.host.paths import Places
from installer.model.job import Options
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.installed import access_labels, installed_access, other_owner, own_access


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "docker", tmp_path / "buildx", tmp_path / "state")


def container(labels: dict[str, str]) -> Container:
    return Container("1", "registry", "sha256:1", "running", {LABEL_ROLE: "registry", **labels}, {})


def test_the_labels_say_how_and_hold_no_secret(places: Places) -> None:
    ways = [
        PLAIN, Access(tls=True), own_access(places), own_access(places, login=True),
        own_access(places, authority=False, login=True),
    ]  # fmt: skip
    for access in ways:
        labels = access_labels(access, places)
        assert installed_access(container(labels), places) == access
        assert not any("password" in value for value in labels.values())
    assert access_labels(PLAIN, places) == {}
    assert installed_access(None, places) is None
    assert installed_access(Container("1", "registry", "sha256:1", "running", {}, {}), places) is None


def test_keys_are_one_users(places: Places) -> None:
    mine = container(access_labels(own_access(places), places))
    assert other_owner(mine, places) is None
    assert other_owner(mine, dataclasses.replace(places, state=Path("/elsewhere"))) == str(places.state)
    assert other_owner(container({}), places) is None
    assert mine.labels[LABEL_OWNER] == str(places.state)


def settled(places: Places, before: Access | None, **options: object) -> Access:
    host = Host(None, None, places)  # type: ignore[arg-type]
    return preflight._own_access(Options(**options), before, host)  # type: ignore[arg-type]


def test_what_was_installed_stays_as_it_is(places: Places) -> None:
    for before in (PLAIN, Access(tls=True), own_access(places), own_access(places, login=True)):
        assert settled(places, before) == before
    assert settled(places, None) == PLAIN


def test_options_change_it(places: Places) -> None:
    tls, both = own_access(places), own_access(places, login=True)
    assert settled(places, PLAIN, tls=True) == tls
    assert settled(places, None, tls=True, login=True) == both
    assert settled(places, tls, login=True) == both
    assert settled(places, both, login=False) == tls
    assert settled(places, both, tls=False) == PLAIN
    given = {"certificate": Path("/c"), "key": Path("/k")}
    assert settled(places, PLAIN, **given) == Access(tls=True)
    assert settled(places, both, **given) == own_access(places, authority=False, login=True)
    assert settled(places, PLAIN, ca_file=Path("/ca"), **given) == tls


def test_a_login_over_plain_http_is_refused(places: Places) -> None:
    with pytest.raises(UsageError, match="--login needs --tls"):
        settled(places, PLAIN, login=True)
