"""The architecture as a test: which package imports which, and which module alone imports what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from tests.support import windows_names

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
        {"registry", "receipt", "runner", "storage"},
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
        "installer/host/docker/engine.py",
    },
    "urllib3": {
        "bundles/registry/connections.py",
        "bundles/registry/connection_errors.py",
        "bundles/registry/early_answers.py",
        "bundles/registry/error_response.py",
    },
    "packaging": {
        "installer/host/docker/cli.py",
        "installer/host/docker/engine.py",
        "installer/steps/buildx_plugin.py",
        "installer/steps/kubernetes/check.py",
    },
    "tqdm": {"bundles/runtime/progress.py"},
    "tarfile": {
        "bundler/sources/docker_save.py",
        "bundles/archive/layout.py",
        "installer/host/docker/engine.py",
    },
    "fcntl": {"bundles/runtime/posix.py"},
    "msvcrt": {"bundles/runtime/windows.py"},
    "ctypes": {"bundles/runtime/windows.py"},
    "zipfile": {"bundler/writing/program.py", "installer/replay/program.py"},
    "tomllib": {"bundler/definition/bundle_toml.py"},
    "tomli": {"bundler/definition/bundle_toml.py"},
    "zstandard": {"bundler/sources/zstd.py"},
}
# What Windows does not have is asked for in these places alone, all but the first of which run on Linux only.
POSIX = (
    "bundles/runtime/posix.py",
    "installer/host/",
    "installer/preflight.py",
    "installer/registry/listener.py",
    "installer/replay/",
    "installer/steps/",
)


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


def only_on_posix(tree: ast.AST) -> Iterator[str]:
    """Find what a module asks of Python that it does not have on Windows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked = f"{node.value.id}.{node.attr}"
            kept = {"os": windows_names.OS, "signal": windows_names.SIGNAL}.get(node.value.id)
            lacks = kept is not None and node.attr not in kept and not node.attr.startswith("_")
            if lacks or asked == "socket.AF_UNIX":
                yield asked
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from windows_names.MISSING.intersection(names)
        if isinstance(node, ast.Attribute) and node.attr in ("st_blocks", "st_blksize", "st_rdev"):
            yield node.attr
        if isinstance(node, ast.keyword) and node.arg in ("dir_fd", "pass_fds", "preexec_fn", "start_new_session"):
            yield f"{node.arg}="


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_windows_does_not_have_is_asked_for_in_few_places(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = set(only_on_posix(ast.parse(path.read_text("utf-8"))))
    assert not found or name.startswith(POSIX), f"{name} asks for {sorted(found)}: next: bundles/runtime/system.py"


@pytest.mark.parametrize("place", POSIX)
def test_places_of_posix_are_needed(place: str) -> None:
    modules = [path for path in MODULES if path.relative_to(ROOT).as_posix().startswith(place)]
    assert any(any(only_on_posix(ast.parse(path.read_text("utf-8")))) for path in modules)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("os.geteuid()", "os.geteuid"),
        ("signal.SIGHUP", "signal.SIGHUP"),
        ("import fcntl", "fcntl"),
        ("from pwd import getpwuid", "pwd"),
        ("path.stat().st_blocks", "st_blocks"),
        ("os.stat(name, dir_fd=file)", "dir_fd="),
        ("socket.socket(socket.AF_UNIX)", "socket.AF_UNIX"),
        ("os.replace(a, b), os._exit(1), os.path.join(a, b)", None),
    ],
)
def test_what_windows_does_not_have_is_found(text: str, found: Optional[str]) -> None:
    assert list(only_on_posix(ast.parse(text))) == ([found] if found else [])


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Find the lines where a text is read or written in whatever encoding the system has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        mode = any(re.fullmatch("[rwax]t?[+]?", word) for word in words)
        opened = mode and called in ("open", "fdopen", "NamedTemporaryFile")
        if (called == "read_text" and not node.args) or (called == "write_text" and len(node.args) < 2) or opened:
            yield node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_have_an_encoding(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    lines = list(without_encoding(ast.parse(path.read_text("utf-8"))))
    assert not lines or name.startswith(POSIX), f"{name}: lines {lines} name no encoding"


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
