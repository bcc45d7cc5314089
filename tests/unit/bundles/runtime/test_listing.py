"""Lists for messages."""

from __future__ import annotations

import pytest

from bundles.runtime.listing import listed


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("a", "a"), ("ab", "a, b"), ("abc", "a, b and 1 more"), ("abcd", "a, b and 2 more")]
)
def test_what_is_longer_than_that_is_cut_off(names: str, text: str) -> None:
    assert listed(dict.fromkeys(names), 2) == text
