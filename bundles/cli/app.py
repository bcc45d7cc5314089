"""The command line: one group of commands, common options, and the one place where an error becomes an exit code.

Commands are found by name when they are called, so that `bundle --help` imports nothing it does not need, and so that
the program inside an archive, which has no `bundler`, simply has no `create`.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import importlib.util
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Optional

import click

import bundles
from bundles.cli.output import show, show_error
from bundles.errors import BundleError, DiskFullError, HostError, UsageError, reason
from bundles.runtime.program import own_command, program_name, quote
from bundles.runtime.signals import Interruption, explained
from bundles.runtime.system import system
from bundles.runtime.terminal import settle_streams

# name -> (module:object, one line of help); the line stands here so that the list of commands imports none of them.
_COMMANDS = {
    "create": ("bundler.commands.create:create", "Write an archive from registries (needs internet, no Docker)."),
    "lock": ("bundler.commands.lock:lock", "Write bundle.lock: the digest that each image stands for."),
    "record": (
        "bundler.commands.record:record",
        "Build once, and write down what the network gave.",
    ),
    "install": ("installer.commands.install:install", "Turn an archive into a registry and a builder on this host."),
    "push": ("installer.commands.push:push", "Push what is in an archive to a registry of the site."),
    "join": ("installer.commands.join:join", "Make this host a builder on a registry that another host fills."),
    "node": ("installer.commands.node:node", "Give the builder here other machines, reached over ssh."),
    "want": ("installer.commands.want:want", "Write down what this host's registry holds, for a delta."),
    "upgrade": ("installer.commands.upgrade:upgrade", "Install a newer archive over what is installed here."),
    "check": ("installer.commands.check:check", "Would these Dockerfiles build here? Names what is missing."),
    "status": ("installer.commands.status:status", "Show what is installed on this host, and whether it is healthy."),
    "doctor": ("installer.commands.doctor:doctor", "Find what is wrong on this host, and fix it."),
    "prune": ("installer.commands.prune:prune", "Remove images that the installed bundle no longer lists."),
    "uninstall": ("installer.commands.uninstall:uninstall", "Remove from this host what installing made."),
    "verify": ("bundles.cli.inspect:verify", "Check every byte of an archive against its digest."),
    "diff": ("bundles.cli.diff:diff", "Show what changes from one bundle to another."),
    "inspect": ("bundles.cli.inspect:inspect", "Show what is inside an archive."),
    "export": ("bundles.cli.export:export", "Write images of an archive to a file, as for `docker load`."),
    "completion": ("bundles.cli.completion:completion", "Print shell completion for bash, zsh or fish."),
}
# What changes the host or asks it, and what builds with Docker beside it: an archive is installed on Linux.
_ON_LINUX = frozenset(
    name
    for name, (target, _) in _COMMANDS.items()
    if name == "record" or (target.startswith("installer.") and name != "push")
)
_SIDES = {"bundler": "With internet", "installer": "On the air-gapped host", "bundles": "On both sides"}
# A stick that was pulled, a file system that went read-only, a file that went away: no defects of this program.
_MEDIUM_ERRORS = frozenset(
    {
        errno.EIO,
        errno.EROFS,
        errno.ENODEV,
        errno.ENXIO,
        errno.ESTALE,
        errno.EACCES,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    }
)


def _check_system(name: str) -> None:
    """Refuse, on any other system, a command that is for Linux.

    Raises:
        HostError: it is one.
    """
    if name not in _ON_LINUX:
        return
    if name == "record":
        hint = "record on a Linux machine with Docker, and take the directory that it writes along: create --record DIR"
    else:
        hint = f"carry the archive to the Linux host, and run there: python3 ARCHIVE {name}"
    raise HostError(f"`{name}` runs on Linux, and this is {system.NAME}", hint=hint)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (target, _) in _COMMANDS.items() if importlib.util.find_spec(target.partition(".")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0] in _COMMANDS:
                raise UsageError(
                    f"`{args[0]}` is not in an archive: it is for the machine with internet",
                    hint=f"there: bundle {args[0]} --help",
                ) from None
            names = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            meant = f"did you mean `{names[0]}`?" if names else f"expected one of {', '.join(self.list_commands(ctx))}"
            hint = own_command(" ".join(map(quote, [names[0], *args[1:]])) if names else "--help")
            raise UsageError(f"there is no command `{args[0]}`: {meant}", hint=hint) from None
        if not (system.IS_HOST or ctx.resilient_parsing or {"-h", "--help"}.intersection(args)):
            _check_system(args[0])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for package, title in _SIDES.items():
            names = [name for name in self.list_commands(ctx) if _COMMANDS[name][0].startswith(f"{package}.")]
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, _COMMANDS[name][1]) for name in names])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(bundles.__version__, prog_name="bundle")
def bundle() -> None:
    """Carry multi-platform Docker builds across an air gap: one archive, one command on each side.

    \b
    online$   bundle create ubuntu:24.04 python:3.12-slim --platform linux/amd64,linux/arm64 -o offline.tar
    offline$  python3 offline.tar install
    """


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run the command line and exit."""
    settle_streams()
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command.

    Returns:
        the exit code: 0 done; 1 failed; 2 usage; 3 the archive is damaged or incomplete; 4 the host is not ready;
        5 network or registry; 130 interrupted.
    """
    Interruption().install()
    # The libraries underneath report what we report better ourselves.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    try:
        # What a command returns is nothing; a code comes from `ctx.exit(CODE)`: there is a result, and it is not good.
        code = bundle.main(arguments, prog_name=program_name(), standalone_mode=False)
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`bundle inspect | head`): nothing to tell it.
        _give_up_stdout()
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last line of defence: see _explained
        return _report(_explained(error), arguments)
    return int(code or 0)


def _explained(error: BaseException) -> BundleError:
    """Return any exception as one of ours; what is no user's doing is a defect, shown with what a report needs."""
    if isinstance(error, BundleError):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        # click turns the one into the other.
        return explained(str(error.__cause__ or error) or "interrupted")
    if isinstance(error, click.ClickException):
        message = " ".join(error.format_message().split())
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "bundle"
        return UsageError(message[:1].lower() + message[1:].rstrip("."), hint=f"{where} --help")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f"`{error.filename}`" if error.filename else "the output"
        return DiskFullError(f"no space left for {place}", hint="make room and run it again")
    if isinstance(error, OSError) and error.errno in _MEDIUM_ERRORS:
        place = f"`{error.filename}`" if error.filename else "the medium"
        return BundleError(
            f"{place} failed: {reason(error)}",
            hint="see whether it is still there and can be written, then run the same command again; it goes on",
        )
    show_error("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    return BundleError(f"a defect in this program: {type(error).__name__}: {error}", hint="report the lines above")


def _report(error: BundleError, arguments: list[str]) -> int:
    show_error(f"error: {error}")
    if "--json" in arguments:
        with contextlib.suppress(OSError):
            show(json.dumps({"error": error.to_json()}, indent=2))
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        # A disk that is full: Python would try it once more, and end with a code of its own.
        _give_up_stdout()
    return error.exit_code


def _give_up_stdout() -> None:
    """Have what is still to be written to stdout go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
