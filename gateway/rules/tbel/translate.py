"""TBEL statements, and the whole script: text in, JavaScript and a map of places out."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gateway.rules.tbel.expressions import MAX_DEPTH, NUMBERS, Expressions
from gateway.rules.tbel.names import TYPE_NAMES
from gateway.rules.tbel.tokens import Source, Word

MAX_PASSES: Final = 8
_MARK: Final = re.compile("\x01(\\d+)\x02")


@dataclass(frozen=True, slots=True)
class Translated:
    """`code` is one line: the body of a sloppy-mode function of its parameters, each with a `$` before its name."""

    code: str
    source: Source
    columns: tuple[int, ...]
    offsets: tuple[int, ...]

    def place(self, column: int) -> str:
        """Where in the TBEL text that is what this column of `code` (from 0) does."""
        index = bisect_right(self.columns, column) - 1
        return self.source.place(self.offsets[index]) if index >= 0 else ""


def translated(text: str, parameters: tuple[str, ...]) -> Translated:
    """The JavaScript that does what this TBEL text does.

    Raises:
        RejectedError: It is no TBEL; with line and column, and what to write instead.
    """
    source = Source(text)
    words = source.words()
    types: dict[str, str] = {}
    for _ in range(MAX_PASSES):
        reader = Statements(source, words, dict(types), parameters)
        try:
            marked = reader.script()
        except RecursionError:
            reader.fail("too much within one another")
        found = _types(reader, types)
        if found == types:
            break
        types = found
    columns, offsets, parts, length, last = [], [], [], 0, 0
    for mark in _MARK.finditer(marked):
        parts.append(marked[last : mark.start()])
        length += mark.start() - last
        columns.append(length)
        offsets.append(int(mark[1]))
        last = mark.end()
    code = "".join(parts) + marked[last:]
    return Translated(code, source, tuple(columns), tuple(offsets))


def _types(reader: Statements, before: dict[str, str]) -> dict[str, str]:
    """What all that is assigned to a variable has in common; never more than the pass before knew."""
    known: dict[str, str] = {}
    for name, kinds in reader.assigned.items():
        kinds = kinds | ({before[name].rstrip("i")} if name in before else set())
        if kinds <= NUMBERS:
            kind = "D" if "D" in kinds else "L" if "L" in kinds else "I"
        else:
            kind = next(iter(kinds)) if len(kinds) == 1 else "?"
        known[name] = ("?" if kind == "N" else kind) + ("i" if reader.declared.get(name) == {"I"} else "")
    return known


class Statements(Expressions):
    """A script. What its last statement gives is its result."""

    def __init__(self, source: Source, words: list[Word], types: dict[str, str], parameters: tuple[str, ...]) -> None:
        super().__init__(source, words, types)
        self._is_first = not types
        self._parameters = parameters
        self.scopes[0].update(parameters)
        for name in parameters:
            self.assigned[name] = {"?"}
        for one, two in pairwise(words):
            if one.kind == "name" and one.text in ("function", "def") and two.kind == "name":
                self.functions.add(two.text)

    def script(self) -> str:
        """The whole text."""
        body = self._statements("")
        own = sorted(self.scopes[0] - set(self._parameters))
        return ("var " + ", ".join(f"${name} = null" for name in own) + "; " if own else "") + body

    def _statements(self, end: str, gives: bool = True) -> str:
        """All until the closing bracket, or the end of the text."""
        codes: list[str] = []
        while not (self.take(end) if end else self.is_done):
            if self.is_done:
                self.fail(f"{end!r} is missing at the end")
            if self.take(";"):
                continue
            start = self.at
            code = self._statement(gives=False)
            while self.take(";"):
                pass
            if gives and (self.sees(end) if end else self.is_done):
                stop, self.at = self.at, start
                code = self._statement(gives=True)
                self.at = stop
            codes.append(code)
        return " ".join(codes)

    def _statement(self, gives: bool) -> str:
        word = self.word
        if word.kind == "name":
            special = {
                "if": self._if, "for": self._for, "foreach": self._for, "while": self._while, "until": self._while,
                "do": self._do,
            }.get(word.text)  # fmt: skip
            if special is not None:
                self.depth += 1
                if self.depth > MAX_DEPTH:
                    self.fail("too many blocks within one another")
                code = special(gives)
                self.depth -= 1
                return code
            if word.text in ("function", "def"):
                return self._definition()
            if word.text == "return":
                return self._return()
            if word.text == "break":
                self.at += 1
                self._end()
                return "break;"
            if word.text == "var" or self._is_declaration():
                code = self._declaration(gives)
                self._end()
                return code
        if word.text == "{" and word.kind == "mark" and not self._is_map():
            return self._block(gives)
        ex = self.expression()
        self._end()
        return f"return {ex.code};" if gives else f"{ex.code};"

    def _end(self) -> None:
        if not self.take(";") and not self.sees("}") and not self.is_done:
            before = self.words[self.at - 1]
            self.fail(f"';' is missing between {before.text!r} and {self.word.text!r}")

    def _is_map(self) -> bool:
        one = self.words[self.at + 1]
        two = self.words[min(self.at + 2, len(self.words) - 1)]
        return one.kind in ("name", "text") and two.text == ":" and two.kind == "mark"

    def _is_declaration(self) -> bool:
        one = self.words[self.at + 1]
        return self.word.text in TYPE_NAMES and one.kind == "name" and one.text not in ("is", "instanceof", "contains")

    def _return(self) -> str:
        self.at += 1
        if self.sees(";", "}") or self.is_done:
            self._end()
            return "return null;"
        ex = self.expression()
        self._end()
        return f"return {ex.code};"

    def _declaration(self, gives: bool = False) -> str:
        """`var a = 1, b;` or `int a = 1`, without what ends it."""
        kind = "" if self.word.text == "var" else self.word.text
        self.at += 1
        parts: list[str] = []
        name = ""
        while not parts or self.take(","):
            if self.sees("[", "{"):
                self.fail("taking a list or map apart is not in TBEL")
            word = self.word
            name = self.name()
            self.scopes[-1].add(name)
            code, found, declared = "null", "N" if not kind else TYPE_NAMES[kind], "?"
            if self.take("="):
                start = self.at
                ex = self.expression()
                literal = [one for one in self.words[start : self.at] if one.text != "-"]
                declared = "I" if not kind and len(literal) == 1 and literal[0].kind == "int" else "?"
                if kind and TYPE_NAMES[kind] != ex.type and TYPE_NAMES[kind] != "?":
                    ex = self._cast(kind, ex, word)
                code, found = ex.code, ex.type
            elif kind in ("int", "short", "byte", "long", "double", "float"):
                code = "0"
            else:
                found = "?"
            self.declared.setdefault(name, set()).add("I" if TYPE_NAMES.get(kind) == "I" else declared)
            self.assigned.setdefault(name, set()).add(found)
            if self._is_first:
                self._assume(name, found, is_int=self.declared[name] == {"I"})
            parts.append(f"${name} = {code}")
        text = f"var {', '.join(parts)};"
        return f"{text} return ${name};" if gives else text

    def _assume(self, name: str, kind: str, is_int: bool) -> None:
        self.types.setdefault(name, kind + ("i" if is_int else ""))

    def _block(self, gives: bool) -> str:
        if self.take("{"):
            return "{ " + self._statements("}", gives) + " }"
        if self.take(";"):
            return "{}"
        return "{ " + self._statement(gives) + " }"

    def _if(self, gives: bool) -> str:
        self.at += 1
        self.need("(")
        condition = self.condition()
        self.need(")")
        code = f"if ({condition}) {self._block(gives)}"
        while self.sees(";") and self.words[self.at + 1].text == "else":
            self.at += 1
        if self.take("else"):
            code += " else " + (self._if(gives) if self.sees("if") else self._block(gives))
        return code

    def _while(self, gives: bool) -> str:
        negates = self.word.text == "until"
        self.at += 1
        self.need("(")
        condition = self.condition()
        self.need(")")
        return f"while ({'!' if negates else ''}({condition})) {self._block(gives=False)}"

    def _do(self, gives: bool) -> str:
        self.at += 1
        body = self._block(gives=False)
        negates = self.take("until")
        if not negates:
            self.need("while")
        self.need("(")
        condition = self.condition()
        self.need(")")
        self._end()
        return f"do {body} while ({'!' if negates else ''}({condition}));"

    def _for(self, gives: bool) -> str:
        word = self.word
        self.at += 1
        self.need("(")
        start = self.at
        if self.word.text == "var" or self._is_declaration():
            self.at += 1
        if self.word.kind == "name" and self.words[self.at + 1].text in (":", "in", "of"):
            name = self.name()
            if not self.take(":"):
                self.foreign(self.word)
            self.scopes[-1].add(name)
            self.assigned.setdefault(name, set()).add("?")
            self.types[name] = "?"
            items = self.expression()
            self.need(")")
            at = self.mark(word)
            return f"for (var ${name} of {at}_iter({items.code})) {self._block(gives=False)}"
        self.at = start
        first = ""
        if not self.sees(";"):
            is_new = self.word.text == "var" or self._is_declaration()
            first = self._declaration() if is_new else self.expression().code + ";"
        self.need(";")
        condition = "" if self.sees(";") else self.condition()
        self.need(";")
        steps: list[str] = []
        while not self.take(")"):
            if steps:
                self.need(",")
            steps.append(self.expression().code)
        return f"for ({first or ';'} {condition}; {', '.join(steps)}) {self._block(gives=False)}"

    def _definition(self) -> str:
        self.at += 1
        if self.sees("("):
            self.fail("functions without a name are not in TBEL")
        name = self.name()
        self.need("(")
        parameters: list[str] = []
        while not self.take(")"):
            if parameters:
                self.need(",")
            parameters.append(self.name())
        self.scopes.append(set(parameters))
        for parameter in parameters:
            self.assigned.setdefault(parameter, set()).add("?")
            self.types[parameter] = "?"
        self.need("{")
        body = self._statements("}")
        self.scopes.pop()
        return f"function ${name}({', '.join('$' + one for one in parameters)}) {{ {body} return null; }}"
