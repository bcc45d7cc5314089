"""A next step works when it is typed: whatever the file or the command is called."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bundles.cli import app
from bundles.registry.auth import login_command
from bundles.runtime.filesystem import FAT_LIMIT
from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry

SOURCES = sorted(path for package in ("bundles", "bundler", "installer") for path in (ROOT / package).rglob("*.py"))
# What a placeholder is called that stands for a file, or for the name of one.
A_PATH = re.compile(
    r"(?<![a-z])(path|paths|parent|directory|folder|file|place|archive|argv|binary|key|socket_path)(?![a-z])"
)
COMMANDS = app.bundle.list_commands(click.Context(app.bundle))
COMMAND = [sys.executable, "-c", "from bundles.cli.app import main; main()"]


def texts_of(node: ast.AST) -> Iterator[list[ast.expr]]:
    """The texts in an expression, each as its pieces."""
    inner = {id(value) for each in ast.walk(node) if isinstance(each, ast.JoinedStr) for value in each.values}
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            yield each.values
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in inner:
            yield [each]


def next_steps(path: Path) -> Iterator[list[ast.expr]]:
    """Every text that is a next step, in pieces: hint=..., hint = ..., a problem's, or what follows `next: `."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (isinstance(node, ast.keyword) and node.arg == "hint") or (
            isinstance(node, ast.Assign) and "hint" in map(ast.unparse, node.targets)
        ):
            yield from texts_of(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("Problem", "Finding"):
            yield from (text for argument in node.args[2:3] for text in texts_of(argument))
        elif isinstance(node, ast.JoinedStr):
            begins = [number for number, each in enumerate(node.values) if "next: " in ast.unparse(each)]
            yield node.values[begins[0] :] if begins else []


def quoted_names(path: Path) -> set[str]:
    """Variables that hold what is quoted already."""
    assigned = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assign))
    return {
        name
        for node in assigned
        if "quote(" in ast.unparse(node.value)
        for target in node.targets
        for name in re.findall(r"\w+", ast.unparse(target))
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_next_steps_are_quoted(source: Path) -> None:
    good = quoted_names(source)
    for values in next_steps(source):
        for value in values:
            if isinstance(value, ast.FormattedValue):
                text = ast.unparse(value.value)
                is_good = "quote(" in text or "_command(" in text or text in good or not A_PATH.search(text)
                assert is_good, f"{source}:{value.lineno}: {{{text}}} is not quoted"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_next_steps_call_this_program_by_the_name_that_it_was_called_by(source: Path) -> None:
    """It is `python3 offline.tar` in an archive, and `offline-bundle` for some; elsewhere it is `bundle`."""
    names = "|".join(COMMANDS)
    for values in next_steps(source):
        text = "".join(value.value if isinstance(value, ast.Constant) else "{}" for value in values)
        if not re.search(r"where there is internet|run there", text):
            assert not re.search(rf"(?<!`)\bbundle ({names})\b", text), f"{source}:{values[0].lineno}: {text}"


def bundle(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)


def next_step(text: str) -> str:
    return text[text.index("next: ") + len("next: ") :].splitlines()[0]


def test_a_missing_directory_is_made_by_what_is_printed(tmp_path: Path) -> None:
    place = tmp_path / "a stick; echo $HOME" / "off'line.tar"
    done = bundle(tmp_path, "create", "debian:12", "-o", place)
    assert (done.returncode, done.stdout) == (2, "")
    subprocess.run(["sh", "-c", next_step(done.stderr)], check=True)
    assert place.parent.is_dir()


def test_the_archive_is_started_by_what_is_printed(hub: FakeRegistry, tmp_path: Path) -> None:
    options = ["--mirror", f"docker.io={hub.host}", "--platform", "linux/amd64"]
    done = bundle(tmp_path, "create", "debian:12", "-o", "my app.tar", *options)
    assert done.returncode == 0, done.stderr
    assert shlex.split(next_step(done.stdout).partition("run there: ")[2]) == ["python3", "my app.tar", "install"]
    (tmp_path / "my app.tar").write_bytes((tmp_path / "my app.tar").read_bytes()[:-1])
    cut = bundle(tmp_path, "verify", "my app.tar")
    assert cut.returncode == 3
    assert shlex.split(next_step(cut.stderr))[-2:] == ["-c", "my app.tar.sha256"]


@pytest.mark.parametrize(
    ("typed", "meant"), [("crate", "create"), ("instal", "install"), ("statuss", "status"), ("check-dockerfile", None)]
)
def test_a_mistyped_command(typed: str, meant: str, tmp_path: Path) -> None:
    done = bundle(tmp_path, typed, "my app.tar", "--plan")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no command `{typed}`" in done.stderr
    assert next_step(done.stderr) == (f"bundle {meant} 'my app.tar' --plan" if meant else "bundle --help")


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "nowhere.tar"],
        ["inspect", "nowhere.tar"],
        ["diff", "nowhere.tar", "nowhere.tar"],
        ["install", "nowhere.tar"],
        ["upgrade", "nowhere.tar"],
        ["prune", "nowhere.tar"],
        ["prune", "--plan", "nowhere.tar"],
        ["push", "nowhere.tar", "harbor.corp/team"],
        ["check", "nowhere"],
        ["record", "nowhere"],
        ["record", "nowhere.toml"],
        ["create", "--record", "nowhere", "debian:12"],
        ["create", "--cache", "./nowhere", "debian:12"],
        ["create", "-f", "nowhere.toml"],
        ["create", "--base", "nowhere.tar", "debian:12"],
        ["create", "--dockerfile", "nowhere", "debian:12"],
        ["create", "--ca", "nowhere", "debian:12"],
        ["create", "--sign", "nowhere", "debian:12", "--mirror", "docker.io=127.0.0.1:1"],
        ["lock", "-f", "nowhere.toml"],
    ],
    ids=" ".join,
)
def test_a_file_that_is_not_there_is_wrong_use(arguments: list[str], tmp_path: Path) -> None:
    done = bundle(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"`nowhere(\.tar|\.toml)?`", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["create", "debian:12", "-o", "-"], ["record", ".", "-o", "-"], ["inspect", "x.tar", "--html", "-"],
     ["want", "-o", "-"], ["inspect", "x.tar", "--log-file", "-"]],
    ids=" ".join,
)  # fmt: skip
def test_a_dash_is_no_file_to_write(arguments: list[str], tmp_path: Path) -> None:
    done = bundle(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "`-` is not a file" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["docker.io", "ghcr.io"])
@pytest.mark.parametrize("program", ["docker", "podman"])
def test_who_logs_in_is_who_is_installed(
    program: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / program).write_text("#!/bin/sh\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    named = "" if (program, host) == ("docker", "docker.io") else f" {host}"
    assert login_command(host) == f"{program} login{named}"


def test_a_login_is_made_by_hand_where_neither_docker_nor_podman_is(
    hub: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.auth, hub.users = "basic", {"anna": "secret"}
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["create", "debian:12", "--plan", "--mirror", f"docker.io={hub.host}", "--platform", "linux/amd64"]
    refused = bundle(tmp_path, *arguments)
    assert refused.returncode == 5
    login, _, rest = next_step(refused.stderr).removeprefix("put ").partition(" into ")
    place = Path(rest.partition(";")[0]).expanduser()
    assert place == tmp_path / ".docker" / "config.json"
    place.parent.mkdir()
    place.write_text(login.replace("NAME", "anna").replace("PASSWORD", "secret"))
    done = bundle(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", [[], ["--plan"]])
@pytest.mark.parametrize(("size", "said"), [("4GiB", True), (str(FAT_LIMIT + 1), True), (str(FAT_LIMIT), False)])
def test_parts_one_byte_too_large_for_fat(
    size: str, said: bool, option: list[str], hub: FakeRegistry, tmp_path: Path
) -> None:
    options = ["--mirror", f"docker.io={hub.host}", "--platform", "linux/amd64", "--split", size, *option]
    done = bundle(tmp_path, "create", "debian:12", *options)
    assert done.returncode == 0, done.stderr
    assert ("one byte too large for FAT32" in done.stderr) is said
