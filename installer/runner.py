"""Going through steps, for every command that changes the host: check, plan, perform."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional, Protocol

from bundles.cli.output import ask
from bundles.errors import HostError, Problem
from bundles.runtime.progress import Progress
from installer.host.host import Host
from installer.model.step import Change, Step, StepResult, summary

Changes = Sequence[Change]


def questioner() -> Optional[Callable[[str], bool]]:
    """Return what puts a yes-or-no question to the person at the terminal; None when nobody is there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: ask(f"{question}?")


class Record(Protocol):
    """Keeps in mind on the host what is done to it, so that a run that is killed is known too."""

    def begin(self, step: Step, changes: Changes) -> None:
        """Note what a step is about to do."""

    def end(self, result: StepResult) -> None:
        """Note what a step has done, or with no changes that all of it was there."""


class Runner:
    """Goes through steps in their order.

    runner = Runner(steps, host, progress, record)
    runner.check(yes=False)
    for result in runner.perform(): ...
    """

    def __init__(self, steps: Sequence[Step], host: Host, progress: Progress, record: Optional[Record] = None) -> None:
        self._steps, self._host, self._progress, self._record = steps, host, progress, record

    def check(
        self,
        *,
        yes: bool,
        question: Optional[str] = None,
        problems: Sequence[Problem] = (),
        engine: bool = True,
        last: Callable[[], Sequence[Problem]] = tuple,
    ) -> None:
        """Collect what keeps the steps from working, and a person's consent where it is needed; nothing is done yet.

        Args:
            yes: whether consent is given to everything.
            question: what consent is needed to beside what the steps say.
            problems: those that are known already.
            engine: whether there is one; without it many a step cannot look, and `problems` say so already.
            last: finds problems for which the steps have to be able to look.

        Raises:
            HostError: something does, or consent was not given; nothing has been changed.
        """
        found, questions = list(problems), [question]
        for step in self._steps:
            with contextlib.ExitStack() as stack:
                if not engine:
                    stack.enter_context(contextlib.suppress(HostError))
                own = step.problems()
                found += own
                questions.append(None if own or yes else step.question())
        if not found:
            found += last()
        asked = [] if yes else list(filter(None, questions))
        if self._host.ask is None:
            found += [Problem("consent", f"needed to {text}", "run this again with --yes") for text in asked]
        if found:
            count = "a problem" if len(found) == 1 else f"{len(found)} problems"
            raise HostError(f"this host is not ready: {count}, and nothing has been changed", problems=found)
        for text in asked:
            if not (self._host.ask and self._host.ask(text)):
                raise HostError(f"not agreed to: {text}", hint="run this again with --yes")

    def plan(self, found: Callable[[Changes], None] = lambda _: None) -> list[StepResult]:
        """Return what each step would do; `found` is told of it before the next one looks. Nothing is touched."""
        results = []
        for step in self._steps:
            changes = step.look()
            if changes:
                found(changes)
            results.append(StepResult(step.name, tuple(changes), tuple(step.notes()), is_plan=True))
        return results

    def perform(self, plan: Optional[Sequence[StepResult]] = None) -> list[StepResult]:
        """Do what is missing, step by step, and return it. With a `plan` its changes are done, and none looks again.

        Raises:
            BundleError: a step failed; what was done stays, and the next run goes on from there.
        """
        results = []
        for number, step in enumerate(self._steps):
            changes = step.look() if plan is None else plan[number].changes
            if changes:
                if self._record:
                    self._record.begin(step, changes)
                with self._progress.step(step.name, summary(changes)):
                    step.apply(changes)
            results.append(StepResult(step.name, tuple(changes), tuple(step.notes())))
            if self._record:
                self._record.end(results[-1])
        return results


def plan_lines(plan: Sequence[StepResult]) -> list[str]:
    """Return every change for people, a line each."""
    lines = []
    for result in plan:
        texts = [str(change) for change in result.changes] or ["nothing to do"]
        lines += [f"{result.step if text is texts[0] else '':<14} {text}" for text in texts]
    return lines


def to_json(results: Sequence[StepResult]) -> dict[str, Any]:
    """Return what was done or would be: steps, and notes, what a person should know beside them."""
    notes = [note for result in results for note in result.notes]
    return {"steps": [result.to_json() for result in results], "notes": notes}
