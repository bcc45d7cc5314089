"""Signals that are held back come afterwards, once, and to the handler that was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles.runtime.signals import held
from tests.support import ROOT


@pytest.fixture
def handler() -> Iterator[list[int]]:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end(handler: list[int]) -> None:
    with held():
        os.kill(os.getpid(), signal.SIGTERM)
        assert handler == []
    assert handler == [signal.SIGTERM]
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM] * 2


def test_ctrl_c_is_still_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), held():
        os.kill(os.getpid(), signal.SIGINT)


def test_an_error_inside_is_passed_on_and_handlers_are_back(handler: list[int]) -> None:
    with pytest.raises(ValueError, match="mine"), held():
        raise ValueError("mine")
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM]


def test_other_threads_are_left_alone() -> None:
    found = []

    def work() -> None:
        with held():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


_SLOW_TO_END = """
import sys, time
from bundles.runtime.signals import Interruption
Interruption().install()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt as error:
    print(error, flush=True)
    time.sleep(60)
"""


# What tells the time is a file: where the machine is busy, signals that are sent at once come far apart.
_CLOCK = """
import pathlib, types
from bundles.runtime import signals
signals.time = types.SimpleNamespace(monotonic=lambda: float(pathlib.Path("clock").readlink().name))
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_again_does_not_wait(tmp_path: Path, second: signal.Signals) -> None:
    clock = tmp_path / "clock"
    clock.symlink_to("7.0")
    command = [sys.executable, "-c", _CLOCK + _SLOW_TO_END]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        # A key that bounces ends nothing at once.
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        (tmp_path / "later").symlink_to("7.6")
        (tmp_path / "later").replace(clock)
        process.send_signal(second)
        said = process.communicate(timeout=20)
    assert (process.returncode, said[1].splitlines()) == (
        130,
        ["error: interrupted twice, ended at once", "  next: run the same command again; it goes on"],
    )


def test_a_background_job_goes_on_ignoring_ctrl_c() -> None:
    script = _SLOW_TO_END.replace("time.sleep(60)", "import signal; print(signal.getsignal(2) == signal.SIG_IGN)", 1)
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$0\" -c \"$1\"", sys.executable, script],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "ready\nTrue\n"


def test_ctrl_c_while_the_program_is_still_being_read(tmp_path: Path) -> None:
    """It ends by the signal, silently."""
    # The last module that the command line imports waits, as a slow medium would have it do.
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "__init__.py").write_text("import time\nprint('reading', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    # A shell's background job, as these tests may be, ignores Ctrl-C.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", heeding + "from bundles.cli.start import main; main()", "--help"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (-signal.SIGINT, "")
