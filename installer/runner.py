"""Going through steps: what they would do, doing it, and how that is said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

import click

from bundles.errors import HostError, Problem
from bundles.runtime.progress import Progress
from installer.host.host import Host
from installer.model.step import Change, Step, shortened

Changes = Sequence[Change]


def asking() -> Optional[Callable[[str], bool]]:
    """How to put a yes-or-no question to the person at the terminal; None when nobody is there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: bool(click.confirm(f"{question}?", err=True))


def check(steps: Sequence[Step], host: Host, *, yes: bool, asking: bool = True) -> None:
    """Collect what keeps the steps from working, and a person's consent where one needs it, before anything is done.

    Raises:
        HostError: something does, or consent was not given; nothing has been changed.
    """
    problems = [problem for step in steps for problem in step.problems()]
    questions = [] if problems or yes or not asking else [step.question() for step in steps]
    for question in filter(None, questions):
        if host.ask is None:
            problems.append(Problem("consent", f"needed to {question}", "run this again with --yes"))
        elif not host.ask(question):
            raise HostError(f"not agreed to: {question}", hint="run this again with --yes")
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise HostError(f"this host is not ready: {count}, and nothing has been changed", problems=problems)


def plan(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What each step would do: step, changes."""
    return [{"step": step.name, "changes": [change.to_json() for change in step.look()]} for step in steps]


def perform(
    steps: Sequence[Step], progress: Progress, done: Callable[[Changes], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Do what is missing, step by step; `done` is told what a step has done. Gives step, changed, changes of each.

    Raises:
        BundleError: a step failed; what was done stays, and the next run goes on from there.
    """
    results = []
    for step in steps:
        changes = step.look()
        for text in shortened(changes):
            progress.message(f"{step.name}: {text}")
        if changes:
            step.apply(changes)
            done(changes)
        entry = {"step": step.name, "changed": bool(changes), "changes": [change.to_json() for change in changes]}
        results.append(entry)
    return results


def step_lines(steps: Sequence[dict[str, Any]], nothing: str, limit: int) -> list[str]:
    """Steps and their changes for people; `nothing` is said of a step without any."""
    lines = []
    for step in steps:
        texts = shortened([Change(**change) for change in step["changes"]], limit) or [nothing]
        lines.append(f"{step['step']:<14} {texts[0]}")
        lines += [f"{'':<14} {text}" for text in texts[1:]]
    return lines
