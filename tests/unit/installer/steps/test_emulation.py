"""Emulation: what is missing."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.host.labels import EMULATION_CONTAINER
from installer.host.paths import Places
from installer.model.registry.access import PLAIN
from installer.steps.emulation import Emulation
from tests.support.fake_engine import FakeEngine
from tests.support.tools import give, tool

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BINFMT = tool("tonistiigi/binfmt:latest")


def emulation(engine: FakeEngine) -> Emulation:
    """The step without an archive, as `doctor` has it."""
    job: Any = SimpleNamespace(
        host_platform=AMD64,
        platforms=(AMD64, ARM64),
        platforms_of=lambda _: (AMD64, ARM64),
        site=None,
        access=PLAIN,
        tool=lambda role: BINFMT,
    )
    host: Any = SimpleNamespace(engine=engine.engine)
    return Emulation(job, host, Silent(), lambda platform: False)


def test_what_registers_emulators_is_fetched_by_its_digest(engine: FakeEngine) -> None:
    """Also where Docker has something under the name: it may be anybody's, and would run privileged."""
    step = emulation(engine)
    pull = ("pull", f"localhost:5000/tonistiigi/binfmt@{BINFMT.manifest.digest}")
    first = step.look()[0]
    assert (first.action, first.name) == pull
    other = give(engine, BINFMT, "sha256:" + "e" * 64)
    changes = step.look()
    assert (changes[0].action, changes[0].name) == pull
    step.apply(changes)
    # What came is not it: nothing is started.
    assert engine.done == [f"pull {BINFMT.pinned}"]
    assert any("registering emulators failed" in note for note in step.notes())
    assert other not in {container.image for container in engine.containers.values()}


def test_a_container_for_emulation_of_another_image_is_replaced(engine: FakeEngine) -> None:
    step = emulation(engine)
    give(engine, BINFMT)
    container = engine.add(EMULATION_CONTAINER, step._wanted(BINFMT, None).labels)
    container.image = str(BINFMT.config.digest)
    assert [change.action for change in step.look()] == ["register", "restart"]
    container.image = "sha256:" + "e" * 64
    assert [change.action for change in step.look()] == ["register", "replace"]


def test_emulation_is_not_missing_for_what_the_kernel_cannot_be_asked_about(engine: FakeEngine) -> None:
    give(engine, BINFMT)
    missing = []
    for architecture in ("m68k", "arm64"):
        job: Any = SimpleNamespace(
            host_platform=Platform("linux", "amd64"),
            platforms=(platforms := (Platform("linux", "amd64"), Platform("linux", architecture))),
            platforms_of=functools.partial(lambda found, _: found, platforms),
            tool=lambda role: BINFMT,
        )
        host: Any = SimpleNamespace(engine=engine.engine)
        step = Emulation(job, host, Silent(), lambda platform: False)
        missing.append([change.name for change in step.look()])
        assert bool(step.notes()) is (architecture == "arm64")
    assert missing == [[], ["linux/arm64", EMULATION_CONTAINER]]


def test_a_kernel_that_cannot_be_asked_gets_the_container_once(engine: FakeEngine, tmp_path: Path) -> None:
    """As with vm.memfd_noexec: no finding for ever, and nothing that voids the test build each time."""
    give(engine, BINFMT)
    state: Any = SimpleNamespace(
        host_platform=Platform("linux", "amd64"),
        platforms=(AMD64, ARM64),
        platforms_of=lambda _: (AMD64, ARM64),
        tool=lambda role: BINFMT,
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
