"""The words of a TBEL text, each with its place. Source: reference rule-engine §6.2."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from gateway.errors import RejectedError

Kind = Literal["int", "long", "double", "text", "name", "mark", "end"]

_WORD: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<hex>0[xX][0-9a-fA-F]+[lL]?)
    |(?P<number>(?:\d+(?:\.(?!\?|[A-Za-z_$])\d*)?|\.\d+)(?:[eE][-+]?\d+)?[lLfFdDBI]?)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<name>[^\W\d][\w$]*|\$[\w$]*)
    |(?P<mark>>>>=|>>>|===|!==|<<=|>>=|\.\.\.|\*\*|=>|\.\?|\?\.|==|!=|~=|<=|>=|&&|\|\||\+\+|--|<<|>>|[-+*/%&|^]=
      |[-+*/%&|^~!<>=?:;,.(){}\[\]\#@])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "s": " "}


class Word(NamedTuple):
    """One word. `text` is what a literal means (a number in digits), or the word itself; `at` is its offset."""

    kind: Kind
    text: str
    at: int


class Source:
    """A script's text, and where things are in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def place(self, at: int) -> str:
        """`line 2, column 5`; both count from 1."""
        line = self.text.count("\n", 0, at) + 1
        return f"line {line}, column {at - self.text.rfind(chr(10), 0, at)}"

    def error(self, at: int, text: str) -> RejectedError:
        """What is wrong there."""
        return RejectedError(f"{text} ({self.place(at)})")

    def words(self) -> list[Word]:
        """All words and an end. RejectedError: something that no word begins with."""
        words: list[Word] = []
        at = 0
        while at < len(self.text):
            found = _WORD.match(self.text, at)
            if found is None:
                raise self.error(at, self._problem(at))
            if found.lastgroup != "space":
                words.append(self._word(found.lastgroup or "", found[0], at))
            at = found.end()
        words.append(Word("end", "", len(self.text)))
        return words

    def _word(self, group: str, text: str, at: int) -> Word:
        if group == "hex":
            value = int(text.rstrip("lL"), 16)
            return Word("long" if text[-1] in "lL" or value > 0xFFFFFFFF else "int", str(_signed(value)), at)
        if group == "number":
            body, suffix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
            if suffix in ("f", "F", "d", "D") or any(sign in body for sign in ".eE"):
                return Word("double", repr(float(body)), at)
            is_long = suffix in ("l", "L") or (not suffix and int(body) > 0x7FFFFFFF)
            return Word("long" if is_long else "int", str(int(body)), at)
        if group == "text":
            return Word("text", _ESCAPE.sub(_unescaped, text[1:-1]), at)
        return Word("name" if group == "name" else "mark", text, at)

    def _problem(self, at: int) -> str:
        char = self.text[at]
        if char in "\"'":
            return "a text that does not end in its line"
        if char == "`":
            return "template texts are not in TBEL: join with +"
        return f"{char!r} is not in TBEL"


def _signed(value: int) -> int:
    """0xFFFFFFFF is -1, as an int of 32 bits has it."""
    return value - (1 << 32) if 0x7FFFFFFF < value <= 0xFFFFFFFF else value


def _unescaped(found: re.Match[str]) -> str:
    mark = found[1]
    if mark[0] == "u" and len(mark) == 5:
        return chr(int(mark[1:], 16))
    if mark.isdigit() and mark.isascii():
        return chr(int(mark, 8)) if all(digit in "01234567" for digit in mark) else mark
    return _ESCAPES.get(mark, mark)
