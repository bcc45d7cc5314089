"""A build that is to be recorded, as a value: from the command line, bundle.toml, a Bake file or a Compose file."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from bundles.archive.manifest import check_name
from bundles.errors import UsageError, reason
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command


@dataclasses.dataclass(frozen=True)
class Build:
    """One build.

    Args:
        name: among those that are recorded together.
        context: the directory.
        dockerfile: None is the one in the context.
        target: the stage; None is the last.
        arguments: `--build-arg`; None takes the value from the environment.
        platforms: to build for; none when nothing says so.
        secrets: `--secret`.
        ssh: `--ssh`.
        options: further options of `docker buildx build`.
        bake: who builds it, when that is Bake.

    Raises:
        UsageError: the name cannot be one.
    """

    name: str
    context: Path
    dockerfile: Optional[Path] = None
    target: Optional[str] = None
    arguments: Mapping[str, Optional[str]] = dataclasses.field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    bake: Optional[BakeTarget] = None

    def __post_init__(self) -> None:
        check_name(self.name)

    def with_line(self, line: CommandLine) -> Build:
        """Return the build with what the command line says of all builds."""
        return dataclasses.replace(
            self,
            arguments={**self.arguments, **line.arguments},
            platforms=line.platforms or self.platforms or line.default_platforms,
            secrets=(*self.secrets, *line.secrets),
            ssh=(*self.ssh, *line.ssh),
            bake=self.bake.with_line(line) if self.bake else None,
        )

    @property
    def known_arguments(self) -> dict[str, str]:
        """The arguments with the values that the build gets; without those that the environment does not have."""
        return _valued(self.arguments)

    @property
    def label(self) -> str:
        """What people call the Dockerfile: its path from the context."""
        if self.bake and self.bake.inline is not None:
            return f"{self.bake.file}[{self.bake.target}]"
        return Path(os.path.relpath(self.dockerfile or self.context / "Dockerfile", self.context)).as_posix()

    @property
    def file(self) -> Optional[Path]:
        """The Dockerfile's; None when it stands in the Bake or Compose file."""
        inline = self.bake is not None and self.bake.inline is not None
        return None if inline else self.dockerfile or self.context / "Dockerfile"

    def text(self) -> str:
        """Return the Dockerfile.

        Raises:
            UsageError: it cannot be read.
        """
        if self.bake and self.bake.inline is not None:
            return self.bake.inline
        path = self.dockerfile or self.context / "Dockerfile"
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = reason(error) if isinstance(error, OSError) else "it is no text in UTF-8"
            raise UsageError(f"`{path}` cannot be read: {why}") from None


@dataclasses.dataclass(frozen=True)
class BakeTarget:
    """A target of Bake.

    Args:
        target: its name in `targets`.
        targets: it and those that it takes as contexts, as a Bake file in JSON has them.
        directory: from where Bake is called.
        file: what people call the file that it is from.
        inline: the Dockerfile that stands in the file itself, when one does.
    """

    target: str
    targets: Mapping[str, Mapping[str, Any]]
    directory: Path
    file: str
    inline: Optional[str] = None

    def with_line(self, line: CommandLine) -> BakeTarget:
        """Return the target with what the command line says of all builds, and the same for those that it takes."""
        targets = {}
        for name, target in self.targets.items():
            platforms = list(map(str, line.platforms)) or target.get("platforms") or [*map(str, line.default_platforms)]
            changed = {**target, "platforms": platforms}
            for key, value in (
                ("args", {**(target.get("args") or {}), **_valued(line.arguments)}),
                ("secret", [*(target.get("secret") or ()), *line.secrets]),
                ("ssh", [*(target.get("ssh") or ()), *line.ssh]),
            ):
                if value:
                    changed[key] = value
            targets[name] = changed
        return dataclasses.replace(self, targets=targets)


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What a command line says of all builds; it wins.

    `default_platforms` are for the builds that name none.
    """

    arguments: Mapping[str, Optional[str]] = dataclasses.field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    default_platforms: tuple[Platform, ...] = ()
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()


def _valued(arguments: Mapping[str, Optional[str]]) -> dict[str, str]:
    values = {key: os.environ.get(key) if value is None else value for key, value in arguments.items()}
    return {key: value for key, value in values.items() if value is not None}


def name_of(text: str) -> str:
    """Return a name that a record or a build can have, after a directory's, a target's or a service's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "app"


def not_here(context: object) -> UsageError:
    """Return the error for a build whose context is no directory of this machine."""
    return UsageError(
        f"`{context}` is not a directory here: a build from elsewhere is not recorded",
        hint=f"fetch it, and name the directory that has the Dockerfile: {own_command('record')} app/",
    )


def unique(builds: list[Build], hint: str) -> tuple[Build, ...]:
    """Return the builds.

    Raises:
        UsageError: two have the same name.
    """
    names = [build.name for build in builds]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two builds are called `{name}`", hint=hint)
    return tuple(builds)
