"""The wheel: all of the product and nothing else, and it works where only it is installed.

An editable install stays green when a package is missing from a wheel, so this one is built and installed.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle

PACKAGES = ("bundles", "bundler", "installer")
# What pip needs to find its index, wherever that is configured.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def pip(*arguments: object, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy: what an earlier build left beside the tree would get into it."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # The tests are there for a build that would take too much.
    shutil.copytree(ROOT / "tests" / "support", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, ".", cwd=source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it depends on."""
    directory = tmp_path_factory.mktemp("alone")
    # pip itself stays outside: it brings packages of its own.
    venv.create(directory, with_pip=False, symlinks=True)
    pip("--python", directory / "bin" / "python", "install", wheel, cwd=directory)
    return directory


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    tree = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".sh") or path.name == "py.typed"
    }
    assert {"installer/install.sh", "bundles/archive/reader.py", "bundler/sources/spool.py"} < tree
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == tree
        assert archive.read("installer/install.sh") == (ROOT / "installer" / "install.sh").read_bytes()
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_it_shares_no_file_with_what_it_depends_on(alone: Path) -> None:
    """PyPI has a distribution that installs a package `installer`: none of ours may need it, or be beside it."""
    owners: dict[str, str] = {}
    for record in alone.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        for path, *_ in csv.reader(record.read_text().splitlines()):
            assert path not in owners, f"{path} is of {owners[path]} and of {record.parent.name}"
            owners[path] = record.parent.name
    assert owners["installer/install.sh"].startswith("offline_bundle-")
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text()
        assert "pipx install ." in text, name
        assert "uv tool install ." in text, name


@pytest.mark.parametrize("command", ["bundle", "offline-bundle"])
def test_create_verify_and_inspect_from_the_wheel(command: str, alone: Path, hub: FakeRegistry, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(alone / "bin" / command), *map(str, arguments)],
            cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    arguments = ("create", "debian:12", "--mirror", f"docker.io={hub.host}", "-o")
    created = run(*arguments, "wheel.tar")
    assert created.returncode == 0, created.stderr
    assert run("verify", "wheel.tar").returncode == 0
    shown = run("inspect", "wheel.tar", "--json")
    assert "library/debian" in json.dumps(json.loads(shown.stdout)), shown.stderr
    # What travels does not depend on how the program was installed.
    assert bundle(*arguments, "checkout.tar", cwd=tmp_path).returncode == 0
    assert (tmp_path / "wheel.tar").read_bytes() == (tmp_path / "checkout.tar").read_bytes()
    # What a person is told to type is what they typed.
    refused = run("verify", "nowhere.tar", "--no-such-option")
    assert refused.returncode == 2
    assert f"next: {command} verify --help" in refused.stderr
