"""Versions as programs print them."""

from __future__ import annotations

import pytest

from installer.host.docker.cli import version_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("github.com/docker/buildx v0.29.1 28f6246", "0.29.1"),
        ("github.com/docker/buildx 0.13.1+dfsg1 0.13.1+dfsg1-3", "0.13.1"),
        ("v0.34.0-rc1", "0.34.0"),
        ("20.10.24+dfsg1", "20.10.24"),
        ("dev", "None"),
    ],
)
def test_versions_as_they_are_printed(text: str, found: str) -> None:
    assert str(version_of(text)) == found
