"""Under sudo `want` and `check` go by the receipt of who called it, as all other commands do."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bundles.cli.app import bundle
from installer.model.registry.address import Address
from installer.receipt.receipt import BundleName, Receipt
from tests.support.fake_registry import FakeRegistry
from tests.support.states import desired


@pytest.fixture
def receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where that of the caller is: somebody to whom Docker's socket belongs, and whose sudo made this program root."""
    home, socket = tmp_path / "home", tmp_path / "docker.sock"
    socket.touch()
    user = SimpleNamespace(pw_name="ann", pw_uid=socket.stat().st_uid, pw_gid=4242, pw_dir=str(home))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [])
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    for name in ("XDG_STATE_HOME", "DOCKER_CONFIG", "BUNDLE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "root"))
    monkeypatch.setenv("SUDO_UID", "4242")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    path = home / ".local/state/bundle/receipt.json"
    path.parent.mkdir(parents=True)
    return path


def test_want(receipt: Path, registry: FakeRegistry, tmp_path: Path) -> None:
    state = desired(Address.parse(registry.host))
    receipt.write_text(json.dumps(Receipt(BundleName("x", "sha256:1", "x.tar"), state).to_json()))
    path = tmp_path / "want.json"
    result = CliRunner().invoke(bundle, ["want", "-o", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_bytes())["name"] == f"registry {registry.host}"


def test_check(receipt: Path, tmp_path: Path) -> None:
    receipt.write_text("{")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n")
    result = CliRunner().invoke(bundle, ["check", str(dockerfile)])
    assert str(receipt) in f"{result.exception} {result.output}"
