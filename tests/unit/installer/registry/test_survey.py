"""What a registry lacks of an archive's images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.archive.reader import Archive
from bundles.registry.transport import Transport
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import Place, select
from installer.registry.base_layers import BaseLayers
from installer.registry.client import Registry
from installer.registry.sparse_index import SparseIndexes
from installer.registry.survey import Survey
from tests.support.archives import image, made


def test_a_place_is_looked_up_once_whatever_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., Transport]
) -> None:
    path = made(image("app:1", seeds=range(20)), image("app:2", seeds=range(20))).write(tmp_path / "a.tar").path
    registry = Registry(connect(), "127.0.0.1:1")
    hashed: list[Place] = []

    def counted(place: Place) -> int:
        hashed.append(place)
        return hash(place.name)

    monkeypatch.setattr(Place, "__hash__", counted)
    with Archive(path) as archive:
        images = select(archive, Destination.of(Address.parse("127.0.0.1:1")), ())
        layers = BaseLayers(archive, images, registry)
        survey = Survey(archive, images, registry, SparseIndexes(archive, registry), layers, answers=False)
        found = {plan.blob.digest: plan.missing for plan in survey.blobs}
    assert found.keys() == {blob.digest for each in images for blob in each.blobs}
    assert set(found.values()) == {("library/app", "app")}
    assert len(hashed) < 5 * len(survey.missing)
