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
    options: tuple[str, ...] = ()
    bake: Optional[BakeTarget] = None

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def known_arguments(self) -> dict[str, str]:
        """The arguments with the values that the build gets; without those that the environment does not have."""
        values = {key: os.environ.get(key) if value is None else value for key, value in self.arguments.items()}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def label(self) -> str:
        """What people call the Dockerfile: its path from the context."""
        if self.bake and self.bake.inline is not None:
            return f"{self.bake.file}[{self.bake.target}]"
        return Path(os.path.relpath(self.dockerfile or self.context / "Dockerfile", self.context)).as_posix()

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


def name_of(text: str) -> str:
    """Return a name that a record or a build can have, after a directory's, a target's or a service's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "app"


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
