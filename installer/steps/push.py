"""Images into the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional

from bundles.archive.reader import Archive
from bundles.errors import Problem, UnreachableError
from bundles.oci.digest import Digest
from bundles.runtime.progress import Progress
from installer.model.selection import Place, Selected
from installer.model.step import Change, Step
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes
from installer.registry.survey import Survey
from installer.registry.transfer import Transfer


class Push(Step):
    """Brings the selected images into the registry.

    Args:
        archive: where the images are.
        images: those to bring.
        registry: where they are to be.
        progress: told of the bytes on their way.
        is_outgoing: whether the registry that answers now goes before the push: what it has is nothing that its
            successor has.
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
    ) -> None:
        self._archive, self._images = archive, images
        self._registry, self._progress = registry, progress
        self._base_layers = BaseLayers(archive, images, registry)
        self._indexes = SparseIndexes(archive, registry)
        self._is_outgoing = is_outgoing
        self._survey: Optional[Survey] = None

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
        changes = [
            Change(
                "push",
                "tag" if place.image.tag else "digest",
                place.name,
                ", ".join(map(str, place.image.platforms)) or "artifact",
            )
            for place in survey.missing
        ]
        size = sum(plan.blob.size for plan in survey.blobs if not plan.present and self._archive.has(plan.blob.digest))
        count = sum(1 for plan in survey.blobs if plan.missing)
        return [*changes, Change("upload", "blobs", str(count), "those that the registry does not have", size)]

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

    def _new_survey(self, *, answers: bool) -> Survey:
        return Survey(self._archive, self._images, self._registry, self._indexes, self._base_layers, answers=answers)

    def _answers(self) -> bool:
        """Tell whether there is the registry that is pushed to: with --plan it may not have been started yet."""
        if self._is_outgoing():
            return False
        try:
            self._registry.ping()
        except UnreachableError:
            return False
        return True
