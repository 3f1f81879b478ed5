"""Formulas of the math node: text in, a function of named numbers out. Never `eval`.

`+ - * / % ^`, parentheses, names, functions, and multiplication that is not written (`2x`, `2(x + 1)`, `x sin(y)`).
`^` binds to the right and before a sign in front of it (`-2^2` is -4); a multiplication that is not written binds like
one that is (`1/2x` is `(1/2)*x`). Where names stand together, the longest known one is read first.

Source: reference rule-engine §8.7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from gateway.errors import RejectedError

Numbers = Sequence[float]


class Function(NamedTuple):
    """What a name followed by parentheses means."""

    arguments: int
    call: Callable[..., float]


def _quiet(call: Callable[..., float]) -> Callable[..., float]:
    """Where Python raises, doubles have an answer: not a number, or without end."""

    def quiet(*numbers: float) -> float:
        try:
            value = call(*numbers)
        except OverflowError:
            return math.inf
        except (ValueError, ZeroDivisionError):
            return math.nan
        return value if isinstance(value, int | float) else math.nan  # a power of a negative number is complex

    return quiet


def signum(x: float) -> float:
    """-1, 0 or 1; what is no number stays none."""
    return x if math.isnan(x) or x == 0 else math.copysign(1.0, x)


FUNCTIONS: Final[dict[str, Function]] = {
    name: Function(count, _quiet(call))
    for name, count, call in (
        ("sin", 1, math.sin),
        ("cos", 1, math.cos),
        ("tan", 1, math.tan),
        ("cot", 1, lambda x: 1 / math.tan(x)),
        ("asin", 1, math.asin),
        ("acos", 1, math.acos),
        ("atan", 1, math.atan),
        ("sinh", 1, math.sinh),
        ("cosh", 1, math.cosh),
        ("tanh", 1, math.tanh),
        ("sqrt", 1, math.sqrt),
        ("cbrt", 1, math.cbrt),
        ("pow", 2, math.pow),
        ("exp", 1, math.exp),
        ("expm1", 1, math.expm1),
        ("abs", 1, abs),
        ("floor", 1, math.floor),
        ("ceil", 1, math.ceil),
        ("signum", 1, signum),
        ("log", 1, math.log),
        ("ln", 1, math.log),
        ("log10", 1, math.log10),
        ("lg", 1, math.log10),
        ("log2", 1, math.log2),
        ("log1p", 1, math.log1p),
        ("logab", 2, lambda base, x: math.log(x) / math.log(base)),
    )
}
CONSTANTS: Final = {"pi": math.pi, "e": math.e}


class _Operator(NamedTuple):
    sign: str
    arguments: int
    binding: int
    is_right: bool
    call: Callable[..., float]


_BINARY: Final = {
    sign: _Operator(sign, 2, binding, sign == "^", _quiet(call))
    for sign, binding, call in (
        ("+", 1, lambda a, b: a + b),
        ("-", 1, lambda a, b: a - b),
        ("*", 2, lambda a, b: a * b),
        ("/", 2, lambda a, b: a / b),
        ("%", 2, math.fmod),
        ("^", 4, math.pow),
    )
}
_SIGNS: Final = {
    "-": _Operator("-", 1, 3, True, lambda a: -a),
    "+": _Operator("+", 1, 3, True, lambda a: a),
}
_NUMBER: Final = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NAME: Final = re.compile(r"[^\W\d]\w*")

Step = float | str | _Operator | Function


class Expression:
    """A formula, ready to be computed: its steps in the order in which they are done."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        """`names` are those of the arguments; they win over constants.

        Raises:
            RejectedError: With the place, and what would be right there.
        """
        self._steps = _Reader(text, names).read()

    def __call__(self, numbers: dict[str, float]) -> float:
        """Not a number, or infinite, where mathematics has no answer."""
        stack: list[float] = []
        for step in self._steps:
            if isinstance(step, float):
                stack.append(step)
            elif isinstance(step, str):
                stack.append(numbers[step])
            else:
                arguments = stack[-step.arguments :]
                del stack[-step.arguments :]
                stack.append(float(step.call(*arguments)))
        return stack[0]


class _Open(NamedTuple):
    """A parenthesis; `function` is what it belongs to, `seen` how many arguments are complete."""

    function: Function | None
    name: str
    seen: int


class _Reader:
    """Dijkstra's shunting yard: no recursion, whatever a formula looks like."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text, self._names = text, sorted({*names}, key=len, reverse=True)
        self._out: list[Step] = []
        self._held: list[_Operator | _Open] = []
        self._at = 0
        self._has_value = False  # an operand was just read: what follows must be an operator

    def read(self) -> list[Step]:
        """All steps."""
        while self._at < len(self._text):
            self._token()
        if not self._has_value:
            raise self._wrong("a number, a name or '(' is missing at the end")
        while self._held:
            held = self._held.pop()
            if isinstance(held, _Open):
                raise self._wrong("a ')' is missing")
            self._out.append(held)
        return self._out

    def _token(self) -> None:
        char = self._text[self._at]
        if char.isspace():
            self._at += 1
        elif number := _NUMBER.match(self._text, self._at):
            self._operand(float(number[0]))
            self._at = number.end()
        elif name := _NAME.match(self._text, self._at):
            self._name(name[0])
        elif char == "(":
            self._times()
            self._held.append(_Open(None, "", 0))
            self._at += 1
        elif char == ")":
            self._close()
        elif char == ",":
            self._comma()
        elif char in _BINARY:
            self._operator(char)
        else:
            raise self._wrong(f"{char!r} means nothing here")

    def _operand(self, value: float | str) -> None:
        self._times()
        self._out.append(value)
        self._has_value = True

    def _times(self) -> None:
        if self._has_value:
            self._push(_BINARY["*"])

    def _name(self, text: str) -> None:
        known = (*self._names, *sorted((*FUNCTIONS, *CONSTANTS), key=len, reverse=True))
        fitting = [name for name in known if text.startswith(name)]
        if not fitting:
            raise self._wrong(f"{text!r} is neither an argument nor a function")
        name = max(fitting, key=len)  # of equals the first: arguments win
        if name in self._names or name in CONSTANTS:
            self._operand(name if name in self._names else CONSTANTS[name])
            self._at += len(name)
            return
        self._times()
        self._at += len(name)
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        if self._text[self._at : self._at + 1] != "(":
            raise self._wrong(f"a '(' is missing behind {name}")
        self._at += 1
        self._held.append(_Open(FUNCTIONS[name], name, 0))

    def _operator(self, sign: str) -> None:
        if self._has_value:
            self._push(_BINARY[sign])
        elif sign in _SIGNS:
            self._held.append(_SIGNS[sign])
        else:
            raise self._wrong(f"a number, a name or '(' is missing in front of {sign!r}")
        self._at += 1

    def _push(self, operator: _Operator) -> None:
        while self._held and isinstance(held := self._held[-1], _Operator):
            if held.binding < operator.binding or (held.binding == operator.binding and operator.is_right):
                break
            self._held.pop()
            self._out.append(held)
        self._held.append(operator)
        self._has_value = False

    def _unwind(self) -> _Open:
        if not self._has_value:
            raise self._wrong("a number, a name or '(' is missing")
        while self._held:
            held = self._held.pop()
            if isinstance(held, _Open):
                return held
            self._out.append(held)
        raise self._wrong("there is no '(' to it")

    def _comma(self) -> None:
        opened = self._unwind()
        if opened.function is None:
            raise self._wrong("a ',' stands between arguments of a function only")
        self._held.append(opened._replace(seen=opened.seen + 1))
        self._at += 1
        self._has_value = False

    def _close(self) -> None:
        opened = self._unwind()
        if opened.function is not None:
            if opened.seen + 1 != opened.function.arguments:
                raise self._wrong(f"{opened.name} takes {opened.function.arguments}, not {opened.seen + 1} arguments")
            self._out.append(opened.function)
        self._at += 1
        self._has_value = True

    def _wrong(self, text: str) -> RejectedError:
        return RejectedError(f"the formula {self._text!r}, character {self._at + 1}: {text}")
