"""What is to be installed: options, and the tools that an archive has for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundles.archive.reader import Archive
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from installer.model.job import Job, Options
from installer.model.registry.address import Address
from tests.support.archives import AMD64, example

NAME = "localhost:5000/library/registry:3"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return example().write(tmp_path / "x.tar").path


@pytest.mark.parametrize("name", ["", "Default", "default", "a/b", "1st", "a b"])
def test_builder_names(name: str) -> None:
    with pytest.raises(UsageError, match="builder's name"):
        Options(builder=name)


def test_a_tool_is_chosen_for_the_host(path: Path) -> None:
    with Archive(path) as archive:
        job = Job.of(archive, Options(), Platform("linux", "x86_64"))
        tool = job.tool("registry")
        assert tool is not None
        assert tool.name == NAME
        assert tool.manifest == archive.manifest.with_role("registry")[0].platforms[0].manifest
        assert tool.is_image(str(tool.config.digest))
        assert tool.is_image(str(tool.manifest.digest))
        assert not tool.is_image("sha256:" + "0" * 64)
        assert not tool.is_image(None)
        assert job.tool("buildkit") is None
        assert Job.of(archive, Options(), Platform("linux", "arm64")).tool("registry") is None


def test_what_was_installed_before_decides_what_is_not_asked_for(path: Path) -> None:
    lan = Address.parse("192.168.10.10:5000")
    with Archive(path) as archive:
        job = Job.of(archive, Options(), AMD64)
        assert (str(job.address), job.data) == ("localhost:5000", "bundle-registry")
        job = Job.of(archive, Options(), AMD64, lan, "/srv/registry")
        assert (job.address, job.data) == (lan, "/srv/registry")
        asked = Options(registry=Address.parse("localhost:5001"), data="other")
        job = Job.of(archive, asked, AMD64, lan, "/srv/registry")
        assert (str(job.address), job.data) == ("localhost:5001", "other")
