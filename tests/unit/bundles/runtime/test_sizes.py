"""Sizes as a person writes them."""

from __future__ import annotations

import pytest

from bundles.errors import UsageError
from bundles.runtime.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4000MiB", 4_194_304_000), ("4GB", 4_000_000_000), ("4 GiB", 4_294_967_296), ("650mb", 650_000_000),
     ("1.5GiB", 1_610_612_736), ("4294967295", 4_294_967_295), ("1TiB", 1_099_511_627_776), ("7B", 7)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4G", "4M", "-4MiB", "0", "0.1B", "1e9", "MiB", "4 000MiB", "٤MiB", "4PiB", "9" * 30]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)
