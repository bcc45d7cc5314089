"""The architecture as a test: which package imports which, and which module alone imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for package in ("bundles", "bundler", "installer") for path in (ROOT / package).rglob("*.py"))

# package -> the packages of ours that it may import: bundler -> bundles <- installer
ALLOWED = {"bundles": {"bundles"}, "bundler": {"bundler", "bundles"}, "installer": {"installer", "bundles"}}
# library -> the only modules that import it
ONLY = {
    "docker": {
        "bundler/sources/docker_config.py",
        "bundler/sources/docker_engine.py",
        "installer/host/docker_engine.py",
    },
    "urllib3": {
        "bundles/registry/connections.py",
        "bundles/registry/connection_errors.py",
        "bundles/registry/transport.py",
    },
    "packaging": {"installer/host/versions.py", "installer/host/docker_engine.py", "installer/steps/buildx_plugin.py"},
    "tqdm": {"bundles/runtime/progress.py"},
    "tarfile": {
        "bundler/sources/docker_save.py",
        "bundles/archive/layout.py",
        "installer/steps/toolchain_images.py",
        "installer/host/docker_engine.py",
    },
    "fcntl": {"bundler/writing/journal.py"},
    "zipfile": {"bundler/writing/program.py"},
    "tomllib": {"bundler/definition/bundle_toml.py"},
    "tomli": {"bundler/definition/bundle_toml.py"},
    "zstandard": {"bundler/sources/zstd.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    package = name.partition("/")[0]
    for module in imports(path):
        top = module.partition(".")[0]
        if top in ALLOWED:
            assert top in ALLOWED[package], f"{name} imports {module}: {package} may import {sorted(ALLOWED[package])}"
        if top in ONLY:
            assert name in ONLY[top], f"{name} imports {module}: only {sorted(ONLY[top])} may"


def test_the_rules_name_modules_that_exist() -> None:
    assert {name for names in ONLY.values() for name in names if not (ROOT / name).exists()} == set()
