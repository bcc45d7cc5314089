"""Which images a Dockerfile needs, for which platforms, and on which line.

Follows BuildKit (frontend/dockerfile: parser, instructions, dockerfile2llb): parser directives, line continuations,
heredocs, ARG before the first FROM, stages, `COPY --from`, `RUN --mount=from`, named contexts. All stages count, also
those that the last one does not need: `docker build --target` may ask for them. ONBUILD counts where a later stage
stands on that one; what a base image's own ONBUILD wants cannot be seen from a Dockerfile.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from bundles.dockerfile.expansion import Expansion
from bundles.dockerfile.parser import Instruction, error_at, parse, syntax
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

_STAGE = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)
# BuildKit refuses them after ONBUILD (frontend/dockerfile/instructions/parse.go, parseOnBuild).
_NO_TRIGGERS = frozenset({"FROM", "ONBUILD", "MAINTAINER"})
_SCRATCH = "scratch"
_CONTEXT_IMAGE = "docker-image://"
# What makes an SBOM when none is named (frontend/attestations/parse.go).
DEFAULT_SCANNER = "docker/buildkit-syft-scanner:stable-1"
_SBOM_ARGUMENT = "BUILDKIT_ATTEST_SBOM"


@dataclasses.dataclass(frozen=True)
class Use:
    """A place that needs an image for a platform.

    `where` is `file:line`. `how` is `FROM`, `COPY --from`, `RUN --mount`, `# syntax`, or `attest` for what makes an
    SBOM. `empty` are the variables in it that are declared without a value and were taken as empty, as `docker build`
    does.
    """

    reference: Reference
    platform: Platform
    where: str
    how: str
    empty: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What a build is called with.

    Args:
        targets: the platforms that are built for (`--platform`).
        builders: the platforms of the machines that build: BUILDPLATFORM.
        arguments: `--build-arg`.
        contexts: `--build-context`: name to `docker-image://IMAGE`, or to something that is no image.
    """

    targets: Sequence[Platform]
    builders: Sequence[Platform]
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    contexts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def uses(text: str, name: str, settings: BuildSettings) -> list[Use]:
    """Find every use of an image in a Dockerfile, in its order, for all of the platforms; each once.

    Args:
        text: the Dockerfile.
        name: what messages call it.
        settings: what it is built with.

    Raises:
        UsageError: it is no Dockerfile, or an expression in it cannot be resolved; the message has name and line.
    """
    text = text[1:] if text.startswith("\ufeff") else text
    instructions, escape = parse(text, name)
    found: dict[Use, None] = {}
    for builder in settings.builders:
        frontend = _frontend(text, name, settings, builder)
        if frontend:
            found[frontend] = None
        if _SBOM_ARGUMENT in settings.arguments:
            found[_attest(settings.arguments[_SBOM_ARGUMENT], name, builder)] = None
    for target in settings.targets:
        for builder in settings.builders:
            build = _Build(instructions, escape, name, settings, target=target, builder=builder)
            found.update(dict.fromkeys(build.uses()))
    return sorted(found, key=lambda use: int(use.where.rpartition(":")[2]))


def _frontend(text: str, name: str, settings: BuildSettings, builder: Platform) -> Optional[Use]:
    """Find the image that `# syntax=` names, or the build argument BUILDKIT_SYNTAX in its stead."""
    line, image = syntax(text) or (1, "")
    image = settings.arguments.get("BUILDKIT_SYNTAX") or image
    if not image:
        return None
    try:
        return Use(Reference.parse(image), builder, f"{name}:{line}", "# syntax")
    except UsageError as error:
        raise error_at(name, line, error.message) from None


def scanner_of(text: str) -> str:
    """Return the image that makes an SBOM, from what `--attest` or `--sbom` was given: `generator=IMAGE`, or none."""
    fields = (field.partition("=") for field in next(csv.reader([text]), []))
    return next((value for key, _, value in fields if key == "generator" and value), DEFAULT_SCANNER)


def _attest(text: str, name: str, builder: Platform) -> Use:
    """Return the use of what makes an SBOM, which the build argument BUILDKIT_ATTEST_SBOM asks for."""
    try:
        return Use(Reference.parse(scanner_of(text)), builder, f"{name}:1", "attest")
    except UsageError as error:
        raise UsageError(f"`{_SBOM_ARGUMENT}={text}`: {error.message}", hint=error.hint) from None


def platform_arguments(target: Platform, builder: Platform, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that BuildKit sets by itself; a build argument of that name wins."""
    values = {"TARGETSTAGE": "default"}
    for prefix, platform in (("BUILD", builder), ("TARGET", target)):
        values.update(
            {
                f"{prefix}PLATFORM": str(platform),
                f"{prefix}OS": platform.os,
                f"{prefix}OSVERSION": "",
                f"{prefix}ARCH": platform.architecture,
                f"{prefix}VARIANT": platform.variant,
            }
        )
    return {key: given.get(key, value) for key, value in values.items()}


class _Build:
    """One build: a Dockerfile for one target platform on one builder."""

    def __init__(
        self,
        instructions: Sequence[Instruction],
        escape: str,
        name: str,
        settings: BuildSettings,
        *,
        target: Platform,
        builder: Platform,
    ) -> None:
        self._instructions, self._escape, self._name = instructions, escape, name
        self._settings, self._target = settings, target
        self._values = platform_arguments(target, builder, settings.arguments)
        self._declared: set[str] = set()
        self._broken: dict[str, UsageError] = {}
        self._stages: list[str] = []
        self._triggers: list[list[Instruction]] = []
        # All of them, those of later stages too: `COPY --from` never takes a stage's name for an image.
        froms = (item.rest.split() for item in instructions if item.keyword == "FROM")
        self._names = {words[2].lower() for words in froms if len(words) == 3}

    def uses(self) -> Iterator[Use]:
        for instruction in self._instructions:
            try:
                yield from self._uses_of(instruction)
            except UsageError as error:
                raise error_at(self._name, instruction.line, error.message, error.hint) from None
        if not self._stages:
            raise UsageError(f"`{self._name}` has no FROM: it is no Dockerfile")

    def _uses_of(self, instruction: Instruction) -> Iterator[Use]:
        if instruction.keyword == "FROM":
            yield from self._from(instruction)
        elif not self._stages:
            if instruction.keyword != "ARG":
                raise UsageError(f"`{instruction.keyword[:40]}` stands before the first FROM: expected ARG or FROM")
            self._declare(instruction)
        elif instruction.keyword == "ONBUILD":
            trigger = instruction.trigger(self._escape)
            if trigger.keyword in _NO_TRIGGERS:
                raise UsageError(f"`{trigger.keyword}` cannot be what ONBUILD triggers")
            self._triggers[-1].append(trigger)
        elif instruction.keyword == "COPY":
            for source in instruction.values("from"):
                yield from self._source(source, "COPY --from", instruction)
        elif instruction.keyword == "RUN":
            for mount in instruction.values("mount"):
                fields = (field.partition("=") for field in next(csv.reader([mount]), []))
                for source in (value for key, _, value in fields if key.lower() == "from"):
                    yield from self._source(source, "RUN --mount", instruction)

    def _declare(self, instruction: Instruction) -> None:
        """Take an ARG before the first FROM: its value is from outside, else its default, else there is none."""
        for word in instruction.words(self._escape):
            key, equals, default = word.partition("=")
            self._declared.add(key)
            if key in self._settings.arguments:
                self._values[key] = self._settings.arguments[key]
            elif equals:
                expansion = Expansion(default, self._values, self._escape)
                self._values[key] = expansion.text
                try:
                    self._check(default, expansion)
                except UsageError as error:
                    # Only an error when an image depends on it: most arguments are for what is inside the stages.
                    self._broken[key] = UsageError(f"{error.message} (line {instruction.line})", hint=error.hint)

    def _from(self, instruction: Instruction) -> Iterator[Use]:
        words = instruction.rest.split()
        stage = ""
        if len(words) == 3 and words[1].lower() == "as":
            stage = words[2].lower()
            if not _STAGE.fullmatch(stage):
                raise UsageError(f"`{words[2]}` cannot be the name of a stage")
        elif len(words) != 1:
            raise UsageError(f"`FROM {instruction.rest[:100]}`: expected FROM IMAGE [AS NAME]")
        base, empty = self._expand(words[0])
        platform = self._target
        for text in instruction.values("platform"):
            value, unset = self._expand(text)
            if not value:
                raise UsageError(f"the platform `{text}` is empty", hint=_give(unset))
            platform = Platform.parse(value)
        if stage in self._settings.contexts:
            yield from self._image(stage, platform, "FROM", instruction)
        elif base and base in self._stages:
            # The last of that name, should there be several.
            number = len(self._stages) - 1 - self._stages[::-1].index(base)
            for trigger in self._triggers[number]:
                yield from self._uses_of(trigger)
        elif base:
            yield from self._image(base, platform, "FROM", instruction, empty)
        else:
            raise UsageError(f"the image `{words[0]}` is empty", hint=_give(empty))
        self._stages.append(stage)
        self._triggers.append([])

    def _source(self, source: str, how: str, instruction: Instruction) -> Iterator[Use]:
        """Find where COPY or a mount takes its files from: a stage, by name or for COPY by number, or an image."""
        if "$" in source[:-1]:
            raise UsageError(
                f"`{source}`: BuildKit expands no variables in {how}",
                hint=f"name a stage before: FROM {source} AS files, then {how}=files",
            )
        if how == "COPY --from" and source.isdigit():
            if int(source) >= len(self._stages):
                raise UsageError(f"there is no stage number {source} before this line")
        elif source and source.lower() not in self._names:
            yield from self._image(source, self._target, how, instruction)

    def _image(
        self, text: str, platform: Platform, how: str, instruction: Instruction, empty: Sequence[str] = ()
    ) -> Iterator[Use]:
        context = self._settings.contexts.get(text, self._settings.contexts.get(text.removesuffix(":latest")))
        if context is not None:
            if not context.startswith(_CONTEXT_IMAGE):
                return
            text = context[len(_CONTEXT_IMAGE) :]
        if text == _SCRATCH:
            return
        try:
            reference = Reference.parse(text)
        except UsageError as error:
            if not empty:
                raise
            message = f"{error.message}; {', '.join(f'`{name}`' for name in empty)} has no value"
            raise UsageError(message, hint=_give(empty)) from None
        yield Use(reference, platform, f"{self._name}:{instruction.line}", how, tuple(empty))

    def _expand(self, word: str) -> tuple[str, list[str]]:
        """Expand the variables of a word, and name those of them that are declared and have no value."""
        expansion = Expansion(word, self._values, self._escape)
        self._check(word, expansion)
        return expansion.text, sorted(expansion.unset)

    def _check(self, word: str, expansion: Expansion) -> None:
        for name in sorted(expansion.used & self._broken.keys()):
            raise self._broken[name]
        for name in sorted(expansion.unset - self._declared):
            raise UsageError(
                f"`{word}`: nothing gives `{name}` a value here",
                hint=f"declare it before the first FROM: ARG {name}=...",
            )


def _give(names: Sequence[str]) -> Optional[str]:
    return f"give it a value: {' '.join(f'--build-arg {name}=...' for name in names)}" if names else None
