"""The architecture as a test: which package imports which, and which module alone imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for package in ("bundles", "bundler", "installer") for path in (ROOT / package).rglob("*.py"))

# The rooms of each package, from the top down: a room imports what stands below it. Rooms in one set stand side by
# side and do not import each other. What is not named here stands at the bottom (`errors`, the version).
ROOMS: dict[str, tuple[set[str], ...]] = {
    "bundles": ({"cli", "proxy"}, {"archive", "dockerfile", "registry"}, {"oci", "runtime", "crypto"}, {"errors"}),
    "bundler": ({"commands"}, {"create", "recording"}, {"writing"}, {"planning"}, {"sources"}, {"definition"}),
    "installer": (
        {"commands"},
        {"install", "diagnosis"},
        {"steps", "preflight"},
        {"registry", "receipt", "runner"},
        {"model"},
        {"host", "replay"},
    ),
}
# package -> the packages of ours that it may import: bundler -> bundles <- installer
ALLOWED = {"bundles": {"bundles"}, "bundler": {"bundler", "bundles"}, "installer": {"installer", "bundles"}}
# library -> the only modules that import it
ONLY = {
    "docker": {
        "bundler/sources/docker_engine.py",
        "bundles/registry/credentials.py",
        "installer/host/docker_engine.py",
    },
    "urllib3": {
        "bundles/registry/connections.py",
        "bundles/registry/connection_errors.py",
        "bundles/registry/early_answers.py",
        "bundles/registry/error_response.py",
    },
    "packaging": {
        "installer/host/docker_cli.py",
        "installer/host/docker_engine.py",
        "installer/steps/buildx_plugin.py",
        "installer/steps/kubernetes/check.py",
    },
    "tqdm": {"bundles/runtime/progress.py"},
    "tarfile": {
        "bundler/sources/docker_save.py",
        "bundles/archive/layout.py",
        "installer/steps/toolchain_images.py",
        "installer/host/docker_engine.py",
    },
    "fcntl": {"bundles/runtime/filesystem.py"},
    "zipfile": {"bundler/writing/program.py", "installer/replay/program.py"},
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
            # `from installer import preflight` imports installer.preflight.
            alone = node.module in ALLOWED
            yield from (f"{node.module}.{alias.name}" if alone else node.module for alias in node.names)


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


def level(package: str, room: str) -> int:
    return next((number for number, rooms in enumerate(ROOMS[package]) if room in rooms), len(ROOMS[package]))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_is_below_them(path: Path) -> None:
    package, room = (*path.relative_to(ROOT).with_suffix("").parts, "")[:2]
    for module in imports(path):
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if top != package or other in ("", room):
            continue
        allowed = level(package, other) > level(package, room)
        assert allowed, f"{path.relative_to(ROOT)} ({package}/{room}) imports {module} ({package}/{other})"


def test_the_rules_name_modules_that_exist() -> None:
    assert {name for names in ONLY.values() for name in names if not (ROOT / name).exists()} == set()


def test_every_room_is_in_the_rules() -> None:
    rooms = {path.relative_to(ROOT).with_suffix("").parts[:2] for path in MODULES}
    named = {(package, room) for package, levels in ROOMS.items() for level in levels for room in level}
    assert {room for room in rooms if room[1] != "__init__"} == named


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in MODULES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_room_can_be_overlooked(folder: Path) -> None:
    assert (folder / "__init__.py").is_file(), "zipimport and the wheel need it"
    assert len(list(folder.glob("*.py"))) <= 15


def test_unit_tests_mirror_the_tree() -> None:
    unit = ROOT / "tests" / "unit"
    for path in sorted(unit.rglob("test_*.py")):
        folder = path.parent.relative_to(unit)
        assert (ROOT / folder).is_dir(), f"{path.relative_to(ROOT)} stands in no room of the product"
        assert (path.parent / "__init__.py").is_file(), f"{path.parent}: two tests of one name need it"


def test_no_test_imports_another() -> None:
    paths = [path for folder in ("unit", "e2e") for path in (ROOT / "tests" / folder).rglob("*.py")]
    for path in paths:
        for module in imports(path):
            shared = not module.rpartition(".")[2].startswith("test_") and module != "tests.conftest"
            assert shared, f"{path.relative_to(ROOT)} imports {module}; next: move what both need to tests/support"
