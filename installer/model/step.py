"""A step of an installation: it looks at the host first, and does only what is missing."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from bundles.errors import Problem
from bundles.runtime.sizes import human_size


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that is missing on the host, and is done, or would be.

    `action` is a verb, `kind` and `name` what it is done to (an image, a container, a file), `size` the bytes that are
    moved where they are known.
    """

    action: str
    kind: str
    name: str
    detail: str = ""
    size: Optional[int] = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        text = f"{self.action} {self.kind} {self.name}"
        text += f" ({self.detail})" if self.detail else ""
        return text + (f", {human_size(self.size)}" if self.size is not None else "")


def shortened(changes: Sequence[Change], limit: int = 6) -> list[str]:
    """Changes for people: a long list gives its first ones and its last, and says how many are between."""
    texts = [str(change) for change in changes]
    if len(texts) <= limit:
        return texts
    return [*texts[: limit - 2], f"... and {len(texts) - limit + 1} more", texts[-1]]


class Step(abc.ABC):
    """One step. `look` and `problems` touch nothing on the host; `apply` brings about what `look` found missing.

        changes = step.look()
        if changes:
            step.apply(changes)

    After a successful `apply`, `look` finds nothing. Interrupted at any point, the next `look` finds what is left.
    `look` works also when the steps before it have only been looked at: that is what `--plan` does.
    """

    name: str
    """What people read: `registry`, `images`, `builder`."""

    def problems(self) -> Sequence[Problem]:
        """What on the host keeps this step from working, each with the command that fixes it."""
        return ()

    @abc.abstractmethod
    def look(self) -> Sequence[Change]:
        """What is missing."""

    @abc.abstractmethod
    def apply(self, changes: Sequence[Change]) -> None:
        """Do what `look` found missing.

        Raises:
            BundleError: it cannot be done; what was done stays, and the next run goes on from there.
        """

    def question(self) -> Optional[str]:
        """What a person has to agree to before anything begins, or None."""
        return None

    def notes(self) -> Sequence[str]:
        """What the receipt should say beside the changes: a rebuilt index, an emulation that is missing."""
        return ()
