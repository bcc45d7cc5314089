"""Containers of moments: what a killed run has left goes, what is somebody else's stays."""

from __future__ import annotations

import pytest

from bundles.errors import HostError
from tests.support.fake_engine import FakeEngine

GARBAGE = "bundle-garbage-collect"
MARK = {"offline-bundle.role": "garbage"}


def test_one_that_a_killed_run_left_is_replaced(engine: FakeEngine) -> None:
    engine.add(GARBAGE, MARK)
    engine.exit_code = 3
    assert engine.engine.run("image", [], name=GARBAGE, labels=MARK).code == 3
    assert [each.partition(" ")[0] for each in engine.done] == ["stop", "remove", "create", "start", "remove"]
    assert engine.containers == {}


def test_one_without_our_mark_stays(engine: FakeEngine) -> None:
    engine.add(GARBAGE, {})
    with pytest.raises(HostError, match="the name is in use"):
        engine.engine.run("image", [], name=GARBAGE)
    assert (engine.done, list(engine.containers)) == ([], [GARBAGE])


def test_what_is_not_to_start_is_removed(engine: FakeEngine) -> None:
    def ready() -> None:
        (container,) = engine.containers.values()
        assert (container.state, container.labels) == ("created", MARK)
        raise HostError("not now")

    with pytest.raises(HostError, match="not now"):
        engine.engine.run("image", [], name=GARBAGE, labels=MARK, ready=ready)
    assert (engine.done, engine.containers) == ([f"create {GARBAGE}", f"remove {GARBAGE}"], {})
