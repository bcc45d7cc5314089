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

from bundles.interruption import held


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


def test_ctrl_c_while_the_program_is_still_being_read(tmp_path: Path) -> None:
    """It ends by the signal, silently."""
    # The last module that the command line imports waits, as a slow medium would have it do.
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "__init__.py").write_text("import time\nprint('reading', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent.parent}"}
    # A shell's background job, as these tests may be, ignores Ctrl-C.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", heeding + "from bundles.start import main; main()", "--help"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (-signal.SIGINT, "")
