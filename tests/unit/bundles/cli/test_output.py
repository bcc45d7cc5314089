"""What goes to a terminal takes no orders from what an archive or a registry says."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bundles.cli import app
from bundles.cli.output import Output, ask, common_options, show, show_bytes
from bundles.errors import BundleError
from bundles.runtime.progress import Bars, Lines, ProgressLog, Silent
from bundles.runtime.terminal import one_line, printable
from tests.support import ROOT, fake_windows

# Clears the screen, sets the title, moves up, reverses what follows; and half a character.
HOSTILE = "linux/\x1b[2J\x1b]0;title\x07\x9b1A\rarm64\u202e\udc80"
SHOWN = "linux/?[2J?]0;title??1A?arm64??"


def test_what_moves_the_cursor_is_replaced_and_lines_stay() -> None:
    assert printable(f"a\n\t{HOSTILE} \u4e2d\u6587 \U0001f600") == f"a\n\t{SHOWN} \u4e2d\u6587 \U0001f600"
    assert one_line("arm64\nbuilds here") == "arm64?builds here"


def test_results_and_messages_are_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Output(False, Silent()).result({}, HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"
    Output(True, Silent()).result({"platform": HOSTILE}, "")
    text = capsys.readouterr().out
    assert json.loads(text) == {"platform": HOSTILE}
    assert "\x1b" not in text
    log = io.StringIO()
    for progress in (Lines(), Bars(), ProgressLog(Lines(), log)):
        progress.message(HOSTILE)
        with progress.step("images", HOSTILE), progress.task(HOSTILE, 10) as task:
            task.advance(1)
    shown = capsys.readouterr().err
    assert SHOWN in shown
    # tqdm itself moves the cursor, by return and up.
    for order in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert order not in shown + log.getvalue()
    assert SHOWN in log.getvalue()


def test_errors_and_questions_are_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app._report(BundleError(f"`{HOSTILE}` is wrong", hint=HOSTILE), ["verify"]) == 1
    assert capsys.readouterr().err == f"error: `{SHOWN}` is wrong\n  next: {SHOWN}\n"

    @click.command()
    def question() -> None:
        ask(f"remove {HOSTILE}?")

    assert f"remove {SHOWN}?" in CliRunner().invoke(question, input="y\n").output
    error = app._explained(ValueError(HOSTILE))
    assert error.exit_code == 1
    assert SHOWN in capsys.readouterr().err


def test_the_log_of_a_failure_is_printable(tmp_path: Path) -> None:
    @click.command()
    @common_options
    def failing(output: Output) -> None:
        raise BundleError(HOSTILE)

    result = CliRunner().invoke(failing, ["--log-file", str(tmp_path / "log")])
    assert isinstance(result.exception, BundleError)
    assert f"error: {SHOWN}" in (tmp_path / "log").read_text()


def test_a_reader_that_has_gone_ends_it_as_each_system_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.BytesIO):
        def flush(self) -> None:
            # Windows has no EPIPE here.
            if refusing:
                raise OSError(errno.EINVAL, "invalid argument")

    refusing, streams = True, []
    for expected in (OSError, BrokenPipeError):
        for write in (lambda: show("text"), lambda: show_bytes(b"bytes")):
            streams.append(io.TextIOWrapper(Gone()))
            monkeypatch.setattr("sys.stdout", streams[-1])
            with pytest.raises(OSError, match="invalid argument") as error:
                write()
            assert type(error.value) is expected
        monkeypatch.setattr("bundles.cli.output.system", fake_windows.load(monkeypatch)[0])
    refusing = False  # what is collected is flushed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("completion bash", 1, "no space left for the output\n  next: make room and run it again"),
        # What went wrong before stdout did is what is said.
        ("diff a b --json", 2, "`a` is not there\n  next: give the path of the archive that `bundle create` wrote"),
    ],
)
def test_a_stdout_that_takes_nothing_is_said_once(tmp_path: Path, arguments: str, code: int, message: str) -> None:
    program = "from bundles.cli.app import main; main()"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -c '{program}' {arguments} >/dev/full"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, f"error: {message}\n")


def test_one_place_writes_to_the_terminal() -> None:
    """Whatever else would write there would have to think of this, too."""
    root = Path(app.__file__).parents[2]
    writes = re.compile(r"(?<![\w.])(print|click\.echo|click\.confirm|tqdm\.write)\(")
    modules = [path for name in ("bundles", "bundler", "installer") for path in (root / name).rglob("*.py")]
    assert {str(path.relative_to(root)) for path in modules if writes.search(path.read_text())} == {
        "bundles/cli/output.py",
        "bundles/cli/completion.py",  # the program's own words
        "bundles/runtime/progress.py",
    }
