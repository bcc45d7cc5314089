"""The documents say what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from bundles.cli.app import bundle
from tests.helptext import DOCUMENT, blocks, help_text
from tests.support import ROOT

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


@pytest.mark.parametrize("path", sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_chinese_readme_shows_every_step_and_command_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    code = re.compile(r"^    (?:bundle|python3|docker|pipx|make) .*?(?=  +#|\s*$)", re.MULTILINE)
    assert [line.strip() for line in code.findall(chinese)] == [line.strip() for line in code.findall(english)]
