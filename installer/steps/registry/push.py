"""Images into the registry.

A tag that stands for something else there is moved without a word only when installing has pushed that, too. What
somebody else pushed is a person's to give up: they are asked, the receipt names it, and it stays under its digest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Optional

from bundles.archive.reader import Archive
from bundles.errors import NetworkError, Problem, UnreachableError
from bundles.oci.digest import Digest
from bundles.runtime.listing import listed
from bundles.runtime.progress import Progress
from installer.model.selection import Place, Selected, places
from installer.model.step import Change, Step
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes
from installer.registry.survey import Survey
from installer.registry.transfer import Transfer

_SHOWN = 10


class Push(Step):
    """Brings the selected images into the registry.

    Args:
        archive: where the images are.
        images: those to bring.
        registry: where they are to be.
        progress: told of the bytes on their way.
        is_outgoing: whether the registry that answers now goes before the push: what it has is nothing that its
            successor has.
        is_ours: whether installing pushed that digest to that place.
        yes: whether a person has agreed to all tags of others being moved.
        prefix: what the names of the repositories begin with that are ours; empty when all are.
    """

    name = "push"

    def __init__(
        self,
        archive: Archive,
        images: Sequence[Selected],
        registry: Registry,
        progress: Progress,
        *,
        is_outgoing: Callable[[], bool] = lambda: False,
        is_ours: Callable[[Place, Digest], bool] = lambda place, digest: False,
        yes: bool = False,
        prefix: str = "",
    ) -> None:
        self._archive, self._images = archive, images
        self._registry, self._progress = registry, progress
        self._base_layers = BaseLayers(archive, images, registry, prefix)
        self._indexes = SparseIndexes(archive, registry)
        self._is_outgoing = is_outgoing
        self._survey: Optional[Survey] = None
        self._is_ours, self._yes = is_ours, yes
        self._agreed: Mapping[Place, Digest] = {}

    @property
    def rebuilt(self) -> dict[Place, Digest]:
        """The digest of the index that a place holds in the place of the image's own, where the registry refused it."""
        return self._indexes.rebuilt

    def problems(self) -> Sequence[Problem]:
        if not self._base_layers.of(self._images):
            return []
        if self._is_outgoing():
            return [self._base_layers.outgoing()]
        if not self._answers():
            return [self._base_layers.unreachable()]
        missing = self._new_survey(answers=True).missing
        return self._base_layers.problems(self._base_layers.of([place.image for place in missing]))

    def look(self) -> Sequence[Change]:
        self._survey = survey = self._new_survey(answers=self._answers())
        if not survey.missing:
            return []
        others = self._of_others(survey)
        changes = [
            Change(
                "push",
                "tag" if place.image.tag else "digest",
                place.name,
                _detail(place, survey.replaced.get(place), others.get(place)),
                replaces=str(others[place]) if place in others else None,
            )
            for place in survey.missing
        ]
        size = sum(plan.blob.size for plan in survey.blobs if not plan.present and self._archive.has(plan.blob.digest))
        count = sum(1 for plan in survey.blobs if plan.missing)
        return [*changes, Change("upload", "blobs", str(count), "those that the registry does not have", size)]

    def _of_others(self, survey: Survey) -> Mapping[Place, Digest]:
        """Return the tags that would be taken from others, and what they stand for."""
        return {place: old for place, old in survey.replaced.items() if not self._may_move(place, old)}

    def _may_move(self, place: Place, old: Digest) -> bool:
        return self._is_ours(place, old) or self._indexes.is_derived(place, old)

    def question(self) -> Optional[str]:
        # What answers may be no registry, which is a problem of another step. `apply` asks again.
        with contextlib.suppress(NetworkError):
            if self._answers() and self._has_other_tags():
                self._agreed = self._of_others(self._new_survey(answers=True, goes_on=True))
        return self._moving(self._agreed) if self._agreed else None

    def _has_other_tags(self) -> bool:
        """Tell, at a request for each tag, whether one stands for something else than its image."""
        tagged = [place for place in places(self._images) if place.image.tag]
        found = self._registry.in_parallel(
            lambda place: self._registry.manifest_digest(place.repository, str(place.image.tag)), tagged, goes_on=True
        )
        return any(digest not in (None, place.image.root.digest) for place, digest in zip(tagged, found))

    def _moving(self, tags: Mapping[Place, Digest]) -> str:
        """Say which tags are taken from others."""
        texts = [f"{place.name} ({old} -> {place.image.root.digest})" for place, old in tags.items()]
        return (
            f"move tags on {self._registry.host} that this installation did not push, and what they were stays under "
            f"its digest: {listed(texts, _SHOWN)}"
        )

    def unasked(self) -> Optional[str]:
        self._survey = survey = self._survey or self._new_survey(answers=self._answers())
        # The registry may not have answered when a person could be asked, or somebody has pushed since.
        others = self._of_others(survey)
        unasked = {place: old for place, old in others.items() if self._agreed.get(place) != old}
        return self._moving(unasked) if unasked and not self._yes else None

    def apply(self, changes: Sequence[Change]) -> None:
        survey = self._survey or self._new_survey(answers=self._answers())
        # Only once: another time the registry may hold something else.
        self._survey = None
        transfer = Transfer(self._archive, self._registry, self._indexes, self._base_layers)
        transfer.push(survey.missing, survey.blobs, self._progress)

    def notes(self) -> Sequence[str]:
        return [
            f"{place.name} has the index {digest} instead of {place.image.root.digest}: this registry refuses an index "
            "of which only some platforms are there"
            for place, digest in self.rebuilt.items()
        ]

    def _new_survey(self, *, answers: bool, goes_on: bool = False) -> Survey:
        parts = (self._archive, self._images, self._registry, self._indexes, self._base_layers)
        return Survey(*parts, answers=answers, goes_on=goes_on)

    def _answers(self) -> bool:
        """Tell whether there is the registry that is pushed to: with --plan it may not have been started yet."""
        if self._is_outgoing():
            return False
        try:
            self._registry.ping()
        except UnreachableError:
            return False
        return True


def _detail(place: Place, old: Optional[Digest], of_others: Optional[Digest]) -> str:
    detail = ", ".join(map(str, place.image.platforms)) or "artifact"
    if old is None:
        return detail
    kept = f"; pushed by others, it stays as {place.repository}@{old}" if of_others else ""
    return f"{detail}; {old} -> {place.image.root.digest}{kept}"
