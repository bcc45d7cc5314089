"""Where a command says things, and the options for that which all commands have."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from bundles.errors import BundleError, UsageError, reason
from bundles.runtime.filesystem import check_ending, check_name
from bundles.runtime.progress import Progress, ProgressLog, for_stderr
from bundles.runtime.system import system
from bundles.runtime.terminal import printable

_F = TypeVar("_F", bound=Callable[..., Any])


class OutputFile(click.Path):
    """A file that a command writes; `-` is none, since results go to stdout and these are not results.

    Args:
        directory: what is written is a directory.
    """

    def __init__(self, *, directory: bool = False) -> None:
        super().__init__(path_type=Path)
        self.name = "file"
        self._directory = directory

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if str(value) == "-":
            self.fail("`-` is not a file, and stdout is not written to here: expected the name of one", param, ctx)
        if not self._directory:
            check_ending(str(value))
        return super().convert(value, param, ctx)


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a command says things: results on stdout (one JSON document with --json), the rest through `progress`."""

    json: bool
    progress: Progress

    def result(self, document: dict[str, Any], text: str) -> None:
        """Print the result, as `document` for programs or as `text` for people."""
        show(json.dumps(document, indent=2) if self.json else text)


def show(text: str) -> None:
    """Write to stdout.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    with _pipe():
        click.echo(printable(text))


def show_bytes(data: bytes) -> None:
    """Write what is not for people to stdout.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    with _pipe():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _pipe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if system.is_closed_pipe(error):
            raise BrokenPipeError(*error.args) from None
        raise


def show_error(text: str) -> None:
    """Write to stderr."""
    click.echo(printable(text), err=True)


def ask(question: str) -> bool:
    """Put a yes-or-no question to the person at the terminal."""
    return bool(click.confirm(printable(question), err=True))


def common_options(function: _F) -> Callable[..., Any]:
    """Add --json, --quiet and --log-file to a command; the function gets them as one `output: Output`."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no messages, only results and errors.")
    @click.option("--log-file", type=OutputFile(), help="Append all messages, with times, to FILE.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, quiet: bool, log_file: Optional[Path], **kwargs: Any) -> Any:
        progress = for_stderr(quiet)
        if log_file is None:
            return function(*args, output=Output(as_json, progress), **kwargs)
        check_name(log_file, "choose another --log-file")
        try:
            file = system.open_file(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            stream = os.fdopen(file, "a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UsageError(
                f"the log file `{log_file}` cannot be written: {reason(error)}", hint="choose another --log-file"
            ) from None
        with stream:
            try:
                return function(*args, output=Output(as_json, ProgressLog(progress, stream)), **kwargs)
            except (BundleError, KeyboardInterrupt) as error:
                # Logs are shown on terminals, too.
                now = datetime.datetime.now().isoformat(timespec="seconds")
                stream.write(f"{now} error: {printable(str(error))}\n")
                raise

    return command
