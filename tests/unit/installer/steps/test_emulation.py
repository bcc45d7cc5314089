"""Emulation: what is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.host.labels import EMULATION_CONTAINER
from installer.host.paths import Places
from installer.steps.emulation import Emulation
from tests.support.fake_engine import FakeEngine


def test_emulation_is_not_missing_for_what_the_kernel_cannot_be_asked_about(engine: FakeEngine) -> None:
    engine.images["binfmt:1"] = {}
    missing = []
    for architecture in ("m68k", "arm64"):
        job: Any = SimpleNamespace(
            host_platform=Platform("linux", "amd64"),
            platforms=(Platform("linux", "amd64"), Platform("linux", architecture)),
            tool=lambda role: SimpleNamespace(name="binfmt:1", manifest=SimpleNamespace(digest="sha256:1")),
        )
        host: Any = SimpleNamespace(engine=engine.engine)
        step = Emulation(job, host, Silent(), lambda platform: False)
        missing.append([change.name for change in step.look()])
        assert bool(step.notes()) is (architecture == "arm64")
    assert missing == [[], ["linux/arm64", EMULATION_CONTAINER]]


def test_a_kernel_that_cannot_be_asked_gets_the_container_once(engine: FakeEngine, tmp_path: Path) -> None:
    """As with vm.memfd_noexec: no finding for ever, and nothing that voids the test build each time."""
    engine.images["binfmt:1"] = {}
    state: Any = SimpleNamespace(
        host_platform=Platform("linux", "amd64"),
        platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")),
        tool=lambda role: SimpleNamespace(name="binfmt:1", manifest=SimpleNamespace(digest="sha256:1")),
    )
    places = Places(tmp_path, tmp_path, tmp_path, proc=tmp_path / "proc", root=tmp_path)
    host: Any = SimpleNamespace(engine=engine.engine, places=places)
    answers: dict[str, bool | None] = {"linux/arm64": None}

    def step() -> Emulation:
        return Emulation(state, host, Silent(), lambda platform: answers[str(platform)])

    first = step()
    changes = first.look()
    assert [(change.action, change.name) for change in changes] == [
        ("register", "linux/arm64"),
        ("start", EMULATION_CONTAINER),
    ]
    engine.log = b'{"supported": ["linux/amd64"], "emulators": null}'
    first.apply(changes)
    assert engine.containers[EMULATION_CONTAINER].labels["offline-bundle.architectures"] == "arm64"
    assert (step().look(), step().problems()) == ([], [])
    (note,) = step().notes()
    assert note.startswith("whether this kernel runs linux/arm64 cannot be told")
    # What is known to be missing is a finding as ever.
    answers["linux/arm64"] = False
    assert [change.action for change in step().look()] == ["register", "restart"]
