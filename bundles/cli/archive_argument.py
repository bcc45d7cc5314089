"""The archive that a command is given, and the options that say where the rest of it is and whom to trust."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from bundles.archive.reader import Archive
from bundles.archive.signature import Signers
from bundles.errors import UsageError
from bundles.runtime.program import own_command, running_archive

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class ArchiveArgument:
    """What the command line says of the archive: any of its parts, further directories of parts, trusted signers."""

    path: Path
    directories: tuple[Path, ...] = ()
    signers: Optional[Signers] = None

    def open(self) -> Archive:
        """Open the archive.

        Raises:
            ArchiveError: it cannot be used, or is not signed by whom it must be.
            HostError: signatures cannot be checked on this machine.
        """
        return Archive(self.path, self.directories, self.signers)


def archive_argument(*, signers: bool) -> Callable[[_F], Callable[..., Any]]:
    """Add ARCHIVE, --parts and, with `signers`, --allowed-signers and --signer; it gets one ArchiveArgument.

    ARCHIVE may be left out when the archive itself is running.
    """

    def decorate(function: _F) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(
            *args: Any,
            archive: Path,
            parts: tuple[Path, ...],
            allowed_signers: Optional[Path] = None,
            signer: Optional[str] = None,
            **kwargs: Any,
        ) -> Any:
            if signer and not allowed_signers:
                raise UsageError("--signer needs --allowed-signers", hint="--allowed-signers FILE --signer IDENTITY")
            trusted = Signers(allowed_signers, signer) if allowed_signers else None
            return function(*args, archive=ArchiveArgument(archive, parts, trusted), **kwargs)

        wrapped: Callable[..., Any] = command
        if signers:
            wrapped = click.option("--signer", metavar="IDENTITY", help="It must be signed by this one of them.")(
                wrapped
            )
            wrapped = click.option(
                "--allowed-signers", metavar="FILE", type=_PATH, help="Refuse an archive not signed by one of these."
            )(wrapped)
        help_text = "Look for parts of a split archive there too. May be given several times."
        wrapped = click.option("--parts", metavar="DIR", multiple=True, type=_PATH, help=help_text)(wrapped)
        return click.argument("archive", required=False, type=_PATH, callback=_archive_or_self)(wrapped)

    return decorate


def archive_before(
    archive: ArchiveArgument, value: Optional[str], what: str, command: str, form: str
) -> tuple[ArchiveArgument, str]:
    """Tell the archive from what follows it: of one argument alone, given to an archive that runs, it is the latter.

    Args:
        archive: the first argument.
        value: the second one, None when it is missing.
        what: the second one is, for people.
        command: that is called, as in `push ARCHIVE HOST`.
        form: of the second one there.

    Raises:
        UsageError: it is missing.
    """
    if value is not None:
        return archive, value
    running = running_archive()
    if running is None or archive.path == running:
        raise UsageError(f"{what} is missing", hint=own_command(f"{command} {'' if running else 'ARCHIVE '}{form}"))
    return dataclasses.replace(archive, path=running), str(archive.path)


def _archive_or_self(ctx: click.Context, parameter: click.Parameter, value: Optional[Path]) -> Path:
    path = value or running_archive()
    if path is None:
        raise click.MissingParameter(ctx=ctx, param=parameter, param_hint="ARCHIVE", param_type="argument")
    return path
