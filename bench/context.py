"""What every part of the benchmark is given."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import Sample, measure
from bench.workload import Workload
from bundler.definition.spec import TOOLCHAIN
from tests.testbed import debian, gotools

BUNDLE = str(Path(sys.executable).parent / "bundle")
ONLY_IMAGES = tuple(word for role in TOOLCHAIN for word in ("--without", role))


@dataclasses.dataclass(frozen=True)
class Context:
    """The registry, its storage, a directory for everything that is written, and how much is to be done."""

    registry: str
    storage: Path
    scratch: Path
    quick: bool
    rounds: int

    def workload(self, images: Sequence[str]) -> Workload:
        return Workload(self.registry, tuple(images))

    def directory(self, name: str, parent: Path | None = None) -> Path:
        """An empty directory below the scratch directory, or `parent`."""
        path = (parent or self.scratch) / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def environment(self, home: Path) -> Mapping[str, str]:
        """Where the tools are, and a home of their own: all that they write is found there."""
        tools = {tool.name.upper(): str(tool.make()) for tool in (gotools.REGCTL, debian.CRANE, debian.ORAS)}
        return {**tools, "BUNDLE": BUNDLE, "HOME": str(home), "TMPDIR": str(home), "XDG_RUNTIME_DIR": str(home)}

    def create(self, images: Sequence[str], out: Path, *options: str, registry: str | None = None) -> Sample:
        """`bundle create` of these images without the toolchain, as if for the first time."""
        # What is there already would be taken over, and nothing fetched.
        for left in out.parent.glob(f"{out.name}*"):
            left.unlink()
        return measure(
            [BUNDLE, "create", "-q", "-o", out, "--mirror", f"docker.io={registry or self.registry}",
             *ONLY_IMAGES, *options, *images],
            self.environment(out.parent),
        )  # fmt: skip


def scratch(parent: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A directory that goes away in the end."""
    return tempfile.TemporaryDirectory(prefix="bundle-bench-", dir=parent)
