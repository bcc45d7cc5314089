"""Errors and problems as a person reads them."""

from __future__ import annotations

from bundles.errors import BundleError, Problem


def test_a_next_step_that_problems_share_is_said_once() -> None:
    problems = (Problem("a", "1", "x"), Problem("b", "2", "x"), Problem("c", "3"), Problem("d", "4", "x"))
    lines = str(BundleError("all wrong", problems=problems, hint="begin again")).splitlines()
    assert lines == [
        "all wrong", "  - a: 1", "  - b: 2", "    next, for these 2: x", "  - c: 3", "  - d: 4", "    next: x",
        "  next: begin again",
    ]  # fmt: skip


def test_an_option_is_no_command() -> None:
    step = Problem("a", "1", "--platform linux/arm64")
    assert str(BundleError("wrong", problems=[step], hint="--split 4000MiB")).splitlines()[2:] == [
        "    next: the same command with --platform linux/arm64",
        "  next: the same command with --split 4000MiB",
    ]
