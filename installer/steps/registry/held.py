"""Whether a registry that another host fills has what an archive lists: then a builder here finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bundles.archive.reader import Archive
from bundles.errors import AuthenticationError, NetworkError, Problem
from bundles.oci.digest import Digest
from bundles.registry.auth import login_command
from bundles.runtime.listing import listed
from bundles.runtime.program import quote
from installer.model.registry.destination import Destination
from installer.model.selection import Place, Selected, places
from installer.model.step import Check
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes
from installer.registry.survey import Survey

_SHOWN = 5


class HeldCheck(Check):
    """Asks for every image of the archive. It changes nothing.

    Args:
        archive: what it lists has to be there.
        images: those of it that are used here.
        destination: where they are.
        registry: that is asked.
    """

    name = "registry"

    def __init__(
        self, archive: Archive, images: Sequence[Selected], destination: Destination, registry: Registry
    ) -> None:
        self._archive, self._images = archive, images
        self._destination, self._registry = destination, registry
        self._indexes = SparseIndexes(archive, registry)

    @property
    def rebuilt(self) -> dict[Place, Digest]:
        """The digest of the index that a place holds in the place of the image's own, where that was refused."""
        return self._indexes.rebuilt

    def problems(self) -> Sequence[Problem]:
        host = self._destination.host
        try:
            self._registry.ping()
            return self._missing()
        except AuthenticationError as error:
            return [Problem(f"`{host}`", error.message, error.hint or login_command(host))]
        except NetworkError as error:
            return [Problem(f"`{host}`", error.message, error.hint or "is the registry there running?")]

    def _missing(self) -> Sequence[Problem]:
        base_layers = BaseLayers(self._archive, self._images, self._registry, self._destination.prefix)
        survey = Survey(self._archive, self._images, self._registry, self._indexes, base_layers, answers=True)
        others = survey.replaced
        absent = [place.name for place in survey.missing if place not in others]
        name, problems = quote(self._archive.path.name), []
        if absent:
            count = f"{len(absent)} of {len(places(self._images))} names"
            problems.append(
                Problem(
                    f"`{self._destination}`",
                    f"it lacks {count} that this archive lists, or a part of them: {listed(absent, _SHOWN)}",
                    f"on the registry's host: python3 {name} install; a registry of the site: python3 {name} push "
                    f"{self._destination}",
                )
            )
        if others:
            problems.append(
                Problem(
                    f"`{self._destination}`",
                    f"it serves another bundle than this archive: {listed(_moved(others), _SHOWN)}",
                    "join with the archive that was installed there last; or bring this one there first: "
                    f"python3 {name} upgrade",
                )
            )
        return problems


def _moved(others: Mapping[Place, Digest]) -> list[str]:
    return [
        f"{place.name} is {digest.short} there, not {place.image.root.digest.short}" for place, digest in others.items()
    ]
