"""Before anything is done the host is ready, and who has to agree has agreed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bundles.errors import HostError, Problem
from bundles.runtime.progress import Silent
from installer.host.host import Host
from installer.model.step import Change, Step
from installer.runner import Runner


class Asking(Step):
    """One that needs consent."""

    name = "asking"

    def look(self) -> Sequence[Change]:
        return [Change("write", "file", "/own")]

    def apply(self, changes: Sequence[Change]) -> None:
        raise AssertionError("nothing is to be done")

    def question(self) -> str:
        return "write /own"


def runner(ask: Any) -> Runner:
    return Runner([Asking()], Host(None, None, None, ask), Silent())  # type: ignore[arg-type]  # the step needs none


@pytest.mark.parametrize("ask", [None, lambda _: False])
def test_without_consent_nothing_is_done(ask: Any) -> None:
    with pytest.raises(HostError) as caught:
        runner(ask).check(yes=False, question="do more")
    if ask is None:
        assert [problem.message for problem in caught.value.problems] == [
            "needed to do more",
            "needed to write /own",
        ]
        assert "--yes" in str(caught.value.problems[0].hint)
    else:
        assert caught.value.message == "not agreed to: do more"
    runner(ask).check(yes=True, question="do more")


def test_nobody_is_asked_when_the_host_is_not_ready() -> None:
    questions: list[str] = []
    asking = runner(lambda text: bool(questions.append(text)) or True)
    late = [Problem("disk", "it is full")]
    with pytest.raises(HostError) as caught:
        asking.check(yes=False, last=lambda: late)
    assert caught.value.problems == tuple(late)
    # What is found late is looked for only when there is nothing else.
    with pytest.raises(HostError) as caught:
        asking.check(yes=False, problems=[Problem("docker", "it is too old")], last=lambda: late)
    assert [problem.subject for problem in caught.value.problems] == ["docker"]
    assert questions == []
    asking.check(yes=False)
    assert questions == ["write /own"]
