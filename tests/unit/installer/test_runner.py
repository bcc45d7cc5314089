"""Before anything is done the host is ready, and who has to agree has agreed. Steps are done in order, or beside
each other; whatever ends one ends all.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bundles.errors import HostError, Problem
from bundles.runtime.progress import Silent
from installer.model.step import Change, Step, StepResult
from installer.runner import Beside, Runner, by_name

# Whatever waits longer waits for something that does not happen.
_PATIENCE = 10.0


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
    return Runner([Asking()], ask, Silent())


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


class Doing(Step):
    """One that does what it is given, once."""

    def __init__(self, name: str, work: Callable[[], object] = lambda: None) -> None:
        self.name, self._work = name, work

    def look(self) -> Sequence[Change]:
        return [Change("do", "work", self.name)]

    def apply(self, changes: Sequence[Change]) -> None:
        self._work()


class Refused(Doing):
    """One of which a person has not agreed to what it found."""

    def unasked(self) -> str:
        return f"do {self.name}"


class Notes:
    """A record that says what it was told, and whether two threads told it at once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.at_once = False
        self._busy = threading.Lock()

    def _note(self, text: str) -> None:
        self.at_once |= not self._busy.acquire(blocking=False)
        time.sleep(0.01)
        self.told.append(text)
        self._busy.release()

    def begin(self, step: Step, changes: Sequence[Change]) -> None:
        self._note(f"begin {step.name}")

    def end(self, result: StepResult) -> None:
        self._note(f"end {result.step}")


def both(aside: Sequence[Step], steps: Sequence[Step], notes: Notes, cancel: Callable[[], None]) -> Runner:
    """Two rows between a first and a last step."""
    parts = [Doing("first"), Beside(aside, steps, cancel), Doing("last")]
    return Runner(parts, None, Silent(), notes)


def test_what_is_not_agreed_to_is_not_noted() -> None:
    notes = Notes()
    steps = [Doing("first"), Refused("second", not_cancelled)]
    with pytest.raises(HostError, match="not agreed to: do second"):
        Runner(steps, None, Silent(), notes).perform()
    assert notes.told == ["begin first", "end first"]


def until(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        assert event.wait(_PATIENCE), "it never came"

    return wait


def not_cancelled() -> None:
    raise AssertionError("nothing is to be cancelled")


def test_rows_are_done_beside_each_other_and_listed_in_order() -> None:
    started, loaded = threading.Event(), threading.Event()
    notes = Notes()
    # Each row needs the other one to go on, and the one that is listed first ends last.
    aside = [Doing("registry", started.set), Doing("push", until(loaded))]
    steps = [Doing("image", until(started)), Doing("plugin", loaded.set)]
    results = both(aside, steps, notes, not_cancelled).perform()
    assert [result.step for result in results] == ["first", "registry", "push", "image", "plugin", "last"]
    assert all(result.changes == (Change("do", "work", result.step),) for result in results)
    assert not notes.at_once
    assert sorted(notes.told[2:-2]) == sorted(
        f"{what} {name}" for name in ("registry", "push", "image", "plugin") for what in ("begin", "end")
    )
    assert (notes.told[:2], notes.told[-2:]) == (["begin first", "end first"], ["begin last", "end last"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aside")]


def test_a_plan_lists_them_in_the_same_order() -> None:
    runner = both([Doing("registry"), Doing("push")], [Doing("image")], Notes(), not_cancelled)
    assert [result.step for result in runner.plan()] == ["first", "registry", "push", "image", "last"]


def test_parts_of_one_step_are_one_to_people() -> None:
    runner = both([Doing("push")], [Doing("first"), Doing("plugin")], Notes(), not_cancelled)
    for results in (by_name(runner.plan()), by_name(runner.perform())):
        assert [result.step for result in results] == ["first", "push", "plugin", "last"]
        assert results[0].changes == (Change("do", "work", "first"),) * 2
        assert results[1].changes == (Change("do", "work", "push"),)


def test_what_fails_aside_ends_the_other_row_at_its_next_step() -> None:
    notes = Notes()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise HostError("the registry refused")

    def fail_later() -> None:
        until(failed)()
        time.sleep(0.2)
        raise HostError("and so did Docker")

    for work in (lambda: (until(failed)(), time.sleep(0.2)), fail_later):
        notes.told.clear()
        with pytest.raises(HostError) as caught:
            both([Doing("push", fail)], [Doing("image", work), Doing("plugin")], notes, lambda: None).perform()
        # The first cause, whatever came of it.
        assert caught.value.message == "the registry refused"
        assert not {"end push", "begin plugin", "begin last"} & set(notes.told)


@pytest.mark.parametrize("error", [HostError("Docker refused"), KeyboardInterrupt()])
def test_what_ends_the_own_row_cancels_what_is_done_aside(error: BaseException) -> None:
    notes = Notes()
    pushing, cancelled = threading.Event(), threading.Event()

    def push() -> None:
        pushing.set()
        until(cancelled)()
        raise HostError("it was cancelled")

    def fail() -> None:
        until(pushing)()
        raise error

    aside = [Doing("push", push), Doing("more")]
    with pytest.raises(type(error)) as caught:
        both(aside, [Doing("image", fail)], notes, cancelled.set).perform()
    assert caught.value is error
    assert cancelled.is_set()
    assert not {"end push", "end image", "begin more", "begin last"} & set(notes.told)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aside")]


def test_an_interruption_while_only_the_other_thread_works_ends_it() -> None:
    notes = Notes()
    cancelled = threading.Event()

    def push() -> None:
        # The own row has nothing more to do by then, and waits.
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        until(cancelled)()
        notes.told.append("cancelled")

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        both([Doing("push", push), Doing("more")], [Doing("image")], notes, cancelled.set).perform()
    assert time.monotonic() - begun < _PATIENCE
    assert "cancelled" in notes.told
    assert not {"begin more", "begin last"} & set(notes.told)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aside")]
