"""A step of an installation: it looks at the host first, and does only what is missing."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from bundles.errors import Problem
from bundles.runtime.listing import listed
from bundles.runtime.sizes import human_size


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that is missing on the host, and is done, or would be.

    `action` is a verb, `kind` and `name` what it is done to (an image, a container, a file), `size` the bytes that are
    moved where they are known, `replaces` the digest under which somebody else had pushed a tag that is moved.
    """

    action: str
    kind: str
    name: str
    detail: str = ""
    size: Optional[int] = None
    replaces: Optional[str] = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        text = f"{self.action} {self.kind} {self.name}"
        text += f" ({self.detail})" if self.detail else ""
        return text + (f", {human_size(self.size)}" if self.size is not None else "")


def summary(changes: Sequence[Change]) -> str:
    """Return changes as one line: the first of each kind, how many more there are, and the bytes of all of them."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.action, change.kind), []).append(change)
    texts = []
    for (action, kind), group in groups.items():
        sizes = [change.size for change in group if change.size is not None]
        size = f" ({human_size(sum(sizes))})" if sizes else ""
        texts.append(f"{action} {kind} {listed([change.name for change in group], 1)}{size}")
    return ", ".join(texts)


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a step did, or in a plan would do, and what a person should know beside it."""

    step: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    is_plan: bool = False

    def to_json(self) -> dict[str, Any]:
        changed = {} if self.is_plan else {"changed": bool(self.changes)}
        return {"step": self.step, **changed, "changes": [change.to_json() for change in self.changes]}


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
        """Return what on the host keeps this step from working, each with the command that fixes it."""
        return ()

    @abc.abstractmethod
    def look(self) -> Sequence[Change]:
        """Return what is missing."""

    @abc.abstractmethod
    def apply(self, changes: Sequence[Change]) -> None:
        """Do what `look` found missing.

        Raises:
            BundleError: it cannot be done; what was done stays, and the next run goes on from there.
        """

    def explain(self, change: Change) -> str:
        """Say what is wrong with an installation in which `look` finds this change."""
        return str(change)

    def question(self) -> Optional[str]:
        """Return what a person has to agree to before anything begins, or None."""
        return None

    def unasked(self) -> Optional[str]:
        """Return what of the changes nobody has agreed to, since it was not there when `question` was, or None."""
        return None

    def notes(self) -> Sequence[str]:
        """Return what the receipt should say beside the changes: a rebuilt index, an emulation that is missing."""
        return ()


class Check(Step):
    """A step that only asks, and says what it has found: it changes nothing."""

    def look(self) -> Sequence[Change]:
        """Return nothing: there is nothing to bring about."""
        return []

    def apply(self, changes: Sequence[Change]) -> None:
        """Do nothing."""
