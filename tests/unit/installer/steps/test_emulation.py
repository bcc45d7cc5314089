"""Emulation: what is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.host.labels import EMULATION_CONTAINER
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
