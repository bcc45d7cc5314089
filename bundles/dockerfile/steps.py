"""What of a Dockerfile may ask the network, as digests: whether a step was recorded, on what it stands on now.

Steps are RUN instructions, and ADD of what is elsewhere.

The text decides, and nothing else: no build argument but for which stage FROM names, no content of what is copied, no
digest of a base image.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Optional

from bundles.dockerfile.expansion import Expansion
from bundles.dockerfile.images import platform_arguments
from bundles.dockerfile.parser import Instruction, parse
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform

# What says how an image is run and not what a later step finds in it. ONBUILD counts where it is triggered.
_NOT_FOR_STEPS = frozenset(
    {"CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "STOPSIGNAL", "VOLUME"}
)


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction that may ask the network.

    Args:
        keyword: RUN or ADD.
        text: what stands behind that, its flags too, continuation lines joined.
        heredocs: the texts of its heredocs.
        line: where it begins; that of the FROM for one that ONBUILD triggers.
        step: the digest of the instruction itself.
        chain: the digest of the stage up to it, and of the stages that it takes from.
    """

    keyword: str
    text: str
    heredocs: tuple[str, ...]
    line: int
    step: Digest
    chain: Digest


def steps(
    text: str,
    name: str,
    platforms: Sequence[Platform],
    arguments: Mapping[str, str],
    target: Optional[str] = None,
) -> tuple[Step, ...]:
    """List the steps of the stages that a target needs, in the order of the Dockerfile.

    Args:
        text: the Dockerfile.
        name: what messages call it.
        platforms: that are built for; they and the arguments matter where a variable in FROM names a stage.
        arguments: `--build-arg`.
        target: a stage's name or number; None is the last stage.

    Raises:
        UsageError: it is no Dockerfile, or has no such stage; the message has the name.
    """
    instructions, escape = parse(text[1:] if text.startswith("\ufeff") else text, name)
    stages = _stages(instructions, escape, platforms, arguments)
    if not stages:
        raise UsageError(f"`{name}` has no FROM: it is no Dockerfile")
    names = {stage.name: number for number, stage in enumerate(stages) if stage.name}
    last = len(stages) - 1 if target is None else _number(target, names, len(stages))
    if last is None:
        raise UsageError(f"`{name}` has no stage `{target}`: expected one of {', '.join(names) or 'its numbers'}")
    ends: list[Digest] = []
    found: list[list[Step]] = []
    for stage in stages:
        own, end = _walk(stage, names, ends)
        found.append(own)
        ends.append(end)
    return tuple(step for number in sorted(_needed(last, stages, names)) for step in found[number])


@dataclasses.dataclass
class _Stage:
    """A stage: `start` is what its chain begins with, `bases` the stages that FROM may name, by the platform."""

    name: str
    start: list[object]
    bases: list[int]
    instructions: list[Instruction] = dataclasses.field(default_factory=list)
    triggers: list[Instruction] = dataclasses.field(default_factory=list)


def _stages(
    instructions: Sequence[Instruction], escape: str, platforms: Sequence[Platform], given: Mapping[str, str]
) -> list[_Stage]:
    stages: list[_Stage] = []
    arguments: list[Instruction] = []
    # Which machine builds is not known where a record is read, and that a stage is named after it hardly happens.
    values = [platform_arguments(platform, platform, given) for platform in platforms]
    for item in instructions:
        if item.keyword == "FROM":
            words = item.rest.split() or [""]
            own = words[2].lower() if len(words) == 3 else ""
            names = {stage.name: number for number, stage in enumerate(stages) if stage.name}
            images = _expanded(words[0], arguments, escape, values, given)
            bases = sorted({names[image.lower()] for image in images if image.lower() in names})
            # What stands before the first FROM says which image it is; which stage it is, says the stage.
            image = [words[0], *map(_fields, arguments)] if not bases else []
            stages.append(_Stage(own, [list(item.flags), image], bases))
            triggers = (trigger for base in bases for trigger in stages[base].triggers)
            stages[-1].instructions += [dataclasses.replace(trigger, line=item.line) for trigger in triggers]
        elif stages:
            stages[-1].instructions.append(item)
            if item.keyword == "ONBUILD":
                stages[-1].triggers.append(item.trigger(escape))
        else:
            arguments.append(item)
    return stages


def _expanded(
    word: str,
    arguments: Sequence[Instruction],
    escape: str,
    platforms: Sequence[Mapping[str, str]],
    given: Mapping[str, str],
) -> set[str]:
    """Return what a word of FROM can be, on all the platforms; itself where it has no variables."""
    found = set()
    for start in platforms if "$" in word else ():
        values = dict(start)
        with contextlib.suppress(UsageError):
            for argument in (text for item in arguments for text in item.words(escape)):
                key, equals, default = argument.partition("=")
                if key in given:
                    values[key] = given[key]
                elif equals:
                    values[key] = Expansion(default, values, escape).text
            found.add(Expansion(word, values, escape).text)
    return found or {word}


def _walk(stage: _Stage, names: Mapping[str, int], ends: Sequence[Digest]) -> tuple[list[Step], Digest]:
    """Go through a stage; return its steps, and the digest of all of it. `ends` are those of the stages before it."""
    chain, found = _digest([*stage.start, *(str(ends[base]) for base in stage.bases)]), []
    for item in stage.instructions:
        if item.keyword in _NOT_FOR_STEPS:
            continue
        # Of a later stage the name counts, which stands in the instruction.
        numbers = [number for number in _taken(item, names, len(ends)) if number < len(ends)]
        chain = _digest([str(chain), _fields(item), *(str(ends[number]) for number in numbers)])
        if item.keyword == "RUN" or (item.keyword == "ADD" and "://" in item.rest):
            text = " ".join([*item.flags, item.rest])
            found.append(Step(item.keyword, text, item.heredocs, item.line, _digest(_fields(item)), chain))
    return found, chain


def _needed(last: int, stages: Sequence[_Stage], names: Mapping[str, int]) -> set[int]:
    needed, waiting = set[int](), [last]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += stages[number].bases
            waiting += [other for item in stages[number].instructions for other in _taken(item, names, number)]
    return needed


def _taken(item: Instruction, names: Mapping[str, int], number: int) -> list[int]:
    """Return the numbers of the stages that an instruction of the stage `number` takes files from."""
    sources = item.values("from") if item.keyword in ("COPY", "ADD") else []
    if item.keyword == "RUN":
        for mount in item.values("mount"):
            fields = (field.partition("=") for field in next(csv.reader([mount]), []))
            sources += [value for key, _, value in fields if key.lower() == "from"]
    found = (_number(source, names, number) for source in sources)
    return [other for other in found if other is not None]


def _number(text: str, names: Mapping[str, int], count: int) -> Optional[int]:
    """Return the number of the stage that has this name, or this number below `count`."""
    if text.lower() in names:
        return names[text.lower()]
    return int(text) if text.isdecimal() and int(text) < count else None


def _fields(item: Instruction) -> list[object]:
    return [item.keyword, list(item.flags), item.rest, list(item.heredocs)]


def _digest(value: object) -> Digest:
    return Digest.of(json.dumps(value).encode())
