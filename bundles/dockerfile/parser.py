"""Dockerfiles as instructions: directives, escapes, continuations, comments and heredocs, as BuildKit reads them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Optional

from bundles.dockerfile.expansion import Expansion
from bundles.errors import UsageError

_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*", re.ASCII)
_DIRECTIVES = frozenset({"syntax", "check", "escape"})
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)", re.DOTALL)
_WITH_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined: `FROM`, its `--flags`, the rest, and the line it begins on.

    `heredocs` are the texts of its heredocs, as they stand.
    """

    keyword: str
    flags: tuple[str, ...]
    rest: str
    line: int
    heredocs: tuple[str, ...] = ()

    def values(self, flag: str) -> list[str]:
        """Return what `--flag=` was given, each time."""
        return [text.partition("=")[2] for text in self.flags if text.partition("=")[0] == f"--{flag}"]

    def words(self, escape: str) -> list[str]:
        """Return the words of the rest as they stand, quotes and escapes kept."""
        return _words(self.rest, escape)

    def trigger(self, escape: str) -> Instruction:
        """Return the instruction that an ONBUILD triggers."""
        return dataclasses.replace(_instruction(self.rest, escape, self.line), heredocs=self.heredocs)


def parse(text: str, name: str) -> tuple[list[Instruction], str]:
    """Read the instructions of a Dockerfile, and its escape character.

    Raises:
        UsageError: it cannot be read as one; the message has `name` and the line.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    escape = _escape(lines, name)
    continued = re.compile(rf"(^|[^{re.escape(escape)}]){re.escape(escape)}[ \t]*$")
    instructions = []
    remaining = enumerate(lines, 1)
    for number, first in remaining:
        line = first.lstrip()
        if not line or line.startswith("#"):
            continue
        match = continued.search(line)
        joined = line[: match.end(1)] if match else line
        while match:
            _, line = next(remaining, (0, "end"))
            if line == "end":
                break
            # Comments and empty lines inside an instruction are passed over.
            if line.strip() and not line.lstrip().startswith("#"):
                match = continued.search(line)
                joined += line[: match.end(1)] if match else line
        instruction = _instruction(joined.strip(), escape, number)
        heredocs = []
        for word, strip_tabs in _heredocs(instruction, joined):
            content = []
            for _, line in remaining:
                if (line.lstrip("\t") if strip_tabs else line) == word:
                    break
                content.append(line)
            else:
                raise error_at(name, number, f"the heredoc `{word}` does not end")
            heredocs.append("\n".join(content))
        instructions.append(dataclasses.replace(instruction, heredocs=tuple(heredocs)))
    return instructions, escape


def syntax(text: str) -> Optional[tuple[int, str]]:
    """Find the image that the directive `syntax` names, and its line."""
    lines = text.split("\n")
    shebang = 1 if lines[0].startswith("#!") else 0
    for comment in ("#", "//"):
        for number, key, value in _directives(lines[shebang:], comment):
            if key == "syntax":
                return number + shebang, value.partition(" ")[0]
    return None


def error_at(name: str, line: int, what: str, hint: Optional[str] = None) -> UsageError:
    """Return the error for what is wrong on a line of the Dockerfile `name`."""
    return UsageError(f"`{name}:{line}`: {what}", hint=hint)


def _escape(lines: Sequence[str], name: str) -> str:
    for number, key, value in _directives(lines, "#"):
        if key == "escape":
            if value not in ("\\", "`"):
                raise error_at(name, number, f"the escape character is `{value}`: expected \\ or `")
            return value
    return "\\"


def _directives(lines: Sequence[str], comment: str) -> Iterator[tuple[int, str, str]]:
    """Read the parser directives that stand before everything else: line, key, value."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        match = _DIRECTIVE.fullmatch(text[len(comment) :].strip()) if text.startswith(comment) else None
        if match is None or match[1].lower() not in _DIRECTIVES:
            return
        yield number, match[1].lower(), match[2]


def _instruction(text: str, escape: str, line: int) -> Instruction:
    keyword, *others = re.split(r"[\t\v\f\r ]+", text, maxsplit=1)
    flags, rest = _flags(others[0] if others else "", escape)
    return Instruction(keyword.upper(), tuple(flags), rest.strip(), line)


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Read the `--flags` that begin an instruction's arguments, and what follows them."""
    flags: list[str] = []
    position = 0
    while True:
        while text[position : position + 1].isspace():
            position += 1
        if not text.startswith("--", position):
            return flags, text[position:]
        flag, position = _word(text, position, escape)
        if flag == "--":
            return flags, text[position:]
        flags.append(flag)


def _word(text: str, position: int, escape: str) -> tuple[str, int]:
    """Read the word at `position` without its quotes and escapes, and where it ends."""
    word, quote = "", ""
    while position < len(text):
        character = text[position]
        if not quote and character.isspace():
            break
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            if character == escape:
                position += 1
            word += text[position : position + 1]
        position += 1
    return word, position


def _words(text: str, escape: str) -> list[str]:
    """Split words as they stand, quotes and escapes kept; a quote that is not closed runs to the end."""
    words, word, quote, position = [], "", "", 0
    while position < len(text):
        character = text[position]
        if not quote and character.isspace():
            if word and not word.endswith("<<"):
                words.append(word)
                word = ""
        else:
            if character == escape and quote != "'":
                word += character
                position += 1
            elif character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            word += text[position : position + 1]
        position += 1
    return [*words, word] if word else words


def _heredocs(instruction: Instruction, line: str) -> Iterator[tuple[str, bool]]:
    """Find the heredocs of an instruction: the word that ends each, and whether tabs before it are stripped."""
    keyword = instruction.keyword
    if keyword == "ONBUILD":
        keyword = instruction.rest.partition(" ")[0].upper()
    if keyword not in _WITH_HEREDOCS or "<<" not in line or _is_json_list(instruction.rest):
        return
    # BuildKit reads heredocs with the default escape character, whatever the directive says.
    for word in _words(line, "\\"):
        match = _HEREDOC.fullmatch(word)
        if match and match[3]:
            names = _words(match[3], "\\")
            if len(names) == 1:
                yield Expansion(re.sub(r"\$", r"\\$", names[0]), {}).text, bool(match[2])


def _is_json_list(text: str) -> bool:
    if not text.startswith("["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
