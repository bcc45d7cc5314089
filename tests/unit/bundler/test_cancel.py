"""An error ends `create` at once, however long a registry would keep the other downloads waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.create import Options, create
from bundler.definition.spec import Compression, Definition, Spec, combine
from bundler.planning.plan import Plan
from bundler.planning.recompress import recompress
from bundler.planning.referrers import with_referrers
from bundler.planning.resolve import resolve
from bundler.sources.registry import RegistrySource
from bundler.sources.spool import Spool, SpooledSource
from bundles.errors import NotFoundError, UnavailableError
from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from tests.support.archives import PROGRAM
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.stall import PATIENT, Stall

Connect = Callable[..., Transport]


# Longer than any registry here keeps anybody waiting.
def planned(registry: FakeRegistry, transport: Transport) -> tuple[Spec, Plan, RegistrySource, list[Descriptor]]:
    """An image of two layers, resolved."""
    registry.tag("app", "1", registry.index(registry.image("linux/amd64", layers=2)))
    line = Definition(
        images=(Reference.parse(f"{registry.host}/app:1"),),
        platforms=(Platform.parse("linux/amd64"),),
        toolchain={role: None for role in ("registry", "buildkit", "buildx", "binfmt", "frontend", "python")},
    )
    spec = combine(Definition(), line, "test")
    source = RegistrySource(transport, {})
    plan = resolve(spec, source)
    return spec, plan, source, [layer for layer, _ in plan.layers]


def refuse(registry: FakeRegistry, part: str, stall: Stall, status: int = 404) -> None:
    """Answer that there, once somebody waits elsewhere."""
    registry.fault("GET", part, times=-1, status=status, before=lambda: stall.asked.wait(30))


@pytest.mark.parametrize("tls", [False, True])
def test_a_registry_that_never_answers_does_not_hold_up_an_export_that_failed(
    fake: Any, certificate: Certificate, connect: Connect, tmp_path: Path, stall: Stall, tls: bool
) -> None:
    registry = fake(tls=certificate) if tls else fake()
    spec, _, source, (silent, missing) = planned(registry, connect(timeout=PATIENT, attempts=1))
    registry.fault("GET", str(silent.digest), times=-1, status=500, before=stall.wait)
    refuse(registry, str(missing.digest), stall)
    with pytest.raises(NotFoundError):
        create(spec, tmp_path / "offline.tar", source, Options(program=PROGRAM), Silent())
    stall.release()
    assert stall.outlasted


def test_a_registry_that_wants_to_be_asked_later_is_not_asked_again(
    registry: FakeRegistry, connect: Connect, tmp_path: Path, stall: Stall
) -> None:
    spec, _, source, (busy, missing) = planned(registry, connect(attempts=2))
    later = {"Retry-After": "20"}
    registry.fault("GET", str(busy.digest), times=-1, status=503, headers=later, before=stall.asked.set)
    refuse(registry, str(missing.digest), stall)
    with pytest.raises(NotFoundError):
        create(spec, tmp_path / "offline.tar", source, Options(program=PROGRAM), Silent())
    assert len(registry.paths("GET", str(busy.digest))) == 1


def test_nor_does_it_hold_up_recompressing(registry: FakeRegistry, connect: Connect, stall: Stall) -> None:
    _, plan, source, (silent, missing) = planned(registry, connect(timeout=PATIENT, attempts=1))
    registry.fault("GET", str(silent.digest), times=-1, status=500, before=stall.wait)
    refuse(registry, str(missing.digest), stall)
    with pytest.raises(NotFoundError):
        recompress(plan, SpooledSource(source, Spool(None)), Compression(1, 1), Silent(), 2)
    stall.release()
    assert stall.outlasted


def test_nor_the_search_for_signatures(registry: FakeRegistry, connect: Connect, stall: Stall) -> None:
    _, plan, source, _ = planned(registry, connect(timeout=PATIENT, attempts=1))
    (image,) = plan.images
    (content,) = image.platforms
    registry.fault("GET", f"sha256-{image.root.digest.hex}.sig", times=-1, status=500, before=stall.wait)
    refuse(registry, f"sha256-{content.manifest.digest.hex}.sig", stall, status=503)
    with pytest.raises(UnavailableError, match="503"):
        with_referrers(plan, source)
    stall.release()
    assert stall.outlasted
