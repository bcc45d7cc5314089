"""The buildx plugin: which is too old, and what becomes of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.errors import HostError
from installer.host.docker.cli import version_of
from installer.host.docker.container import Outcome
from installer.host.paths import Places
from installer.steps import buildx_plugin
from installer.steps.buildx_plugin import OLDEST_BUILDX
from tests.support.fake_engine import FakeEngine


@pytest.mark.parametrize(("text", "old"), [("v0.12.1", True), ("0.13.0", False), ("v1.0.0", False), ("v0.9.1", True)])
def test_the_oldest_buildx(text: str, old: bool) -> None:
    found = version_of(text)
    assert found is not None
    assert (found < OLDEST_BUILDX) is old


def places(root: Path) -> Places:
    return Places.of({"HOME": str(root / "home"), "BUNDLE_HOST": str(root)})


class CLI:
    """A docker command whose buildx is of that version."""

    is_installed = True

    def __init__(self, version: str) -> None:
        self._version = version

    def try_run(self, arguments: Sequence[str], stdin: str = "") -> Outcome:
        assert list(arguments) == ["buildx", "version"]
        return Outcome(0, f"github.com/docker/buildx v{self._version} 0123456\n", "")


def test_the_users_plugin_is_kept_over_several_tries(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"buildx:1": {"/buildx": b"ours"}}
    monkeypatch.setattr(buildx_plugin, "load", lambda *arguments: engine.images.update(image))
    job: Any = SimpleNamespace(
        options=SimpleNamespace(system=False), tool=lambda role: SimpleNamespace(name="buildx:1")
    )
    # What is installed goes on saying that it is too old: it does not work.
    host: Any = SimpleNamespace(engine=engine.engine, places=places(tmp_path), cli=CLI("0.10.0"))
    unused: Any = None
    step = buildx_plugin.BuildxPlugin(job, host, unused)
    plugin = host.places.buildx_plugin
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b"the user's")
    assert [change.action for change in step.look()] == ["copy", "install"]
    for _ in range(2):
        with pytest.raises(HostError, match="does not work"):
            step.apply(step.look())
        assert (plugin.read_bytes(), host.places.buildx_replaced.read_bytes()) == (b"ours", b"the user's")
    assert [change.action for change in step.look()] == ["install"]
    assert engine.images == {}
