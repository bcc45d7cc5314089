"""What installing finds before it touches anything."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.archive.reader import Archive
from bundles.errors import HostError
from bundles.oci.platform import Platform
from bundles.registry.transport import Settings, Transport
from bundles.runtime import program
from installer import preflight
from installer.host.host import Host
from installer.model.job import Options
from installer.preflight import settle
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.steps.registry.prune import PruneImages
from tests.support.archives import example


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("tcp://127.0.0.1:2375", "run it on that machine: python3 offline.tar install"),
        ("ssh://ann@far:2222", "ssh -p 2222 ann@far, and run it there: python3 offline.tar install"),
    ],
)
def test_an_engine_elsewhere_is_refused_before_anything_is_asked(tmp_path: Path, endpoint: str, hint: str) -> None:
    example().write(tmp_path / "offline.tar")
    host = Host.this({"PATH": str(tmp_path), "HOME": str(tmp_path), "DOCKER_HOST": endpoint}, None)
    with Archive(tmp_path / "offline.tar") as archive, pytest.raises(HostError) as caught:
        settle(archive, Options(), host)
    assert f"Docker's engine is at `{endpoint}` (DOCKER_HOST), not on this host" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("started", "called"),
    [
        ("/usb/offline.tar", "python3 /usb/offline.tar"),
        ("a stick/offline.tar.002", "python3 'a stick/offline.tar.002'"),
    ],
)
def test_next_steps_name_the_archive_as_it_was_called(
    started: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "running_archive", lambda: Path(started))
    monkeypatch.setattr(sys, "argv", [started, "prune"])
    unused: Any = None
    with Transport(Settings(insecure=frozenset({"localhost:1"}))) as transport:
        (problem,) = PruneImages(Receipt(unused, unused), Registry(transport, "localhost:1"), ()).problems()
    assert problem.hint == f"{called} doctor"
    manifest = SimpleNamespace(platforms=(Platform("linux", "amd64"),))
    archive: Any = SimpleNamespace(path=Path("a b.tar"), manifest=manifest)
    options = Options(platforms=(Platform("linux", "s390x"),))
    (problem,) = preflight._platform_problems(archive, options)
    assert problem.hint == f"{called} inspect 'a b.tar'"
