"""The next step that a finding names installs again what was chosen, and can be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.diagnosis import Diagnosis
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.address import Address
from installer.model.job import DesiredState
from installer.receipt.receipt import BundleName, Receipt
from tests.support.fake_engine import FakeEngine

AMD64 = Platform("linux", "amd64")


def test_what_needs_the_archive_is_an_upgrade_with_its_path_quoted(engine: FakeEngine, tmp_path: Path) -> None:
    archive = "/media/my stick/off'line.tar"
    state = DesiredState(Address.parse("localhost:5000"), "bundle-registry", "b", AMD64, (AMD64,), {}, {})
    receipt = Receipt(BundleName("x", "sha256:1", archive), state)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    (finding,) = diagnosis._registry_container()
    assert "its image" in finding.message
    assert shlex.split(finding.hint) == ["python3", archive, "upgrade"]
