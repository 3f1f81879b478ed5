"""JSON paths, as far as rule chains need them: a subset of Jayway JsonPath, which ThingsBoard uses.

    $                        the whole body
    .key ['key'] [2] [-1]    one child; what is not there is not found
    ['a','b']                at the end only: an object of those that are there
    .* [*] [0,2] [1:3]       several children
    ..key ..* ..[0]          at any depth
    [?(@.a > 5 && @.b)]      == != < <= > >= in nin, && || !, parentheses; texts, numbers, true, false, null, lists
    .length() .size() .min() .max() .sum() .avg() .first() .last() .keys()   at the end only

A path with any of the last four kinds of steps but the functions gives an array of what it finds, which may be empty.
An own one because the libraries either follow RFC 9535, whose results differ from those here, or have no bound on
what a path may cost: this one runs on the event loop, on bodies that devices send.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.domain.entity import Json
from gateway.errors import RejectedError

MAX_VISITS: Final = 100_000
"""Values that one evaluation may look at."""
MAX_PATH_CHARS: Final = 1000

_NAME: Final = re.compile(r"[^\s.\[\]()?*,:'\"=<>!&|@$]+")
_INTEGER: Final = re.compile(r"-?[0-9]{1,9}(?![0-9])")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_OPERATOR: Final = re.compile(r"==|!=|<=|>=|<|>|in\b|nin\b")
_TEXT: Final = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_FUNCTION: Final = re.compile(r"\.(length|size|min|max|sum|avg|first|last|keys)\(\)")
_MISSING: Final = object()


class _Budget:
    def __init__(self) -> None:
        self.left = MAX_VISITS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RejectedError(f"the path looks at more than {MAX_VISITS} values of this body")


Step = Callable[[Json, Json, _Budget], Iterator[Json]]
Test = Callable[[Json, Json, _Budget], bool]
Operand = Callable[[Json, Json, _Budget], Json]


class JsonPath:
    """A path that is ready to be used.

    Raises:
        RejectedError: The text is no path, or one with something that is not supported; with the place.
    """

    def __init__(self, text: str) -> None:
        parser = _Parser(text)
        parser.expect("$")
        self._steps, self._function, self.is_definite = parser.steps(is_whole=True)
        parser.end()
        self.is_root = not self._steps and self._function is None

    def read(self, body: Json) -> Json:
        """What the path finds; an array of it when the path may find several.

        Raises:
            RejectedError: It finds nothing.
        """
        found = _walk(self._steps, body, body, _Budget())
        if not self.is_definite:
            result: Json = found
        elif found:
            result = found[0]
        else:
            raise RejectedError("the path is not found in the body")
        return result if self._function is None else _FUNCTIONS[self._function](result)


class _Child:
    """One key or index."""

    def __init__(self, key: str | int) -> None:
        self.key = key

    def __call__(self, value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        budget.spend()
        key = self.key
        if isinstance(key, str):
            if isinstance(value, dict) and key in value:
                yield value[key]
        elif isinstance(value, list) and -len(value) <= key < len(value):
            yield value[key]


def _walk(steps: list[tuple[Step, bool]], body: Json, root: Json, budget: _Budget) -> list[Json]:
    """A step that finds nothing while the way was definite ends in 'not found' even if several could follow."""
    present, is_definite = [body], True
    for step, step_is_definite in steps:
        present = [found for value in present for found in step(value, root, budget)]
        if is_definite and step_is_definite and not present and step is not steps[-1][0]:
            raise RejectedError("the path is not found in the body")
        is_definite = is_definite and step_is_definite
    return present


def _children(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        budget.spend()
        yield child


def _deep(inner: Step) -> Step:
    def step(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        yield from inner(value, root, budget)
        for child in _children(value, root, budget):
            yield from step(child, root, budget)

    return step


def _several(indexes: list[int]) -> Step:
    def step(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        for index in indexes:
            yield from _Child(index)(value, root, budget)

    return step


def _slice(start: int | None, stop: int | None) -> Step:
    def step(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        for child in value[start:stop] if isinstance(value, list) else ():
            budget.spend()
            yield child

    return step


def _picked(keys: list[str]) -> Step:
    def step(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        budget.spend()
        if isinstance(value, dict):
            yield {key: value[key] for key in keys if key in value}

    return step


def _filtered(test: Test) -> Step:
    def step(value: Json, root: Json, budget: _Budget) -> Iterator[Json]:
        children = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
        for child in children:
            budget.spend()
            if test(child, root, budget):
                yield child

    return step


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATH_CHARS:
            raise RejectedError(f"the path has {len(text)} characters; {MAX_PATH_CHARS} are the limit")
        self._text, self._at, self._depth = text.strip(), 0, 0

    def _refuse(self, what: str) -> RejectedError:
        return RejectedError(f"the path {self._text!r} cannot be used: {what} at character {self._at + 1}")

    def _blanks(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _take(self, token: str) -> bool:
        self._blanks()
        if self._text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._blanks()
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def expect(self, token: str) -> None:
        """Or refuse."""
        if not self._take(token):
            raise self._refuse(f"{token!r} is missing")

    def end(self) -> None:
        """Nothing may follow."""
        self._blanks()
        if self._at != len(self._text):
            raise self._refuse(f"{self._text[self._at :][:10]!r} is not understood")

    def steps(self, *, is_whole: bool = False) -> tuple[list[tuple[Step, bool]], str | None, bool]:
        """Steps, each with whether it finds one value; the function at the end; whether all find one."""
        steps: list[tuple[Step, bool]] = []
        function = None
        while True:
            found = _FUNCTION.match(self._text, self._at) if is_whole else None
            if found:
                self._at, function = found.end(), found[1]
                break
            if self._text.startswith("..", self._at):
                self._at += 2
                inner, _ = self._bracket() if self._text.startswith("[", self._at) else self._dotted()
                steps.append((_deep(inner), False))
            elif self._text.startswith(".", self._at):
                self._at += 1
                steps.append(self._dotted())
            elif self._text.startswith("[", self._at):
                steps.append(self._bracket())
                if self._picks and self._at != len(self._text):
                    raise self._refuse("several keys can only be the last step")
            else:
                break
        return steps, function, all(is_definite for _, is_definite in steps)

    _picks = False

    def _dotted(self) -> tuple[Step, bool]:
        if self._take("*"):
            return _children, False
        found = self._match(_NAME)
        if not found:
            raise self._refuse("a key is missing")
        return _Child(found[0]), True

    def _bracket(self) -> tuple[Step, bool]:
        self.expect("[")
        step: Step
        is_definite = False
        if self._take("*"):
            step = _children
        elif self._take("?"):
            self.expect("(")
            step = _filtered(self._any_of())
            self.expect(")")
        elif keys := self._list(self._quoted):
            self._picks = len(keys) > 1
            step, is_definite = (_picked(keys) if self._picks else _Child(keys[0])), True
        else:
            step, is_definite = self._numbers()
        self.expect("]")
        return step, is_definite

    def _numbers(self) -> tuple[Step, bool]:
        first = self._integer()
        if self._take(":"):
            return _slice(first, self._integer()), False
        if first is None:
            raise self._refuse("a quoted key, an index, '*' or '?(…)' is missing")
        indexes = [first]
        while self._take(","):
            number = self._integer()
            if number is None:
                raise self._refuse("an index is missing")
            indexes.append(number)
        return (_Child(first), True) if len(indexes) == 1 else (_several(indexes), False)

    def _integer(self) -> int | None:
        found = self._match(_INTEGER)
        return int(found[0]) if found else None

    def _quoted(self) -> str | None:
        found = self._match(_TEXT)
        if not found:
            return None
        return re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2])

    def _list(self, item: Callable[[], str | None]) -> list[str]:
        items: list[str] = []
        while (one := item()) is not None:
            items.append(one)
            if not self._take(","):
                break
        return items

    # ── filters ──

    def _any_of(self) -> Test:
        self._depth += 1
        if self._depth > 20:
            raise self._refuse("too many parentheses")
        tests = [self._all_of()]
        while self._take("||"):
            tests.append(self._all_of())
        self._depth -= 1
        return tests[0] if len(tests) == 1 else lambda at, root, budget: any(test(at, root, budget) for test in tests)

    def _all_of(self) -> Test:
        tests = [self._test()]
        while self._take("&&"):
            tests.append(self._test())
        return tests[0] if len(tests) == 1 else lambda at, root, budget: all(test(at, root, budget) for test in tests)

    def _test(self) -> Test:
        if self._take("!"):
            inner = self._test()
            return lambda at, root, budget: not inner(at, root, budget)
        if self._take("("):
            inner = self._any_of()
            self.expect(")")
            return inner
        left = self._operand()
        found = self._match(_OPERATOR)
        if not found:
            return lambda at, root, budget: left(at, root, budget) is not _MISSING
        compare, right = _COMPARE[found[0]], self._operand()
        return lambda at, root, budget: compare(left(at, root, budget), right(at, root, budget))

    def _operand(self) -> Operand:
        for sign in ("@", "$"):
            if self._take(sign):
                steps, _, is_definite = self.steps()
                if not is_definite:
                    raise self._refuse("a path within a filter may find one value only")
                return _looked_up(steps, sign == "@")
        value = self._literal()
        return lambda at, root, budget: value

    def _literal(self) -> Json:
        text = self._quoted()
        if text is not None:
            return text
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self._take(word):
                return value
        if self._take("["):
            items: list[Json] = []
            while not self._take("]"):
                items.append(self._literal())
                if not self._take(","):
                    self.expect("]")
                    break
            return items
        found = self._match(_NUMBER)
        if not found:
            raise self._refuse("a value is missing")
        return float(found[0]) if any(char in found[0] for char in ".eE") else int(found[0])


def _looked_up(steps: list[tuple[Step, bool]], from_present: bool) -> Operand:
    def operand(at: Json, root: Json, budget: _Budget) -> Json:
        value = at if from_present else root
        for step, _ in steps:
            value = next(step(value, root, budget), _MISSING)
            if value is _MISSING:
                break
        return value

    return operand


def _kind(value: Json) -> type:
    return float if type(value) in (int, float) else type(value)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    def test(left: Json, right: Json) -> bool:
        return _kind(left) is _kind(right) and _kind(left) in (float, str) and compare(left, right)

    return test


def _equal(left: Json, right: Json) -> bool:
    return _kind(left) is _kind(right) and bool(left == right)


def _is_in(left: Json, right: Json) -> bool:
    return isinstance(right, list) and any(_equal(left, item) for item in right)


_COMPARE: Final[Mapping[str, Callable[[Json, Json], bool]]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": _is_in,
    "nin": lambda left, right: not _is_in(left, right),
}


def _numbers(value: Json) -> list[int | float]:
    numbers = [item for item in value if type(item) in (int, float)] if isinstance(value, list) else []
    if not numbers:
        raise RejectedError("the path ends in a function of numbers, and there are none")
    return numbers


def _length(value: Json) -> int:
    if isinstance(value, list | dict | str):
        return len(value)
    raise RejectedError("what the path finds has no length")


def _item(value: Json, index: int) -> Json:
    if not isinstance(value, list) or not value:
        raise RejectedError("the path ends in a function of an array, and finds none, or an empty one")
    return value[index]


def _keys(value: Json) -> Json:
    if not isinstance(value, dict):
        raise RejectedError("the path ends in keys(), and finds no object")
    return list(value)


_FUNCTIONS: Final[Mapping[str, Callable[[Json], Json]]] = {
    "length": _length,
    "size": _length,
    "min": lambda value: min(_numbers(value)),
    "max": lambda value: max(_numbers(value)),
    "sum": lambda value: sum(_numbers(value)),
    "avg": lambda value: sum(_numbers(value)) / len(_numbers(value)),
    "first": lambda value: _item(value, 0),
    "last": lambda value: _item(value, -1),
    "keys": _keys,
}
