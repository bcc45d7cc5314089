"""The programs of a cluster: Kubernetes from the Go module proxy, etcd and the network plugins from Debian."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from tests.testbed import debian
from tests.testbed.commands import run
from tests.testbed.gotools import STATIC, go_command, module_programs
from tests.testbed.product import Product, Program

# The last whose kubelet starts where control groups are those of version 1.
VERSION = "v1.34.4"
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")

_BUILDX, _BUILDX_VERSION = "github.com/docker/buildx", "v0.34.1"
_MAIN = Path(__file__).parent / "main.go"
_MODULE = "k8s.io/kubernetes"
_BUILD = ("-mod=mod", "-trimpath", "-gcflags=all=-dwarf=false")


def _build(directory: Path) -> None:
    go = go_command()
    major, minor, _ = VERSION[1:].split(".")
    flags = "-s -w " + " ".join(
        f"-X k8s.io/component-base/version.{name}={value}"
        for name, value in {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}.items()
    )
    with tempfile.TemporaryDirectory() as scratch:
        module = Path(scratch)
        found = json.loads(run(go, "mod", "download", "-json", f"{_MODULE}@{VERSION}", env=STATIC, cwd=module))
        # The modules that it is made of are released beside it, one minor version for another.
        staged = re.findall(r"^\s*(\S+) => \./staging/", Path(found["GoMod"]).read_text(), re.MULTILINE)
        lines = ["module testbed", "go 1.24.0", f"require {_MODULE} {VERSION}"]
        lines += [f"replace {name} => {name} {VERSION.replace('v1.', 'v0.', 1)}" for name in staged]
        (module / "go.mod").write_text("\n".join(lines) + "\n")
        shutil.copy2(_MAIN, module)
        run(go, "mod", "tidy", env=STATIC, cwd=module)
        run(go, "build", *_BUILD, "-ldflags", flags, "-o", str(directory / "kubernetes"), ".", env=STATIC, cwd=module)


KUBERNETES = Program(
    "kubernetes",
    Product("go/kubernetes", f"1 {VERSION} {_BUILD} {_MAIN.read_text()}", _build, seconds=600),
)
# Debian's makes no volumes.
BUILDX = Program(
    "buildx",
    module_programs(
        "buildx", (f"{_BUILDX}/cmd/buildx@{_BUILDX_VERSION}",), (f"{_BUILDX}/cmd/buildx",),
        f"-s -w -X {_BUILDX}/version.Version={_BUILDX_VERSION}", seconds=120,
    ),
)  # fmt: skip
ETCD = Program("etcd", debian.programs("etcd", "sid", {"etcd": ("etcd-server", "usr/bin/etcd")}))
_PLUGINS = ("bridge", "host-local", "loopback")
NETWORK = debian.programs(
    "cni", "sid", {name: ("containernetworking-plugins", f"usr/lib/cni/{name}") for name in _PLUGINS}
)
