"""Changes as a person reads them."""

from __future__ import annotations

from installer.model.step import Change, summary


def test_changes_are_one_line_for_people() -> None:
    changes = [Change("push", "tag", f"t{number}") for number in range(10)]
    assert summary(changes[:1]) == "push tag t0"
    loads = [Change("load", "image", name, "into Docker", size=3 << 19) for name in ("registry:3", "buildkit:1")]
    assert summary([*loads, *changes, Change("upload", "blobs", "3", size=1 << 20)]) == (
        "load image registry:3 and 1 more (3.0 MiB), push tag t0 and 9 more, upload blobs 3 (1.0 MiB)"
    )
