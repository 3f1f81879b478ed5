"""The JSON dialect that ThingsBoard's parser forgives: unquoted names, single quotes, comments, `=` and `;`.

Only asked after a strict parser has refused, so it is written for exactness and not for speed. What it
takes and refuses is Gson's lenient mode, which real devices rely on: `{temperature:25}` is what the
vendor's own quick-start command sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import RejectedError

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LITERAL: Final = re.compile(r"[^{}\[\]:,;=#/\\\s]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_PLAIN: Final = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_ESCAPES: Final = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", "\n": "\n", "'": "'", '"': '"'} | {
    "\\": "\\",
    "/": "/",
}
_WORDS: Final = {"true": True, "false": False, "null": None}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PAIR: Final = re.compile("([\ud800-\udbff])([\udc00-\udfff])")


def parse_lenient(text: str, max_depth: int, number: Callable[[str], Any]) -> Any:
    """One value, with nothing but blanks and comments around it.

    Args:
        text: The document, without byte order mark.
        max_depth: Levels of objects and arrays.
        number: Makes a value of the text of a JSON number.

    Raises:
        RejectedError: Where (a character's offset) and what was expected.
    """
    parser = _Parser(text, max_depth, number)
    value = parser.value(0)
    parser.blank()
    if parser.at < len(text):
        raise parser.error("the end, after one JSON value")
    return value


class _Parser:
    """Recursive descent over one text; `at` is the next character."""

    def __init__(self, text: str, max_depth: int, number: Callable[[str], Any]) -> None:
        self.text, self.at = text, 0
        self._max_depth, self._number = max_depth, number

    def error(self, expected: str) -> RejectedError:
        """For raising: position and what would be right; never the text itself."""
        return RejectedError(f"not JSON at character {self.at}: expected {expected}")

    def blank(self) -> str:
        """Skip blanks and comments; the character that follows, or an empty text at the end."""
        match = _BLANK.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Any:
        """An object, an array, a text, or a bare literal."""
        char = self.blank()
        if char == "{":
            return self._object(depth + 1)
        if char == "[":
            return self._array(depth + 1)
        if char in ("'", '"'):
            return self._quoted(char)
        literal = self._literal("a value")
        if literal.lower() in _WORDS:
            return _WORDS[literal.lower()]
        return self._number(literal) if _NUMBER.fullmatch(literal) else literal

    def _object(self, depth: int) -> dict[str, Any]:
        self._enter(depth)
        members: dict[str, Any] = {}
        if self.blank() == "}":
            self.at += 1
            return members
        while True:
            char = self.blank()
            name = self._quoted(char) if char in ("'", '"') and char else self._literal("a name")
            char = self.blank()
            if char not in (":", "=") or not char:
                raise self.error("':' after a name")
            self.at += 1
            if char == "=" and self.text[self.at : self.at + 1] == ">":
                self.at += 1
            members[name] = self.value(depth)
            char = self.blank()
            if char == "}":
                self.at += 1
                return members
            if char not in (",", ";") or not char:
                raise self.error("',' or '}'")
            self.at += 1

    def _array(self, depth: int) -> list[Any]:
        self._enter(depth)
        elements: list[Any] = []
        if self.blank() == "]":
            self.at += 1
            return elements
        while True:
            char = self.blank()
            # A missing element counts as null: `[1,]` has two.
            elements.append(None if char in (",", ";", "]") and char else self.value(depth))
            char = self.blank()
            if char == "]":
                self.at += 1
                return elements
            if char not in (",", ";") or not char:
                raise self.error("',' or ']'")
            self.at += 1

    def _enter(self, depth: int) -> None:
        if depth > self._max_depth:
            raise self.error(f"at most {self._max_depth} levels")
        self.at += 1

    def _literal(self, expected: str) -> str:
        match = _LITERAL.match(self.text, self.at)
        if match is None:
            raise self.error(expected)
        self.at = match.end()
        return _clean(match.group())

    def _quoted(self, quote: str) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            match = _PLAIN[quote].match(self.text, self.at)
            assert match is not None  # the pattern matches the empty text
            parts.append(match.group())
            self.at = match.end()
            char = self.text[self.at : self.at + 1]
            if not char:
                raise self.error(f"the closing {quote}")
            self.at += 1
            if char == quote:
                return _clean("".join(parts))
            parts.append(self._escape())

    def _escape(self) -> str:
        char = self.text[self.at : self.at + 1]
        if char == "u":
            digits = self.text[self.at + 1 : self.at + 5]
            if re.fullmatch("[0-9a-fA-F]{4}", digits) is None:
                raise self.error("four hexadecimal digits after \\u")
            self.at += 5
            return chr(int(digits, 16))
        if char not in _ESCAPES or not char:
            raise self.error("a known escape after '\\'")
        self.at += 1
        return _ESCAPES[char]


def _clean(text: str) -> str:
    """Surrogate pairs joined, lone ones replaced: such a text could be neither stored nor sent."""
    if _SURROGATE.search(text) is None:
        return text
    joined = _PAIR.sub(lambda pair: (pair[1] + pair[2]).encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", joined)
