"""What installing finds before it touches anything."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional
from unittest import mock

import pytest

from bundles.archive.reader import Archive
from bundles.errors import HostError, UsageError
from bundles.oci.platform import Platform
from bundles.registry.transport import Settings, Transport
from bundles.runtime import program
from installer import preflight
from installer.host.host import Host
from installer.model.job import Options, S3Options
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.installed import data_labels
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.preflight import network_problems, settle
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.steps.registry.prune import PruneImages
from tests.support.archives import example
from tests.support.fake_engine import FakeEngine
from tests.support.states import desired

AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("tcp://127.0.0.1:2375", "run it on that machine: python3 offline.tar install"),
        ("ssh://ann@far:2222", "ssh -p 2222 ann@far, and run it there: python3 offline.tar install"),
    ],
)
def test_an_engine_elsewhere_is_refused_before_anything_is_asked(tmp_path: Path, endpoint: str, hint: str) -> None:
    example().write(tmp_path / "offline.tar")
    host = Host.this({"PATH": str(tmp_path), "HOME": str(tmp_path), "DOCKER_HOST": endpoint}, None)
    with Archive(tmp_path / "offline.tar") as archive, pytest.raises(HostError) as caught:
        settle(archive, Options(), host)
    assert f"Docker's engine is at `{endpoint}` (DOCKER_HOST), not on this host" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("started", "called"),
    [
        ("/usb/offline.tar", "python3 /usb/offline.tar"),
        ("a stick/offline.tar.002", "python3 'a stick/offline.tar.002'"),
    ],
)
def test_next_steps_name_the_archive_as_it_was_called(
    started: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "running_archive", lambda: Path(started))
    monkeypatch.setattr(sys, "argv", [started, "prune"])
    unused: Any = None
    with Transport(Settings(insecure=frozenset({"localhost:1"}))) as transport:
        (problem,) = PruneImages(Receipt(unused, unused), Registry(transport, "localhost:1"), ()).problems()
    assert problem.hint == f"{called} doctor"
    manifest = SimpleNamespace(platforms=(Platform("linux", "amd64"),))
    archive: Any = SimpleNamespace(path=Path("a b.tar"), manifest=manifest)
    options = Options(platforms=(Platform("linux", "s390x"),))
    (problem,) = preflight._platform_problems(archive, options)
    assert problem.hint == f"{called} inspect 'a b.tar'"


LAN = Address.parse("192.168.10.10:5000")
PROXY = {"HttpProxy": "http://user:xxxxx@proxy.corp:3128", "HttpsProxy": "http://proxy.corp:3128"}


def network(engine: FakeEngine, address: Address, site: Optional[Destination] = None) -> list[str]:
    state = desired(address, data="v", site=site)
    host: Any = SimpleNamespace(
        engine=engine.engine, places=SimpleNamespace(daemon_json=Path("/etc/docker/daemon.json"))
    )
    found = network_problems(state, host, engine.engine.info())
    return [f"{problem.message}; {problem.hint}" for problem in found]


@pytest.mark.parametrize(
    ("past", "is_named"),
    [
        ("", True),
        ("localhost,10.0.0.0/8", True),
        ("192.168.10.10", False),
        ("localhost, 192.168.0.0/16", False),
        ("192.168.10.10:5000", False),
        ("192.168.10.10:5001", True),
        ("*", False),
    ],
)
def test_an_engine_that_would_ask_a_proxy_for_the_registry_is_named(
    engine: FakeEngine, past: str, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this program itself is to use says nothing about the engine.
    monkeypatch.setenv("no_proxy", "192.168.10.10")
    engine.proxies = {**PROXY, "NoProxy": past}
    found = network(engine, LAN)
    assert bool(found) is is_named
    if is_named:
        (text,) = found
        assert "through the proxy proxy.corp:3128" in text
        assert "xxxxx" not in text
        assert ",".join(filter(None, (past, "192.168.10.10"))) in text


def test_no_proxy_is_on_the_way_to_the_host_itself_and_one_to_a_site_is_the_sites_own(engine: FakeEngine) -> None:
    engine.proxies = PROXY
    assert network(engine, Address.parse("localhost:5000")) == []
    assert network(engine, Address.of_host("harbor.corp"), Destination("harbor.corp", "team")) == []
    # One of ours that this host has joined is on the LAN.
    assert network(engine, LAN, Destination(str(LAN), aliases=True, joined=True))


def test_an_engine_without_a_bridge_is_named(engine: FakeEngine) -> None:
    engine.networks = ("host", "none")
    (text,) = network(engine, LAN)
    assert 'no network `bridge` (`"bridge": "none"`' in text
    assert "/etc/docker/daemon.json" in text


BUCKET = S3Storage("registry", "team", "https://s3.corp", "eu-1", True)


def settled(before: Optional[S3Storage], installed: Optional[str], **given: Any) -> Optional[S3Storage]:
    """The bucket of the next installation, with that in the receipt, and that on the container."""
    state = desired(LAN, data=str(before or "v"), storage=before)
    places = SimpleNamespace(storage_authority=Path("/state/s3-ca.pem"))
    host: Any = SimpleNamespace(places=places)
    receipt: Any = SimpleNamespace(state=state)
    more = {name: given.pop(name, None) for name in ("data", "site", "s3_keys")}
    with mock.patch.object(Receipt, "known", lambda places: receipt):
        return preflight._storage(Options(**more, s3=S3Options(**given)), installed, host)


def test_a_bucket_is_settled_once_and_stays() -> None:
    assert settled(None, None) is None
    assert settled(None, "bundle-registry") is None
    place, endpoint = ("registry", "team"), "https://s3.corp"
    new = settled(None, "bundle-registry", place=place, endpoint=endpoint)
    assert new == S3Storage("registry", "team", endpoint)
    assert settled(BUCKET, str(BUCKET)) == BUCKET
    assert settled(BUCKET, None) == BUCKET
    assert settled(BUCKET, str(BUCKET), redirect=False) == dataclasses.replace(BUCKET, redirect=False)
    assert settled(BUCKET, str(BUCKET), data="/srv/data") is None
    # Somebody has installed over it since.
    assert settled(BUCKET, "bundle-registry") is None


def test_a_ca_is_that_of_its_endpoint() -> None:
    mine = settled(dataclasses.replace(BUCKET, redirect=False), str(BUCKET), authority=Path("ca.pem"))
    assert mine and mine.authority == "/state/s3-ca.pem"
    assert settled(mine, str(BUCKET)) == mine
    other = settled(mine, str(BUCKET), endpoint="https://other.corp")
    assert other and other.authority is None


@pytest.mark.parametrize(
    ("before", "installed", "given", "message"),
    [
        (None, None, {"place": ("b", "")}, "--storage needs --s3-endpoint"),
        (None, None, {"endpoint": "https://s3.corp"}, "there is no bucket for the other options"),
        (None, "s3://registry/team", {}, "the receipt that says how that is reached is gone"),
        (BUCKET, str(BUCKET), {"authority": Path("ca.pem")}, "--s3-redirect does not go with --s3-ca"),
    ],
)
def test_what_says_too_little_of_a_bucket(
    before: Optional[S3Storage], installed: Optional[str], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settled(before, installed, **given)
    assert message in caught.value.message and caught.value.hint
    # Before this run that was asked for; leaving the option out would change nothing.
    assert ("authority" in given) == caught.value.hint.endswith("or --no-s3-redirect")


SITE = Destination("harbor.corp", "team", joined=True)


@pytest.mark.parametrize("given", [{"endpoint": "https://s3.corp"}, {"redirect": False}, {"s3_keys": Keys("a", "b")}])
def test_a_host_whose_images_are_elsewhere_has_no_bucket(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"the images of this host are at `harbor\.corp/team`"):
        settled(None, None, site=SITE, **given)
    assert settled(BUCKET, None, site=SITE) is None


@pytest.mark.parametrize(
    ("endpoint", "is_other"), [("https://s3.corp", False), ("https://other.corp", True), (None, False)]
)
def test_a_bucket_of_the_same_name_at_another_storage_has_other_data(
    engine: FakeEngine, endpoint: Optional[str], is_other: bool
) -> None:
    labels = data_labels(str(BUCKET), dataclasses.replace(BUCKET, endpoint=endpoint) if endpoint else None)
    engine.add("registry", {"offline-bundle.role": "registry", **labels})
    job: Any = desired(LAN, data=str(BUCKET), storage=BUCKET)
    host: Any = SimpleNamespace(engine=engine.engine)
    assert preflight.has_other_data(job, host) is is_other


def test_nobody_is_led_from_tls_to_plain_http() -> None:
    def problems(tls: bool, endpoint: str, redirect: bool) -> int:
        storage = dataclasses.replace(BUCKET, endpoint=endpoint, redirect=redirect)
        state = desired(LAN, data=str(storage), access=Access(tls=tls), storage=storage)
        return len(preflight.redirect_problems(state))

    assert problems(True, "http://192.0.2.7:9000", True) == 1
    assert problems(True, "http://192.0.2.7:9000", False) == 0
    assert problems(True, "https://s3.corp", True) == problems(False, "http://192.0.2.7:9000", True) == 0
