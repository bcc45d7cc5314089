"""A source in front of another one that asks for references by the digests that they stood for."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Optional

from bundler.sources.source import Source, SourceAround
from bundles.errors import NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference


class PinnedSource(SourceAround):
    """A source in which references stand for the digests that a lock or a record gives them. Thread-safe.

    Args:
        source: is asked.
        pins: what references stand for.
        upgrade: gives the command that moves a pin.
        how: the references are pinned.

    `found` is what each reference that was asked for stood for.
    """

    def __init__(
        self,
        source: Source,
        pins: Mapping[Reference, Digest],
        upgrade: Callable[[Reference], str],
        how: str = "locked",
    ) -> None:
        super().__init__(source)
        self._pins, self._upgrade, self._how = pins, upgrade, how
        self._lock = threading.Lock()
        self._found: dict[Reference, Digest] = {}

    @property
    def found(self) -> Mapping[Reference, Digest]:
        with self._lock:
            return dict(self._found)

    def known_digest(self, reference: Reference) -> Optional[Digest]:
        known = super().known_digest(reference)
        return known if self._pins.get(reference, known) == known else None

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        pin = self._pins.get(reference)
        try:
            at = dataclasses.replace(reference, tag=None, digest=pin) if pin else reference
            descriptor, data = self._source.manifest(at)
        except NotFoundError as error:
            if pin is None or reference.digest:
                raise
            raise NotFoundError(
                f"`{reference.familiar}` is {self._how} as {pin}, which is no longer there: {error.message}",
                hint=self._upgrade(reference),
                status=error.status,
                codes=error.codes,
            ) from None
        with self._lock:
            self._found[reference] = descriptor.digest
        return descriptor, data
