"""The marks that containers carry."""

from __future__ import annotations

from installer.host.labels import fingerprint


def test_fingerprints_are_equal_for_equal_states() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
