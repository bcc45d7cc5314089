"""What a real tool attached to an image is found by it at the destination, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.definition.spec import TOOLCHAIN
from bundles.archive.reader import Archive
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.registry.client import Registry
from installer.steps.registry.push import Push
from tests.support.real_registry import RealRegistry
from tests.testbed import ORIGIN, debian, start_origin

pytestmark = pytest.mark.e2e


def test_oras_finds_what_it_attached(tmp_path: Path, connect: Callable[..., Transport]) -> None:
    """An SBOM of an image, and a signature of that SBOM; distribution has no referrers API, on either side."""
    start_origin()
    oras = debian.ORAS.make()

    def run(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def attach(image: str, kind: str) -> str:
        """Attach a file; gives the artifact by its digest."""
        (tmp_path / kind).write_text(f"{kind} of {image}")
        said = run(oras, "attach", "--plain-http", "--format=json", f"--artifact-type=example/{kind}", image, kind)
        return str(json.loads(said)["reference"])

    def attached(image: str) -> set[tuple[str, str]]:
        """The kinds and the digests of all that is attached, at any depth."""

        def below(node: dict[str, Any]) -> set[tuple[str, str]]:
            children = node.get("referrers") or []
            here = {(child["artifactType"], child["digest"]) for child in children}
            return here.union(*map(below, children))

        return below(json.loads(run(oras, "discover", "--plain-http", "--format=json", image)))

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        RealRegistry("distribution3", tmp_path / "a") as source,
        RealRegistry("distribution3", tmp_path / "b") as target,
    ):
        image = f"{source.host}/team/busybox:1.35"
        run(oras, "cp", "--from-plain-http", "--to-plain-http", f"{ORIGIN}/library/busybox:1.35", image)
        sbom = attach(image, "sbom")
        signature = attach(sbom, "signature")
        run(
            Path(sys.executable).with_name("bundle"), "create", "-q", "--referrers", image, "-o", "offline.tar",
            *(f"--without={role}" for role in TOOLCHAIN),
        )  # fmt: skip
        with Archive(tmp_path / "offline.tar") as archive:
            images = select(archive, Destination.of(Address.parse(target.host)), ())
            transport = connect(insecure=frozenset({target.host}))
            step = Push(archive, images, Registry(transport, target.host), Silent())
            step.apply(step.look())
        there = f"{target.host}/{source.host.replace(':', '_')}/team/busybox"
        found = attached(f"{there}:1.35")
        assert found == attached(image)
        assert {kind for kind, _ in found} == {"example/sbom", "example/signature"}
        for artifact, kind in ((sbom, "sbom"), (signature, "signature")):
            run(oras, "pull", "--plain-http", "-o", "pulled", f"{there}@{artifact.partition('@')[2]}")
            assert (tmp_path / "pulled" / kind).read_bytes() == (tmp_path / kind).read_bytes()
