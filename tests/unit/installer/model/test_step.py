"""Changes as a person reads them."""

from __future__ import annotations

from installer.model.step import Change, shortened


def test_a_long_list_is_shortened_for_people() -> None:
    changes = [Change("push", "tag", f"t{number}") for number in range(10)]
    texts = shortened([*changes, Change("upload", "blobs", "3", size=1 << 20)])
    assert len(texts) == 6
    assert texts[0] == "push tag t0"
    assert texts[-2:] == ["... and 6 more", "upload blobs 3, 1.0 MiB"]
