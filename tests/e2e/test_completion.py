"""Tab in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.e2e

SETUP = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(bundle completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source <(bundle completion zsh)"),
}


@pytest.fixture(scope="module")
def shells() -> None:
    from tests.testbed import apt

    apt.install(("zsh", "fish"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home, and a PATH that begins with the `bundle` of this Python."""
    program = tmp_path / "bin" / "bundle"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom bundles.cli.start import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "archive.tar").touch()
    return {
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "PS1": "$ ",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
    }


class Terminal:
    """A shell in a pseudo terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._pid, self._file = pty.fork()
        if not self._pid:
            os.chdir(environment["HOME"])
            os.execvpe(command[0], command, environment)
        self._said = ""

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was said up to a match of `pattern`."""
        deadline = time.monotonic() + 30
        while not re.search(pattern, self._said):
            ready, _, _ = select.select([self._file], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"`{pattern}` never came, but: {self._said!r}"
            self._said += os.read(self._file, 4096).decode(errors="replace")
        said, self._said = self._said, ""
        return said

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._file)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "completed"),
    [("bundle ver", "ify "), ("bundle create --insec", "ure-registry "), ("bundle verify arch", r"ive\.tar")],
)
def test_tab(shells: None, environment: dict[str, str], shell: str, typed: str, completed: str) -> None:
    command, setup = SETUP[shell]
    terminal = Terminal(command, environment)
    try:
        terminal.type(f"{setup}; echo rea''dy\n")
        terminal.wait_for("\nready|\rready")
        terminal.type(f"{typed}\t")
        terminal.wait_for(re.escape(typed) + ".*?" + completed)
    finally:
        terminal.close()


def test_fish(shells: None, environment: dict[str, str]) -> None:
    def complete(line: str) -> set[str]:
        script = f"bundle completion fish | source; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            env=environment, cwd=environment["HOME"], check=True, capture_output=True, text=True,
        )  # fmt: skip
        return {line.partition("\t")[0] for line in done.stdout.splitlines()}

    assert {"create", "verify", "inspect"} <= complete("bundle ")
    assert complete("bundle ver") == {"verify"}
    assert {"--platform", "--plan"} <= complete("bundle create --pl")
    assert "archive.tar" in complete("bundle verify ")


def test_no_other_shell(environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bundle", "completion", "tcsh"], env=environment, check=False, capture_output=True, text=True
    )
    assert (done.returncode, "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr) == (2, True)
