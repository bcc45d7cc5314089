"""The documents say what the program does."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bundles.cli.app import bundle
from tests.helptext import DOCUMENT, blocks, help_text
from tests.support import ROOT

DOCUMENTS = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
SOURCES = sorted(
    path for folder in ("bundles", "bundler", "installer", "tests", "bench") for path in (ROOT / folder).rglob("*.py")
)
# Other projects' files that are referred to are in Go, or specifications.
_PATH = re.compile(r"(?<![\w/.:-])(?:(?:[\w-]+/)+[\w-]+\.(?:py|sh)|docs/[\w-]+\.md)\b")
_MODULE = re.compile(r"-m ((?:tests|bench)(?:\.\w+)*)")
COMMANDS = bundle.list_commands(click.Context(bundle))


def test_every_command_is_described() -> None:
    assert set(blocks(DOCUMENT.read_text())) == {"", *COMMANDS}


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_help_texts_are_those_of_the_program(name: str) -> None:
    assert blocks(DOCUMENT.read_text()).get(name) == help_text(name), "next: python3 -m tests.helptext"


def test_help_is_short_enough_to_read() -> None:
    assert len(help_text("").splitlines()) <= 40


def test_the_definition_describes_every_key() -> None:
    text = (ROOT / "docs" / "definition.md").read_text()
    source = (ROOT / "bundler" / "definition" / "bundle_toml.py").read_text()
    keys = set(re.findall(r'"([a-z-]+)"', source[source.index("known = {") : source.index("for key in value:")]))
    assert len(keys) >= 10
    assert {key for key in keys if f"`{key}`" not in text} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_chinese_readme_shows_every_step_and_command_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    code = re.compile(r"^    (?:bundle|python3|docker|pipx|make) .*?(?=  +#|\s*$)", re.MULTILINE)
    assert [line.strip() for line in code.findall(chinese)] == [line.strip() for line in code.findall(english)]


def missing(text: str) -> set[str]:
    """The files and modules of ours that a text names and the tree does not have."""
    files = {path for path in _PATH.findall(text) if not (ROOT / path).is_file()}
    modules = {name for name in _MODULE.findall(text) if not _is_module(ROOT.joinpath(*name.split(".")))}
    return files | modules


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def remarks(source: str) -> Iterator[str]:
    """The comments and docstrings of a module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


def test_a_path_that_is_nowhere_is_noticed() -> None:
    text = "see `bundles/errors.py`, bundles/nowhere.py and `python3 -m tests.nowhere`, not https://a.example/b/c.md"
    assert missing(text) == {"bundles/nowhere.py", "tests.nowhere"}
    assert list(remarks('"""a"""\nx = 1  # b\n')) == ["# b", "a"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_exist(path: Path) -> None:
    assert missing(path.read_text()) == set()


def test_files_that_comments_and_docstrings_name_exist() -> None:
    # To look at all of a text is quicker than to find its remarks, which few then need.
    texts = {path.relative_to(ROOT).as_posix(): text for path in SOURCES if missing(text := path.read_text())}
    found = {name: missing(" ".join(remarks(text))) for name, text in texts.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in SOURCES if path.name == "__init__.py"}
    ours = {room for room in rooms if re.match(r"(bundles|bundler|installer)/", room)}
    assert {room for room in ours if f"`{room}`" not in text} == set()
