"""`bundle node`: the machines of what is installed here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.cli.app import run
from installer.model.registry.address import Address
from installer.receipt.receipt import BundleName, Receipt
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import FakeRegistry
from tests.support.nodes import Place, place_in
from tests.support.tools import give


@pytest.fixture
def installed(
    engine: FakeEngine, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """With a receipt, where the command finds it; its one node builds for arm64."""
    with place_in(tmp_path, engine, registry) as place:
        _install(place, engine, registry, monkeypatch)
        yield place


def _install(place: Place, engine: FakeEngine, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    monkeypatch.setattr("installer.commands.node.Host.this", lambda *_: place.host)
    give(engine, place.state.tools["buildkit"])
    place.state = dataclasses.replace(place.state, address=Address.parse(registry.host), nodes=(node,))
    Receipt(BundleName("x", "sha256:1", "x.tar"), place.state).save(place.host.places)


def called(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert run(["node", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_each_is_listed_with_what_it_builds(installed: Place, capsys: pytest.CaptureFixture[str]) -> None:
    document = called(capsys, "list")
    assert document["platforms"] == ["linux/amd64"]
    (node,) = document["nodes"]
    assert (node["address"], node["platforms"], node["state"]) == ("ssh://anna@arm-box", ["linux/arm64"], "running")
    installed.site.remove("arm-box")
    (node,) = called(capsys, "list", code=4)["nodes"]
    assert node["answers"] is False


@pytest.mark.parametrize("running", [False, True])
def test_where_nothing_is_installed_the_next_step_is_this_archive(
    installed: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], running: bool
) -> None:
    installed.host.places.receipt.unlink()
    monkeypatch.setattr(
        "bundles.runtime.program.running_archive", lambda: Path("/usb/offline.tar") if running else None
    )
    monkeypatch.setattr("sys.argv", ["/usb/offline.tar" if running else "bundle", "node", "list"])
    assert run(["node", "list"]) == 4
    step = f"python3 {'/usb/offline.tar' if running else 'ARCHIVE'} install"
    assert capsys.readouterr().err.endswith(f"receipt.json`\n  next: {step}\n")


@pytest.mark.parametrize("down", [False, True])
def test_one_is_removed(installed: Place, capsys: pytest.CaptureFixture[str], down: bool) -> None:
    if down:
        installed.site.remove("arm-box")
    planned = called(capsys, "remove", "ssh://anna@arm-box", "--plan")
    assert [change["name"] for change in planned["steps"][0]["changes"]] == ["ssh://anna@arm-box"]
    assert installed.site.platforms()["cross-builder0"] == ["linux/amd64"]
    document = called(capsys, "remove", "ssh://anna@arm-box")
    assert any("keeps what was made there" in note for note in document["notes"]) is down
    assert installed.site.platforms() == {"cross-builder0": ["linux/amd64", "linux/arm64"]}
    receipt = Receipt.find(installed.host.places)
    assert receipt and receipt.state.nodes == ()
    message = called(capsys, "remove", "ssh://anna@arm-box", code=2)["error"]["message"]
    assert message == "`ssh://anna@arm-box` is no node of cross-builder: it has none"
