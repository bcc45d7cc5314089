"""While a command works people see a line for each step, and how long it took."""

from __future__ import annotations

import io
import re

import pytest

from bundles.runtime.progress import Bars, Lines, Progress, ProgressLog, Silent


def steps(progress: Progress) -> None:
    with progress.step("images", "load image registry:3"):
        pass
    with pytest.raises(RuntimeError), progress.step("builder", "create builder x"):
        raise RuntimeError


def seconds_hidden(text: str) -> list[str]:
    return re.sub(r"\d+\.\d s", "N s", text).removesuffix("\n").split("\n")


WRITTEN = ["images         load image registry:3", "images         done, N s", "builder        create builder x"]


def test_in_a_pipe_a_step_is_said_when_it_begins() -> None:
    stream = io.StringIO()
    steps(Lines(stream))
    assert seconds_hidden(stream.getvalue()) == WRITTEN


def test_on_a_terminal_one_line_a_step_stays(capsys: pytest.CaptureFixture[str]) -> None:
    steps(Bars())
    # What a carriage return takes back does not stay.
    lines = [line.rpartition("\r")[2] for line in seconds_hidden(capsys.readouterr().err)]
    assert [line for line in lines if line.strip()] == [
        "images         load image registry:3  N s",
        "builder        create builder x  failed after N s",
    ]


def test_a_log_has_the_steps_with_their_times_whatever_is_shown() -> None:
    log = io.StringIO()
    steps(ProgressLog(Silent(), log))
    lines = seconds_hidden(log.getvalue())
    assert [line.partition(" ")[2] for line in lines] == WRITTEN
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ", line) for line in lines)
