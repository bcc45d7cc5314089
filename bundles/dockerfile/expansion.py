"""Variables in Dockerfile words, as BuildKit expands them (frontend/dockerfile/shell/lex.go).

`$x`, `${x}`, `${x:-word}`, `${x-word}`, `${x:+word}`, `${x+word}`, `${x:?word}`, `${x?word}`, `${x#pattern}`,
`${x##pattern}`, `${x%pattern}`, `${x%%pattern}`, `${x/pattern/word}`, `${x//pattern/word}`, quotes and escapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bundles.errors import UsageError

_SPECIAL = frozenset("@*#?-$!0")
# How deep substitutions may stand in one another: nobody writes five.
_MAX_DEPTH = 100


class Expansion:
    """One word, expanded: `text`; `used` are the names in it.

    `unset` are those that it took as empty because nothing gives them a value; a name with a default in the word
    (`${x:-y}`) is not among them.

    Raises:
        UsageError: the word cannot be expanded.
    """

    def __init__(self, word: str, values: Mapping[str, str], escape: str = "\\") -> None:
        self._word, self._values, self._escape = word, values, escape
        self._position = self._depth = 0
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self.text = self._until("")

    def _peek(self) -> str:
        return self._word[self._position : self._position + 1]

    def _next(self) -> str:
        character = self._peek()
        self._position += 1
        return character

    def _until(self, stop: str, raw: bool = False) -> str:
        """Read up to an unquoted `stop`, which is passed over, or to the end when it is empty; `raw` keeps escapes."""
        result = ""
        while character := self._peek():
            if character == stop:
                self._position += 1
                return result
            if character == "$":
                result += self._dollar()
            elif character == "'":
                result += self._single_quoted()
            elif character == '"':
                result += self._double_quoted()
            elif character == self._escape:
                self._position += 1
                result += (character if raw else "") + self._next()
            else:
                result += self._next()
        if stop:
            raise UsageError(f"`{self._word}`: `{stop}` is missing")
        return result

    def _single_quoted(self) -> str:
        end = self._word.find("'", self._position + 1)
        if end < 0:
            raise UsageError(f"`{self._word}`: a single quote is not closed")
        result = self._word[self._position + 1 : end]
        self._position = end + 1
        return result

    def _double_quoted(self) -> str:
        self._position += 1
        result = ""
        while character := self._peek():
            if character == '"':
                self._position += 1
                return result
            if character == "$":
                result += self._dollar()
                continue
            self._position += 1
            if character == self._escape and self._peek() in ('"', "$", self._escape):
                character = self._next()
            result += character
        raise UsageError(f"`{self._word}`: a double quote is not closed")

    def _dollar(self) -> str:
        self._position += 1
        if self._peek() != "{":
            name = self._name()
            return self._value(name) if name else "$"
        self._position += 1
        name = self._name()
        if not name:
            raise UsageError(f"`{self._word}`: bad substitution")
        modifier = self._next()
        if modifier == "}":
            return self._value(name)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"`{self._word[:100]}...` has more than {_MAX_DEPTH} substitutions inside one another")
        result = self._substituted(name, modifier)
        self._depth -= 1
        return result

    def _substituted(self, name: str, modifier: str) -> str:
        """Return what `${name` stands for with this modifier and what follows."""
        if modifier == "/":
            return self._replaced(name)
        null_is_unset = modifier == ":"
        if null_is_unset:
            modifier = self._next()
        if not modifier or modifier not in "+-?#%" or (null_is_unset and modifier in "#%"):
            raise UsageError(f"`{self._word}`: `{modifier or 'the end'}` after `{name}` is no substitution")
        word = self._until("}", raw=modifier in "#%")
        if modifier in "#%":
            return self._trimmed(self._value(name), modifier, word)
        value = self._values.get(name)
        missing = value is None or (null_is_unset and not value)
        if modifier == "+":
            return "" if missing else word
        if modifier == "?" and missing:
            raise UsageError(f"`{name}` has no value: {word or 'the Dockerfile demands one'}")
        return word if missing else str(value)

    def _name(self) -> str:
        character = self._peek()
        if character.isdigit():
            pattern = r"\d+"
        elif character in _SPECIAL and character:
            return self._next()
        else:
            pattern = r"\w*"
        match = re.compile(pattern).match(self._word, self._position)
        name = match[0] if match else ""
        self._position += len(name)
        self.used.add(name)
        return name

    def _value(self, name: str) -> str:
        if name not in self._values:
            self.unset.add(name)
        return self._values.get(name, "")

    def _trimmed(self, value: str, modifier: str, word: str) -> str:
        greedy = word.startswith(modifier)
        pattern = self._pattern(word[1:] if greedy else word, greedy)
        if modifier == "#":
            match = re.match(pattern, value, re.DOTALL)
            return value[match.end() :] if match else value
        # The shortest suffix begins last, the longest first.
        starts = range(len(value) + 1) if greedy else range(len(value), -1, -1)
        found = next((start for start in starts if re.fullmatch(pattern, value[start:], re.DOTALL)), None)
        return value if found is None else value[:found]

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._position += 1
        pattern = self._pattern(self._until("/", raw=True), True)
        replacement = self._until("}", raw=True)
        return re.sub(pattern, lambda _: replacement, self._value(name), count=0 if everywhere else 1)

    def _pattern(self, text: str, greedy: bool) -> str:
        """Turn a shell pattern of `*` and `?` into a regular expression."""
        result, characters = "", iter(text)
        for character in characters:
            if character == "*":
                result += ".*" if greedy else ".*?"
            elif character == "?":
                result += "."
            else:
                result += re.escape(next(characters, "") if character == "\\" else character)
        return result
