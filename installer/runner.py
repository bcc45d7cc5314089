"""Going through steps, for every command that changes the host: check, plan, perform."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Optional, Protocol, Union

from bundles.cli.output import ask
from bundles.errors import HostError, Problem
from bundles.runtime.progress import Progress
from bundles.runtime.signals import held
from installer.host.host import Ask
from installer.model.step import Change, Step, StepResult, summary

Changes = Sequence[Change]


def questioner() -> Optional[Ask]:
    """Return what puts a yes-or-no question to the person at the terminal; None when nobody is there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: ask(f"{question}?")


@dataclasses.dataclass(frozen=True)
class Beside:
    """Two rows of steps, each in its order, that need nothing of each other and are done at the same time.

    Args:
        aside: those that are done in a thread of their own.
        steps: those that are done in the caller's: what an interruption ends by itself, such as asking Docker, which
            may take its time to answer.
        cancel: makes what is done in the other thread end soon.
    """

    aside: Sequence[Step]
    steps: Sequence[Step]
    cancel: Callable[[], None]


class Record(Protocol):
    """Keeps in mind on the host what is done to it, so that a run that is killed is known too.

    One thread at a time calls it; steps that are done beside each other begin and end in any order.
    """

    def begin(self, step: Step, changes: Changes) -> None:
        """Note what a step is about to do."""

    def end(self, result: StepResult) -> None:
        """Note what a step has done, or with no changes that all of it was there."""


class Runner:
    """Goes through steps in their order.

    runner = Runner(steps, host.ask, progress, record)
    runner.check(yes=False)
    for result in runner.perform(): ...

    Args:
        steps: what is done.
        ask: puts a yes-or-no question to the person who is there; None when nobody is.
        progress: told what is being done.
        record: keeps in mind what was done.
        where: what people call the place that is changed.
    """

    def __init__(
        self,
        steps: Sequence[Union[Step, Beside]],
        ask: Optional[Ask],
        progress: Progress,
        record: Optional[Record] = None,
        *,
        where: str = "this host",
    ) -> None:
        self._parts, self._ask, self._progress, self._record = steps, ask, progress, record
        self._where = where
        self._steps: list[Step] = []
        for part in steps:
            self._steps += [*part.aside, *part.steps] if isinstance(part, Beside) else [part]
        self._recording = threading.Lock()

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
        if self._ask is None:
            found += [Problem("consent", f"needed to {text}", "run this again with --yes") for text in asked]
        if found:
            count = "a problem" if len(found) == 1 else f"{len(found)} problems"
            raise HostError(f"{self._where} is not ready: {count}, and nothing has been changed", problems=found)
        for text in asked:
            if not (self._ask and self._ask(text)):
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
        known = {} if plan is None else {step: result.changes for step, result in zip(self._steps, plan)}
        results: list[StepResult] = []
        for part in self._parts:
            if isinstance(part, Beside):
                results += self._perform_beside(part, known)
            else:
                results.append(self._perform_one(part, known))
        return results

    def _perform_one(self, step: Step, known: Mapping[Step, Changes]) -> StepResult:
        changes = known[step] if step in known else step.look()
        if changes:
            unasked = step.unasked()
            if unasked:
                raise HostError(f"not agreed to: {unasked}", hint="run this again; or with --yes")
            if self._record:
                with self._recording:
                    self._record.begin(step, changes)
            with self._progress.step(step.name, summary(changes)):
                step.apply(changes)
        result = StepResult(step.name, tuple(changes), tuple(step.notes()))
        if self._record:
            with self._recording:
                self._record.end(result)
        return result

    def _perform_beside(self, part: Beside, known: Mapping[Step, Changes]) -> list[StepResult]:
        """Do both rows; whatever happens, no thread is left at the end.

        Raises:
            whatever was raised first, and not what being cancelled made the other row raise.
        """
        ended = threading.Event()
        aside: Optional[Future[list[StepResult]]] = None
        with ThreadPoolExecutor(1, "aside") as pool:
            try:
                with held():
                    aside = pool.submit(self._perform_row, part.aside, known, ended.is_set)
                here = self._perform_row(part.steps, known, lambda: _failure(aside) is not None)
                return [*aside.result(), *here]
            except BaseException:
                first = _failure(aside)
                ended.set()
                part.cancel()
                if first:
                    raise first from None
                raise

    def _perform_row(
        self, steps: Sequence[Step], known: Mapping[Step, Changes], is_ended: Callable[[], bool]
    ) -> list[StepResult]:
        results: list[StepResult] = []
        for step in steps:
            if is_ended():
                break
            results.append(self._perform_one(step, known))
        return results


def _failure(future: Optional[Future[Any]]) -> Optional[BaseException]:
    return future.exception() if future is not None and future.done() else None


def by_name(results: Sequence[StepResult]) -> list[StepResult]:
    """Put together what steps of one name do: to people they are one, which is done in parts."""
    steps: dict[str, StepResult] = {}
    for result in results:
        before = steps.get(result.step, dataclasses.replace(result, changes=(), notes=()))
        changes, notes = (*before.changes, *result.changes), (*before.notes, *result.notes)
        steps[result.step] = dataclasses.replace(before, changes=changes, notes=notes)
    return list(steps.values())


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
