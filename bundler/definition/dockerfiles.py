"""Where to look for images: Dockerfiles, directories of them, Compose files and Bake files.

Dockerfiles are read here (bundles/dockerfile/). What a Compose or Bake file means is for the tool it is written for to
say: `docker compose config` and `docker buildx bake --print` are asked, where they exist.

What a user has named must be readable. What a search has found need not be what its name looks like, such as a template
of a Dockerfile: it is passed over, and that is said.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from bundler.definition.build_files import BAKE, COMPOSE, Folder, folders, overrides_beside
from bundler.definition.docker_tools import Tool, read_bake, read_compose
from bundles.dockerfile.images import BuildSettings, Use, scanner_of, uses
from bundles.errors import Problem, UsageError, reason
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.program import quote

_MAX_SIZE = 4 << 20
# As Go reads them.
_BOOLEANS = {**dict.fromkeys(("1", "t", "true"), True), **dict.fromkeys(("0", "f", "false"), False)}


@dataclasses.dataclass(frozen=True)
class Scan:
    """What was found: every use of an image, what a user should know of the search, and what was passed over."""

    uses: tuple[Use, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[Problem, ...] = ()


def scan(paths: Sequence[Path], settings: BuildSettings, exclude: Sequence[str] = ()) -> Scan:
    """Look through files and directories; `exclude` are patterns of what is passed over in directories.

    Raises:
        UsageError: what is named is not there or cannot be read, an expression in it cannot be resolved (with file and
            line), or the tool that a Compose or Bake file needs is missing or refuses it. All of these at once.
    """
    search = _Search(settings, exclude)
    for path in paths:
        search.look(path)
    if len(search.errors) == 1:
        raise search.errors[0][1]
    if search.errors:
        problems = [error.as_problem(subject) for subject, error in search.errors]
        raise UsageError(f"{len(problems)} things that were named cannot be looked through", problems=problems)
    return Scan(tuple(dict.fromkeys(search.found)), tuple(search.notes), tuple(search.skipped))


@dataclasses.dataclass(frozen=True)
class _Build:
    """One build that a Compose or Bake file describes; `inline` is a Dockerfile that stands in that file.

    `scanner` is what makes its SBOM, None when it has none.
    """

    name: str
    dockerfile: Path
    inline: Optional[str]
    arguments: Mapping[str, str]
    contexts: Mapping[str, str]
    platforms: Sequence[Platform]
    scanner: Optional[str]


class _Search:
    def __init__(self, settings: BuildSettings, exclude: Sequence[str]) -> None:
        self._settings, self._exclude = settings, exclude
        self._seen: set[Path] = set()
        self._readable = 0
        self._tools: dict[str, Union[Tool, UsageError]] = {}
        self._is_named = True
        self.found: list[Use] = []
        self.notes: list[str] = []
        self.errors: list[tuple[str, UsageError]] = []
        self.skipped: list[Problem] = []

    def look(self, path: Path) -> None:
        """Look at what a user has named."""
        with self._collected(path):
            if path.is_dir():
                self._directory(path)
            elif path.suffix in (".hcl", ".json"):
                self._existing(path)
                self._bake(path.parent, str(path), [path.name])
            elif path.suffix in (".yaml", ".yml"):
                self._existing(path)
                self._compose(path.parent, str(path), [path.name])
            else:
                self._dockerfile(path, str(path), self._settings)

    @contextlib.contextmanager
    def _collected(self, subject: Union[Path, str]) -> Iterator[None]:
        """Note what is wrong with `subject` and go on: as an error when it was named, else as what is passed over."""
        try:
            yield
        except UsageError as error:
            if self._is_named:
                self.errors.append((str(subject), error))
            else:
                self.skipped.append(error.as_problem(str(subject)))

    def _existing(self, file: Path) -> None:
        if not file.is_file():
            raise UsageError(f"`{file}` is not there")
        beside = [str(path) for path in overrides_beside(file)]
        if beside:
            self.notes.append(
                f"{', '.join(beside)} was not read, since {file} was named alone; "
                f"--dockerfile {quote(file.parent)} reads both, as without --file"
            )

    def _directory(self, directory: Path) -> None:
        """Look below a directory; Dockerfiles that a Compose or Bake file builds are read as it builds them."""
        before = len(self.found) + self._readable, len(self.skipped)
        self._is_named = False
        try:
            found = list(folders(directory, self._exclude))
            for folder in found:
                self._folder(folder)
            for path in (path for folder in found for path in folder.dockerfiles):
                if path.resolve() not in self._seen:
                    with self._collected(path):
                        self._dockerfile(path, str(path), self._settings)
        finally:
            self._is_named = True
        if len(self.found) + self._readable > before[0]:
            return
        problems = self.skipped[before[1] :]
        if problems:
            raise UsageError(f"nothing in `{directory}` can be looked through", problems=problems)
        raise UsageError(
            f"`{directory}` has nothing to look at: expected Dockerfile, Dockerfile.*, *.Dockerfile, "
            f"Containerfile, {', '.join((*COMPOSE[:1], *BAKE))}"
        )

    def _folder(self, folder: Folder) -> None:
        """Ask Bake and Compose what they read in a directory, as they do there by themselves."""
        bake, compose = folder.bake(os.environ), folder.compose(os.environ)
        for files, look, first in ((bake, self._bake, BAKE), (compose, self._compose, COMPOSE)):
            if files is not None:
                own = [name for name in files if name in first] or files or ["."]
                label = str(folder.path / own[0])
                with self._collected(label):
                    look(folder.path, label, files, folder.is_named)
        for path in folder.passed_over(bake, compose):
            self.notes.append(f"{path} was not looked at: no tool reads it by itself; --dockerfile {quote(path)} does")

    def _dockerfile(self, path: Path, name: str, settings: BuildSettings) -> None:
        self._seen.add(path.resolve())
        self.found += uses(_read(path), name, settings)
        self._readable += 1

    def _build(self, label: str, build: _Build) -> None:
        where = f"{label}[{build.name}]"
        settings = dataclasses.replace(
            self._settings,
            targets=_common(build.platforms, self._settings.targets),
            arguments={**build.arguments, **self._settings.arguments},
            contexts=build.contexts,
        )
        if build.scanner:
            try:
                reference = Reference.parse(build.scanner)
            except UsageError as error:
                raise UsageError(f"`{where}`: {error.message}", hint=error.hint) from None
            self.found += [Use(reference, each, where, "attest") for each in self._settings.builders]
        if build.inline is not None:
            self.found += uses(build.inline, where, settings)
        else:
            self._dockerfile(build.dockerfile, _relative(build.dockerfile), settings)

    def _tool(self, name: str) -> Tool:
        """Find a tool, once for all the files that it reads."""
        if name not in self._tools:
            try:
                self._tools[name] = Tool.find(name)
            except UsageError as error:
                self._tools[name] = error
        found = self._tools[name]
        if isinstance(found, UsageError):
            raise found
        return found

    def _bake(self, directory: Path, label: str, files: Sequence[str], is_named: bool = True) -> None:
        """Read Bake files."""
        tool = self._tool("buildx")
        environment = _environment(is_named)
        others = [name for name in files if name not in COMPOSE]
        try:
            document = read_bake(tool, directory, files, environment)
        except UsageError:
            if others in ([], list(files)):
                raise
            # What running needs stops Bake, too: a Compose file without its env_file.
            document = read_bake(tool, directory, others, environment)
            self.notes.append(f"{label} was read without the Compose file beside it, with which buildx refuses it")
        targets = document.get("target") or {}
        try:
            for name, target in sorted(targets.items()):
                with self._collected(f"{label}[{name}]"):
                    self._build(label, _bake_build(directory, label, name, target))
        except (AttributeError, TypeError) as error:
            raise UsageError(f"`{label}`: docker buildx bake printed something unexpected ({error})") from None

    def _compose(self, directory: Path, label: str, files: Sequence[str], is_named: bool = True) -> None:
        """Read Compose files: what their services build, and the images of those that build nothing."""
        document = read_compose(self._tool("compose"), directory, files, _environment(is_named))
        services = document.get("services") or {}
        try:
            for name, service in sorted(services.items()):
                if service.get("build"):
                    with self._collected(f"{label}[{name}]"):
                        self._build(label, _compose_build(directory, label, name, service))
            built = {service.get("image") for service in services.values() if service.get("build")}
            for name, service in sorted(services.items()):
                for image in dict.fromkeys(_service_images(service)):
                    if image not in built:
                        with self._collected(f"{label}[{name}]"):
                            self._service(label, name, image, service.get("platform"))
        except (AttributeError, TypeError, KeyError) as error:
            raise UsageError(f"`{label}`: docker compose config printed something unexpected ({error})") from None

    def _service(self, label: str, name: str, image: str, platform: Optional[str]) -> None:
        where = f"{label}[{name}]"
        try:
            reference = Reference.parse(image)
            own = [Platform.parse(platform)] if platform else []
        except UsageError as error:
            raise UsageError(f"`{where}`: {error.message}", hint=error.hint) from None
        self.found += [Use(reference, each, where, "image") for each in _common(own, self._settings.targets)]


def _environment(is_named: bool) -> dict[str, str]:
    """Return the environment for a tool: which files it is to read was said of the directory that was named."""
    environment = dict(os.environ)
    if not is_named:
        for name in ("COMPOSE_FILE", "BUILDX_BAKE_FILE"):
            environment.pop(name, None)
    return environment


def _bake_build(directory: Path, label: str, name: str, target: Mapping[str, Any]) -> _Build:
    inline = target.get("dockerfile-inline")
    return _Build(
        name=name,
        # Bake reads a context relative to where it is called, which is the directory of its file here.
        dockerfile=_local(label, name, directory, target, inline),
        inline=inline,
        arguments={key: value for key, value in (target.get("args") or {}).items() if value is not None},
        contexts=target.get("contexts") or {},
        platforms=_platforms(label, name, target.get("platforms")),
        scanner=_scanner(target.get("attest") or ()),
    )


def _compose_build(directory: Path, label: str, name: str, service: Mapping[str, Any]) -> _Build:
    build = service["build"]
    inline = build.get("dockerfile_inline")
    platforms = build.get("platforms") or ([service["platform"]] if service.get("platform") else [])
    sbom = str(build.get("sbom") or "false")
    if sbom.lower() in _BOOLEANS:
        sbom = f"disabled={not _BOOLEANS[sbom.lower()]}"
    return _Build(
        name=name,
        dockerfile=_local(label, name, directory, build, inline),
        inline=inline,
        arguments={key: value for key, value in (build.get("args") or {}).items() if value is not None},
        contexts=build.get("additional_contexts") or {},
        platforms=_platforms(label, name, platforms),
        scanner=_scanner([f"type=sbom,{sbom}"]),
    )


def _service_images(service: Mapping[str, Any]) -> Iterator[str]:
    """List the images that a service is made of: its own, those that it mounts, those that prepare it."""
    images = [service.get("image")]
    images += [volume.get("source") for volume in service.get("volumes") or () if volume.get("type") == "image"]
    images += [hook.get("image") for hook in service.get("pre_start") or ()]
    yield from (image for image in images if image)


def _scanner(attestations: Iterable[Union[str, Mapping[str, Any]]]) -> Optional[str]:
    """Return what makes the SBOM that a build asks for, None when it asks for none; the first of several counts."""
    for item in attestations:
        text = item if isinstance(item, str) else ",".join(f"{key}={value}" for key, value in item.items())
        fields = dict(field.partition("=")[::2] for field in next(csv.reader([text]), []))
        if fields.get("type") == "sbom":
            return None if _BOOLEANS.get(fields.get("disabled", "").lower()) else scanner_of(text)
    return None


def _platforms(label: str, name: str, platforms: Optional[Sequence[str]]) -> tuple[Platform, ...]:
    try:
        return tuple(map(Platform.parse, platforms or ()))
    except UsageError as error:
        raise UsageError(f"`{label}[{name}]`: {error.message}") from None


def _local(label: str, name: str, base: Path, build: Mapping[str, Any], inline: Optional[str]) -> Path:
    """Return the Dockerfile of a build whose context is a directory here; of one with its own the context may be away.

    Raises:
        UsageError: the context is elsewhere.
    """
    context = build.get("context") or "."
    if inline is None and ("://" in context or context.startswith("git@")):
        raise UsageError(
            f"`{label}[{name}]` is built from `{context}`, which is not on this machine",
            hint="fetch it, and name its Dockerfile: --dockerfile PATH",
        )
    return base / context / (build.get("dockerfile") or "Dockerfile")


def _common(own: Sequence[Platform], wanted: Sequence[Platform]) -> Sequence[Platform]:
    """Return the platforms that a build names, as far as they are wanted; all wanted ones when it names none."""
    both = [platform for platform in own if platform in wanted]
    return both or own or wanted


def _relative(path: Path) -> str:
    """Shorten a path for people: relative to the working directory where it is below it."""
    normal, here = os.path.normpath(path), os.getcwd()  # noqa: PTH109  as text, for messages only
    try:
        relative = os.path.relpath(normal, here)
    except ValueError:  # on another drive
        return normal
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
