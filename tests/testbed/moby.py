"""Docker 29, which no Debian has: its engine and its command from the Go module proxy, in the root of a Debian sid.

The engine takes minutes to compile: it is made for `make test`, and not for the demo.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from . import debian
from .commands import run
from .gotools import STATIC, go_command, module_programs
from .product import Product, Program

SUITE = "docker29"

# The engine's module has versions of its own; the command of this release is of the same day and for the same API.
_RELEASE = "29.8.1"
_MOBY = "github.com/moby/moby/v2"
_MOBY_VERSION = "v2.0.0-beta.24"
_CLI = "github.com/docker/cli"


def _build_docker(directory: Path) -> None:
    """Build the docker command from its own list of modules.

    There is no go.mod, so that `go get` would take the newest of everything; vendor.mod and vendor.sum are one by
    other names.
    """
    go = go_command()
    flags = f"-s -w -X {_CLI}/cli/version.Version={_RELEASE}"
    with tempfile.TemporaryDirectory() as scratch:
        module = Path(scratch) / "cli"
        found = run(go, "mod", "download", "-json", f"{_CLI}@v{_RELEASE}+incompatible", env=STATIC, cwd=Path(scratch))
        shutil.copytree(json.loads(found)["Dir"], module)
        run("chmod", "-R", "u+w", str(module))
        for name in ("mod", "sum"):
            (module / f"vendor.{name}").rename(module / f"go.{name}")
        # Of the vendored sources nothing but the list is in the module.
        shutil.rmtree(module / "vendor")
        out = str(directory / "docker")
        run(go, "build", "-trimpath", "-ldflags", flags, "-o", out, "./cmd/docker", env=STATIC, cwd=module)


def _make_root(directory: Path) -> None:
    # Debian's packages have theirs in the same places.
    programs = {
        "usr/sbin/dockerd": DOCKERD.make(),
        "usr/sbin/docker-proxy": DOCKER_PROXY.make(),
        "usr/bin/docker": DOCKER.make() / "docker",
    }
    run("cp", "-a", "--reflink=auto", str(_SID.make() / "root"), str(directory / "root"))
    for place, program in programs.items():
        (directory / "root" / place).unlink()
        shutil.copy2(program, directory / "root" / place)


_ENGINE = module_programs(
    "moby",
    (f"{_MOBY}/cmd/dockerd@{_MOBY_VERSION}",),
    (f"{_MOBY}/cmd/dockerd", f"{_MOBY}/cmd/docker-proxy"),
    f"-s -w -X {_MOBY}/dockerversion.Version={_RELEASE}",
    seconds=150,
)
DOCKERD, DOCKER_PROXY = Program("dockerd", _ENGINE), Program("docker-proxy", _ENGINE)
DOCKER = Product("go/docker", f"1 {_CLI} {_RELEASE}", _build_docker, seconds=60)

_SID = debian.engine_root("sid")
_PARTS = (_ENGINE, DOCKER, _SID)
ENGINE_ROOT = Product(f"host/{SUITE}", f"1 {' and '.join(part.recipe for part in _PARTS)}", _make_root, needs=_PARTS)
