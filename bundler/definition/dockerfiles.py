"""Where to look for images: Dockerfiles, directories of them, Compose files and Bake files.

Dockerfiles are read here (bundles/dockerfile/). What a Compose or Bake file means is for the tool it is written for to
say: `docker compose config` and `docker buildx bake --print` are asked, where they exist.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.dockerfile.images import BuildSettings, Use, uses
from bundles.errors import UsageError, reason
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

# The names that `docker compose` and `docker buildx bake` look for themselves.
_COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_BAKE = ("docker-bake.hcl", "docker-bake.json")
_SKIPPED = frozenset({"node_modules", "__pycache__"})
_TIMEOUT = 120
_MAX_SIZE = 4 << 20


@dataclasses.dataclass(frozen=True)
class Scan:
    """What was found: every use of an image, and what a user should know of the search."""

    uses: tuple[Use, ...]
    notes: tuple[str, ...]


def scan(paths: Sequence[Path], settings: BuildSettings) -> Scan:
    """Look through files and directories.

    Raises:
        UsageError: something is not there or cannot be read, an expression cannot be resolved (with file and line), or
            the tool that a Compose or Bake file needs is missing or refuses it.
    """
    search = _Search(settings)
    for path in paths:
        search.look(path)
    return Scan(tuple(dict.fromkeys(search.found)), tuple(search.notes))


@dataclasses.dataclass(frozen=True)
class _Build:
    """One build that a Compose or Bake file describes; `inline` is a Dockerfile that stands in that file."""

    name: str
    dockerfile: Path
    inline: Optional[str]
    arguments: Mapping[str, str]
    contexts: Mapping[str, str]
    platforms: Sequence[Platform]


class _Search:
    def __init__(self, settings: BuildSettings) -> None:
        self._settings = settings
        self._seen: set[Path] = set()
        self.found: list[Use] = []
        self.notes: list[str] = []

    def look(self, path: Path) -> None:
        if path.is_dir():
            self._directory(path)
        elif path.suffix in (".hcl", ".json"):
            self._bake(path)
        elif path.suffix in (".yaml", ".yml"):
            self._compose(path)
        else:
            self._dockerfile(path, str(path), self._settings)

    def _directory(self, directory: Path) -> None:
        """Look below a directory; Dockerfiles that a Compose or Bake file builds are read as it builds them."""
        files = sorted(_files(directory))
        before = len(self.found), len(self._seen)
        for names, look, what in ((_BAKE, self._bake, "docker buildx"), (_COMPOSE, self._compose, "docker compose")):
            for file in (file for file in files if file.name in names):
                try:
                    look(file)
                except _MissingTool:
                    self.notes.append(
                        f"{file} was not looked at: `{what}` is not installed; its Dockerfiles were read by themselves"
                    )
        for file in files:
            if _is_dockerfile(file.name) and file.resolve() not in self._seen:
                self._dockerfile(file, str(file), self._settings)
        if (len(self.found), len(self._seen)) == before:
            raise UsageError(
                f"`{directory}` has nothing to look at: expected Dockerfile, Dockerfile.*, *.Dockerfile, "
                f"Containerfile, {', '.join((*_COMPOSE[:1], *_BAKE))}"
            )

    def _dockerfile(self, path: Path, name: str, settings: BuildSettings) -> None:
        self._seen.add(path.resolve())
        self.found += uses(_read(path), name, settings)

    def _builds(self, file: Path, builds: Iterable[_Build]) -> None:
        for build in builds:
            settings = dataclasses.replace(
                self._settings,
                targets=_common(build.platforms, self._settings.targets),
                arguments={**build.arguments, **self._settings.arguments},
                contexts=build.contexts,
            )
            if build.inline is not None:
                self.found += uses(build.inline, f"{file}[{build.name}]", settings)
            else:
                self._dockerfile(build.dockerfile, _relative(build.dockerfile), settings)

    def _bake(self, file: Path) -> None:
        """Read a Bake file: every target that it has, or where buildx is too old to list those, its default ones."""
        tool = _tool("buildx")
        command = [*tool, "bake", "--file", file.name, "--print"]
        document = _ask([*command, "*"], file, quiet=True) or _ask(command, file)
        targets = document.get("target") or {}
        try:
            self._builds(file, [_bake_build(file, name, target) for name, target in sorted(targets.items())])
        except (AttributeError, TypeError) as error:
            raise UsageError(f"`{file}`: docker buildx bake printed something unexpected ({error})") from None

    def _compose(self, file: Path) -> None:
        """Read a Compose file: what its services build, and the images of those that build nothing."""
        command = [*_tool("compose"), "--file", file.name, "--profile", "*", "config", "--format", "json"]
        services = (_ask(command, file)).get("services") or {}
        try:
            builds = [
                _compose_build(file, name, service["build"], service)
                for name, service in sorted(services.items())
                if service.get("build")
            ]
            self._builds(file, builds)
            built = {service.get("image") for service in services.values() if service.get("build")}
            for name, service in sorted(services.items()):
                if service.get("image") and service["image"] not in built:
                    self._service(file, name, service)
        except (AttributeError, TypeError, KeyError) as error:
            raise UsageError(f"`{file}`: docker compose config printed something unexpected ({error})") from None

    def _service(self, file: Path, name: str, service: Mapping[str, Any]) -> None:
        where = f"{file}[{name}]"
        try:
            reference = Reference.parse(service["image"])
            own = [Platform.parse(service["platform"])] if service.get("platform") else []
        except UsageError as error:
            raise UsageError(f"`{where}`: {error.message}", hint=error.hint) from None
        self.found += [Use(reference, each, where, "image") for each in _common(own, self._settings.targets)]


def _bake_build(file: Path, name: str, target: Mapping[str, Any]) -> _Build:
    return _Build(
        name=name,
        # Bake reads a context relative to where it is called, which is the directory of its file here.
        dockerfile=_local(file, name, file.parent, target.get("context") or ".", target.get("dockerfile")),
        inline=target.get("dockerfile-inline"),
        arguments={key: value for key, value in (target.get("args") or {}).items() if value is not None},
        contexts=target.get("contexts") or {},
        platforms=_platforms(file, name, target.get("platforms")),
    )


def _compose_build(file: Path, name: str, build: Mapping[str, Any], service: Mapping[str, Any]) -> _Build:
    platforms = build.get("platforms") or ([service["platform"]] if service.get("platform") else [])
    return _Build(
        name=name,
        dockerfile=_local(file, name, file.parent, build.get("context") or ".", build.get("dockerfile")),
        inline=build.get("dockerfile_inline"),
        arguments={key: value for key, value in (build.get("args") or {}).items() if value is not None},
        contexts=build.get("additional_contexts") or {},
        platforms=_platforms(file, name, platforms),
    )


def _platforms(file: Path, name: str, platforms: Optional[Sequence[str]]) -> tuple[Platform, ...]:
    try:
        return tuple(map(Platform.parse, platforms or ()))
    except UsageError as error:
        raise UsageError(f"`{file}[{name}]`: {error.message}") from None


def _local(file: Path, name: str, base: Path, context: str, dockerfile: Optional[str]) -> Path:
    """Return the Dockerfile of a build whose context is a directory here.

    Raises:
        UsageError: the context is elsewhere.
    """
    if "://" in context or context.startswith("git@"):
        raise UsageError(
            f"`{file}[{name}]` is built from `{context}`, which is not on this machine",
            hint="fetch it, and name its Dockerfile: --dockerfile PATH",
        )
    return base / context / (dockerfile or "Dockerfile")


def _common(own: Sequence[Platform], wanted: Sequence[Platform]) -> Sequence[Platform]:
    """Return the platforms that a build names, as far as they are wanted; all wanted ones when it names none."""
    both = [platform for platform in own if platform in wanted]
    return both or own or wanted


def _files(directory: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name not in _SKIPPED)
        yield from (Path(parent) / name for name in names)


def _is_dockerfile(name: str) -> bool:
    name = name.lower()
    if name.endswith(".dockerignore"):
        return False
    return name in ("dockerfile", "containerfile") or name.startswith("dockerfile.") or name.endswith(".dockerfile")


def _relative(path: Path) -> str:
    """Shorten a path for people: relative to the working directory where it is below it."""
    normal, here = os.path.normpath(path), os.getcwd()  # noqa: PTH109  as text, for messages only
    relative = os.path.relpath(normal, here)
    return normal if relative.startswith("..") else relative


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {reason(error)}") from None
    if len(data) > _MAX_SIZE:
        raise UsageError(f"`{path}` is too large for a Dockerfile: expected at most {_MAX_SIZE >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"`{path}` is no text in UTF-8, so it is no Dockerfile") from None


class _MissingTool(UsageError):
    """The program that a file is written for is not installed."""


def _tool(name: str) -> list[str]:
    """Find out how `docker buildx` or `docker compose` is called here: as a plugin of docker, or by itself.

    Raises:
        UsageError: it is not installed.
    """
    docker = shutil.which("docker")
    if docker and _run([docker, name, "version"], Path.cwd()).returncode == 0:
        return [docker, name]
    alone = shutil.which(f"docker-{name}") or (shutil.which(name) if name == "buildx" else None)
    if alone and _run([alone, "version"], Path.cwd()).returncode == 0:
        return [alone]
    raise _MissingTool(
        f"`docker {name}`, which reads such a file, is not installed here",
        hint="install it, or name the Dockerfiles themselves: --dockerfile PATH",
    )


def _run(command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, however it ends.

    Raises:
        UsageError: it does not end.
    """
    try:
        return subprocess.run(
            command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"`{' '.join(command)}` does not end within {_TIMEOUT} seconds",
            hint="see what it does by itself, or name the Dockerfiles themselves: --dockerfile PATH",
        ) from None


def _ask(command: Sequence[str], file: Path, quiet: bool = False) -> dict[str, Any]:
    """Return the JSON object that a tool prints about a file; with `quiet` an empty one when it fails.

    Raises:
        UsageError: it fails, with its own words.
    """
    if not file.is_file():
        raise UsageError(f"`{file}` is not there")
    done = _run(command, file.parent)
    if done.returncode:
        if quiet:
            return {}
        words = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"`{file}` cannot be read by {' '.join(command)}:\n{words[-2000:]}")
    try:
        document = json.loads(done.stdout)
    except ValueError as error:
        raise UsageError(f"`{file}`: {' '.join(command)} printed no JSON ({error})") from None
    return document if isinstance(document, dict) else {}
