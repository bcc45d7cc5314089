"""From bundle.toml, the command line and the Dockerfiles that they name to what is wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from bundler.definition.build import name_of
from bundler.definition.bundle_toml import read_definition
from bundler.definition.dockerfiles import Scan, scan
from bundler.definition.record import Record
from bundler.definition.spec import Definition, ImageRequest, Spec, combine, idle_mirrors, platforms_of
from bundles.dockerfile.images import BuildSettings, Use
from bundles.errors import Problem, UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import own_command, quote

# What runs on the host that builds, whatever is built for; everything else is what is built on.
_ROLES = {"# syntax": "frontend", "attest": "scanner"}


@dataclasses.dataclass(frozen=True)
class Defined:
    """What is wanted, and what was found in Dockerfiles on the way."""

    spec: Spec
    scan: Scan

    def messages(self) -> list[str]:
        """Tell people of each image that was found and where it came from."""
        lines = [
            f"found {found['reference']} for {', '.join(found['platforms'])} in {', '.join(found['where'])}"
            for found in self.found()
        ]
        return lines + [f"note: {note}" for note in self.notes()]

    def notes(self) -> list[str]:
        """Say what a user should know before anything is fetched."""
        skipped = [f"{problem.subject} was not looked at: {_sentence(problem)}" for problem in self.scan.skipped]
        return [*self.scan.notes, *skipped, *self._empty(), *idle_mirrors(self.spec.mirrors, self.spec.asked)]

    def skipped(self) -> list[str]:
        """Name what was found by its name and could not be looked at."""
        return [problem.subject for problem in self.scan.skipped]

    def found(self) -> list[dict[str, Any]]:
        """List each image that was found: reference, platforms, and where: `file:line (how)`."""
        groups: dict[Reference, list[Use]] = {}
        for use in self.scan.uses:
            groups.setdefault(use.reference, []).append(use)
        return [
            {
                "reference": reference.familiar,
                "platforms": list(dict.fromkeys(str(use.platform) for use in group)),
                "where": list(dict.fromkeys(f"{use.where} ({use.how})" for use in group)),
            }
            for reference, group in groups.items()
        ]

    def _empty(self) -> list[str]:
        notes = [
            f"{use.where}: `{name}` has no value and was taken as empty, as docker build does; --build-arg {name}=..."
            for use in self.scan.uses
            for name in use.empty
        ]
        return list(dict.fromkeys(notes))


def define(path: Optional[Path], line: Definition) -> Defined:
    """Read bundle.toml, where there is one, and the records, and look through the Dockerfiles.

    Raises:
        UsageError: something in them is wrong; the message says where.
    """
    file = read_definition(path) if path else Definition()
    platforms, hosts = platforms_of(file, line)
    settings = BuildSettings(platforms, hosts, {**file.build_args, **line.build_args})
    found = scan((*file.dockerfiles, *line.dockerfiles), settings, (*file.exclude, *line.exclude))
    records = [Record.read(record) for record in _records(path, file, line)]
    spec = combine(file, dataclasses.replace(line, found=_requests(found.uses)), "offline", records)
    return Defined(spec, found)


def _records(path: Optional[Path], file: Definition, line: Definition) -> Iterator[Path]:
    """Return the records that are named; for a bundle.toml with builds the one that `bundle record` makes of it.

    Raises:
        UsageError: that one is not there.
    """
    yield from dict.fromkeys((*file.records, *line.records))
    if path is None or not file.builds or file.records or line.records:
        return
    record = path.parent / f"{file.name or name_of(path.resolve().parent.name)}.record"
    if not record.exists():
        raise UsageError(
            f"`{path}` has builds, and `{record}`, where they would be recorded, is not there",
            hint=f"{own_command('record')} {quote(path)}; or name a record with --record",
        )
    yield record


def _sentence(problem: Problem) -> str:
    return f"{problem.message}; {problem.hint}" if problem.hint else problem.message


def _requests(found: tuple[Use, ...]) -> tuple[ImageRequest, ...]:
    """List each image once, with the platforms that it is used for."""
    platforms: dict[Reference, dict[Platform, None]] = {}
    roles = {use.reference: _ROLES[use.how] for use in found if use.how in _ROLES}
    for use in found:
        platforms.setdefault(use.reference, {})[use.platform] = None
    return tuple(
        ImageRequest(reference, roles.get(reference, "base"), tuple(names)) for reference, names in platforms.items()
    )
