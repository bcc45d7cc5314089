"""Options of `docker buildx build` that are passed on to it, behind `--`: those that a recording cannot have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bundler.definition.builds import is_elsewhere
from bundles.errors import Problem, UsageError

# Options of `bundle record` itself: behind `--` they would be docker's alone, and a record would not know them.
_OWN = frozenset({"--build-arg", "--file", "--platform", "--secret", "--ssh", "--target"})
_CACHED = "a step that comes from a cache asks for nothing, and nothing of it is recorded"
_PROVENANCE = "the build's provenance is what says which images and downloads it took"
_NOT_BUILT = "it builds nothing, and nothing is recorded"
_SPOILING = {
    "--allow": "the recording's builder grants no entitlements",
    "--attest": _PROVENANCE,
    "--builder": "the build runs in a builder that is made for the recording",
    "--cache-from": _CACHED,
    "--cache-to": "the steps' results are written into the record",
    "--call": _NOT_BUILT,
    "--check": _NOT_BUILT,
    "--metadata-file": "the recording reads it, and there can be only one",
    "--print": _NOT_BUILT,
    "--provenance": _PROVENANCE,
    "--push": "a recording pushes nothing",
}
_HOST_NETWORK = "its steps go past what records them"
# The short options that have a value, and those that have none, which may stand together: -qt app.
_SHORT = {"f": "--file", "o": "--output", "t": "--tag"}
_SWITCHES = frozenset("Dqh")


def check_options(options: Sequence[str]) -> None:
    """Refuse what would spoil a recording.

    Raises:
        UsageError: there are such options; all of them are named.
    """
    problems = list(_problems(options))
    if len(problems) == 1:
        raise UsageError(f"`{problems[0].subject}` stands after --: {problems[0].message}", hint=problems[0].hint)
    if problems:
        raise UsageError(f"{len(problems)} options stand after -- that cannot be there", problems=problems)


def _problems(options: Sequence[str]) -> Iterator[Problem]:
    for option, name, value in _named(options):
        if name in _OWN:
            yield Problem(option, "it is an option of `bundle record`", "put it before --")
        elif name in _SPOILING:
            yield Problem(option, _SPOILING[name], "leave it out")
        elif name == "--network" and value == "host":
            yield Problem(option, _HOST_NETWORK, "leave it out")
        elif name == "--build-context" and is_elsewhere(value.partition("=")[2]):
            yield Problem(option, f"`{value}` is not on this machine", "git clone it, and name the directory")
        elif name == "--output" and ("type=registry" in value or "push=true" in value):
            yield Problem(option, _SPOILING["--push"], "leave it out")


def _named(options: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Give each option as it is written, its long name and its value, which may be the next word."""
    for option, following in zip(options, [*options[1:], ""]):
        name, equals, value = option.partition("=")
        if name.startswith("--"):
            yield option, name, value if equals else following
        elif option.startswith("-"):
            for number, letter in enumerate(option[1:], 2):
                if letter in _SHORT:
                    yield option, _SHORT[letter], option[number:].removeprefix("=") or following
                if letter not in _SWITCHES:
                    break
