"""A storage that goes away in mid-push ends the push, and one that is slow or unfriendly does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Optional

import pytest

from bundles.errors import NetworkError, UnreachableError
from installer.storage.watch import Watch

AWAY, ANGRY = UnreachableError("away"), NetworkError("no")


@pytest.mark.parametrize(
    ("answers", "is_lost"),
    [
        ([AWAY, AWAY, AWAY], True),
        ([None, AWAY, AWAY, AWAY], True),
        ([AWAY, AWAY, None, AWAY, AWAY, ANGRY], False),
        ([ANGRY] * 5, False),
    ],
)
def test_three_times_in_a_row_is_away(answers: list[Optional[Exception]], is_lost: bool) -> None:
    left: Iterator[Optional[Exception]] = iter(answers)
    ended, asked = threading.Event(), threading.Event()

    def ask() -> None:
        try:
            answer = next(left)
        except StopIteration:
            asked.set()
            return
        if answer is not None:
            raise answer

    watch = Watch(ask, ended.set, interval=0.001)
    with watch.watching():
        assert (ended if is_lost else asked).wait(5)
    assert ended.is_set() is is_lost
    assert watch.lost is (AWAY if is_lost else None)
