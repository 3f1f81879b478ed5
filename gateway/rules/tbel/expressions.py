"""TBEL expressions, written as JavaScript on top of `runtime.js`.

Types are known as far as the text tells them: I int, L long, D double, S text, B boolean, N null, M map or list,
? anything. Numbers of known type are computed bare; everything else goes through a function of the runtime, which
does what TBEL does. A mark with the offset in the text (`Expressions.mark`) stands before what may fail:
`translate.py` makes the map of places of it.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from gateway.rules.tbel.names import (
    CLASSES,
    CONSTANTS,
    FUNCTIONS,
    MATH,
    OBJECT_NAMES,
    RESULTS,
    STATIC,
    TYPE_NAMES,
)
from gateway.rules.tbel.reader import Reader
from gateway.rules.tbel.tokens import Source, Word

NUMBERS: Final = frozenset("ILD")


class Ex(NamedTuple):
    """A piece of JavaScript, its type, and what it is: a `name`, a typed int, a `place` that can be assigned to."""

    code: str
    type: str = "?"
    name: str = ""
    place: tuple[str, ...] = ()
    is_int: bool = False


_LEVELS: Final[tuple[tuple[str, ...], ...]] = (
    ("||", "or"),
    ("&&", "and"),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!=", "===", "!==", "~="),
    ("<", ">", "<=", ">=", "instanceof", "is", "contains", "soundslike", "strsim"),
    ("<<", ">>", ">>>"),
    ("+", "-", "#"),
    ("*", "/", "%"),
    ("**",),
)
_COMPARE: Final = {"<": "_lt", ">": "_gt", "<=": "_le", ">=": "_ge"}
_BITS: Final = {"|": "_bor", "&": "_band", "^": "_bxor", "<<": "_shl", ">>": "_shr", ">>>": "_ushr"}
_ARITHMETIC: Final = {"-": "_sub", "*": "_mul", "%": "_mod"}
_SPECIAL: Final = {"contains": "_in", "soundslike": "_sounds", "~=": "_match"}
_ASSIGN: Final = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", ">>>="}
MAX_DEPTH: Final = 50
"""Brackets and blocks within one another."""


class Expressions(Reader):
    """Reads words from `self.at` on. `types` is what is known of variables from the pass before."""

    def __init__(self, source: Source, words: list[Word], types: dict[str, str]) -> None:
        super().__init__(source, words)
        self.types = types
        self.depth = 0
        self.assigned: dict[str, set[str]] = {}
        self.declared: dict[str, set[str]] = {}
        self.functions: set[str] = set()
        self.scopes: list[set[str]] = [set()]

    def expression(self) -> Ex:
        """One expression, assignments included."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("too many brackets within one another")
        try:
            word = self.word
            left = self._ternary()
            if self.word.kind == "mark" and self.word.text in _ASSIGN:
                operator = self.word
                self.at += 1
                right = self.expression()
                return self._assign(left, operator, right, word)
            if self.sees("=>"):
                self.fail("arrow functions are not in TBEL: write a function, or foreach")
            return left
        finally:
            self.depth -= 1

    def condition(self) -> str:
        """An expression that has to be a boolean."""
        word = self.word
        return self.boolean(self.expression(), word)

    def boolean(self, ex: Ex, word: Word) -> str:
        """JavaScript that is true or false, or fails. RejectedError: it can be no boolean."""
        if ex.type == "B":
            return ex.code
        if ex.type != "?":
            self.fail("a condition must be true or false; compare with null or a value", word)
        return f"{self.mark(word)}_b({ex.code})"

    def _ternary(self) -> Ex:
        word = self.word
        test = self._binary(0)
        if not self.take("?"):
            return test
        condition = self.boolean(test, word)
        one = self.expression()
        self.need(":")
        two = self.expression()
        kind = one.type if one.type == two.type else "?"
        return Ex(f"({condition} ? {self.value(one)} : {self.value(two)})", kind)

    def _binary(self, level: int) -> Ex:
        if level == len(_LEVELS):
            return self._unary()
        first = self.word
        left = self._binary(level + 1)
        while self.sees(*_LEVELS[level]):
            operator = self.word
            self.at += 1
            second = self.word
            if operator.text in ("is", "instanceof"):
                left = Ex(f"_is({left.code}, {json.dumps(self._type_name())})", "B")
            else:
                left = self._joined(left, operator, self._binary(level + 1), first, second)
        return left

    def _joined(self, a: Ex, operator: Word, b: Ex, first: Word, second: Word) -> Ex:
        sign = operator.text
        both = a.type in NUMBERS and b.type in NUMBERS
        wide = "D" if "D" in a.type + b.type else "L" if "L" in a.type + b.type else "I"
        at = self.mark(first)
        if sign in ("||", "or", "&&", "and"):
            mark = "||" if sign in ("||", "or") else "&&"
            return Ex(f"({self.boolean(a, first)} {mark} {self.boolean(b, second)})", "B")
        if sign == "!==":
            self.fail("'!==' is not in TBEL: write !=", operator)
        if sign in ("==", "===", "!="):
            if a.type == b.type and a.type in "ILDSB":
                return Ex(f"({a.code} {'!==' if sign == '!=' else '==='} {b.code})", "B")
            return Ex(f"{'!' if sign == '!=' else ''}_eq({a.code}, {b.code})", "B")
        if sign in _COMPARE:
            return Ex(f"({a.code} {sign} {b.code})" if both else f"{at}{_COMPARE[sign]}({a.code}, {b.code})", "B")
        if sign in _SPECIAL:
            return Ex(f"{at}{_SPECIAL[sign]}({a.code}, {b.code})", "B")
        if sign == "strsim":
            return Ex(f"_similar({a.code}, {b.code})", "D")
        if sign == "#":
            return Ex(f"({self.text(a)} + {self.text(b)})", "S")
        if sign == "+":
            return self._plus(a, b, both, wide, at)
        if sign == "/":
            return self._divided(a, b, both, wide, at)
        if sign == "**":
            return Ex(f"_pow({a.code}, {b.code})", "D")
        if sign in _BITS:
            return Ex(f"{at}{_BITS[sign]}({a.code}, {b.code})", wide if both and wide != "D" else "?")
        if both:
            return (
                Ex(f"({a.code} {sign} {b.code})", wide)
                if sign != "%" or wide == "D"
                else Ex(f"{at}_mod({a.code}, {b.code})", wide)
            )
        return Ex(f"{at}{_ARITHMETIC[sign]}({a.code}, {b.code})")

    def _plus(self, a: Ex, b: Ex, both: bool, wide: str, at: str) -> Ex:
        if both:
            return Ex(f"({a.code} + {b.code})", wide)
        if "S" in (a.type, b.type) or "N" in (a.type, b.type):
            return Ex(f"({self.text(a)} + {self.text(b)})", "S")
        one, two = (f"_dt({ex.code})" if ex.type == "D" else ex.code for ex in (a, b))
        if "D" in (a.type, b.type):  # a text on the other side shows 1.0 as 1.0
            name = "_addl" if a.type == "D" else "_addr"
            return Ex(f"{at}{name}({a.code}, {b.code})")
        return Ex(f"{at}_add({one}, {two})")

    def _divided(self, a: Ex, b: Ex, both: bool, wide: str, at: str) -> Ex:
        if (a.is_int and b.type in "IL") or (b.is_int and a.type in "IL"):
            return Ex(f"{at}_idiv({a.code}, {b.code})", "I")
        if both:
            return Ex(f"{at}_ldiv({a.code}, {b.code})", "L") if wide == "L" else Ex(f"({a.code} / {b.code})", "D")
        if "D" in (a.type, b.type):
            return Ex(f"{at}_fdiv({a.code}, {b.code})", "D")
        return Ex(f"{at}{'_wdiv' if 'L' in (a.type, b.type) else '_div'}({a.code}, {b.code})")

    def text(self, ex: Ex) -> str:
        """JavaScript that is a text, as Java would write it."""
        if ex.type == "S":
            return ex.code
        return f"{'_dt' if ex.type == 'D' else '_t'}({ex.code})"

    def value(self, ex: Ex) -> str:
        """What is kept or handed on."""
        return ex.code

    def _unary(self) -> Ex:
        word = self.word
        if self.take("!"):
            self.depth += 1
            inner = self._unary()
            self.depth -= 1
            return Ex(f"!{self.boolean(inner, word)}", "B")
        if self.take("-"):
            inner = self._unary()
            if inner.type in NUMBERS:
                return Ex(f"(-{inner.code})", inner.type, is_int=inner.is_int)
            return Ex(f"{self.mark(word)}_neg({inner.code})")
        if self.take("~"):
            return Ex(f"{self.mark(word)}_bnot({self._unary().code})", "?")
        if self.sees("+"):
            self.fail("a sign + is not in TBEL")
        if self.sees("++", "--"):
            self.at += 1
            return self._stepped(self._unary(), word, is_before=True)
        if self.sees("...", "@"):
            self.fail(f"{word.text!r} is not in TBEL")
        if word.kind == "name":
            if word.text == "new":
                self.at += 1
                return self._postfix(self._new(word))
            if word.text == "isdef":
                self.at += 1
                has_bracket = self.take("(")
                found = self._is_known(self.name())
                if has_bracket:
                    self.need(")")
                return Ex("true" if found else "false", "B")
        if word.text == "(" and word.kind == "mark" and self._is_cast():
            self.at += 1
            kind = self._type_name()
            self.need(")")
            return self._cast(kind, self._unary(), word)
        return self._postfix(self._primary())

    def _is_cast(self) -> bool:
        one, two = self.words[self.at + 1], self.words[min(self.at + 2, len(self.words) - 1)]
        if one.kind != "name" or one.text not in TYPE_NAMES or two.text != ")" or two.kind != "mark":
            return False
        after = self.words[min(self.at + 3, len(self.words) - 1)]
        return after.kind in ("name", "int", "long", "double", "text") or after.text in ("(", "[", "{", "-", "!")

    def _type_name(self) -> str:
        name = self.name()
        while self.take("."):
            name = self.name()
        return name

    def _cast(self, kind: str, ex: Ex, word: Word) -> Ex:
        return Ex(f"{self.mark(word)}_cast({ex.code}, {json.dumps(kind)})", TYPE_NAMES.get(kind, "?"))

    def _stepped(self, target: Ex, word: Word, is_before: bool) -> Ex:
        if not target.name:
            self.fail("++ and -- are for variables; write x.y += 1 instead", word)
        sign = word.text[0]
        kind = self._note(target.name, target.type)
        if target.type in NUMBERS:
            code = f"{word.text}{target.code}" if is_before else f"{target.code}{word.text}"
            return Ex(f"({code})", kind)
        new = f"{self.mark(word)}{'_add' if sign == '+' else '_sub'}({target.code}, 1)"
        if is_before:
            return Ex(f"({target.code} = {new})")
        return Ex(f"_first({target.code}, {target.code} = {new})")

    def _note(self, name: str, kind: str) -> str:
        self.assigned.setdefault(name, set()).add(kind)
        return kind

    def _assign(self, target: Ex, operator: Word, value: Ex, word: Word) -> Ex:
        if not target.name and not target.place:
            self.fail("the left side of an assignment is a variable, a member or an element", word)
        if operator.text != "=":
            sign = Word("mark", operator.text[:-1], operator.at)
            value = self._joined(target, sign, value, word, word)
        if target.name:
            if target.name not in self._known():
                self.scopes[0].add(target.name)
            self._note(target.name, value.type)
            return Ex(f"({target.code} = {self.value(value)})", value.type)
        name, owner, key = target.place
        return Ex(f"{self.mark(word)}{name}({owner}, {key}, {self.value(value)})", value.type)

    def _known(self) -> set[str]:
        return set().union(*self.scopes)

    def _is_known(self, name: str) -> bool:
        return name in self._known() or name in self.types

    # ── primaries ──

    def _primary(self) -> Ex:
        word = self.word
        self.at += 1
        if word.kind == "int":
            return Ex(word.text, "I")
        if word.kind == "long":
            return Ex(word.text, "L")
        if word.kind == "double":
            return Ex(word.text.replace("inf", "Infinity"), "D")
        if word.kind == "text":
            return Ex(_literal(word.text), "S")
        if word.text == "(" and word.kind == "mark":
            inner = self.expression()
            if self.sees(","):
                self.fail("arrow functions and lists in brackets are not in TBEL")
            self.need(")")
            if self.sees("=>"):
                self.fail("arrow functions are not in TBEL: write a function, or foreach")
            return Ex(f"({inner.code})", inner.type)
        if word.text == "[" and word.kind == "mark":
            return self._list("]")
        if word.text == "{" and word.kind == "mark":
            return self._map("}")
        if word.kind == "name":
            return self._named(word)
        self.at -= 1
        self.fail(
            f"an expression is missing before {word.text!r}" if word.text else "an expression is missing at the end"
        )

    def _named(self, word: Word) -> Ex:
        name = word.text
        if name in CONSTANTS:
            return Ex(*CONSTANTS[name])
        self.foreign(word)
        if self.sees("("):
            return self._function(word)
        if self._is_known(name):
            kind = self.types.get(name, "?")
            return Ex(f"${name}", kind.rstrip("i"), name, is_int=kind.endswith("i"))
        if name in CLASSES and self.sees("."):
            return Ex(name, "class")
        if name == "java" and self.sees("."):
            while self.take("."):
                last = self.name()
                if last in CLASSES:
                    return Ex(last, "class")
            self.fail("only classes of java.util are here", word)
        if self.sees("=") or self.word.text in _ASSIGN:
            return Ex(f"${name}", "?", name)
        return Ex(f"{self.mark(word)}_unknown({json.dumps(name)})")

    def _function(self, word: Word) -> Ex:
        name = word.text
        arguments = self._arguments()
        if name in self.functions:
            return Ex(f"{self.mark(word)}${name}({', '.join(self.value(ex) for ex in arguments)})")
        if name not in FUNCTIONS:
            self.fail(f"there is no function {name}()", word)
        kind = RESULTS.get(name, "?")
        return Ex(f"{self.mark(word)}_f.{name}({', '.join(ex.code for ex in arguments)})", kind)

    def _arguments(self) -> list[Ex]:
        self.need("(")
        found: list[Ex] = []
        while not self.take(")"):
            if found:
                self.need(",")
            found.append(self.expression())
        return found

    def _list(self, end: str) -> Ex:
        items: list[str] = []
        while not self.take(end):
            if self.take(":"):  # [:] is an empty map
                self.need(end)
                return Ex("_map()", "M")
            if self.sees("..."):
                self.fail("'...' is not in TBEL")
            item = self.expression()
            if self.sees(":") and not items:
                return self._map(end, item)
            items.append(self.value(item))
            if not self.sees(end):
                self.need(",")
        return Ex(f"[{', '.join(items)}]", "M")

    def _map(self, end: str, first: Ex | None = None) -> Ex:
        members: list[str] = []
        if first is not None:
            self.need(":")
            members.append(f"{_key(first.name or json.loads(first.code))}: {self.value(self.expression())}")
            if not self.sees(end):
                self.need(",")
        while not self.take(end):
            word = self.word
            if word.text == "[" and word.kind == "mark":
                self.fail("computed keys are not in TBEL: use map.put(key, value)")
            if word.kind not in ("name", "text", "int"):
                self.fail(f"a key is missing before {word.text!r}" if word.text else "'}' is missing at the end")
            self.at += 1
            self.need(":")
            members.append(f"{_key(word.text)}: {self.value(self.expression())}")
            if not self.sees(end):
                self.need(",")
        return Ex(f"({{{', '.join(members)}}})", "M")

    def _new(self, word: Word) -> Ex:
        if self.word.kind != "name":
            self.fail("a class is missing")
        kind = self._type_name()
        if self.take("["):
            if self.take("]"):
                self.need("{")
                return self._list("}")
            size = self.expression()
            self.need("]")
            return Ex(f"{self.mark(word)}_array({size.code}, {json.dumps(kind)})", "M")
        if kind not in CLASSES:
            self.fail(f"there is no class {kind}", word)
        arguments = self._arguments() if self.sees("(") else []
        return Ex(f"{self.mark(word)}_new({json.dumps(kind)}, [{', '.join(ex.code for ex in arguments)}])")

    def _postfix(self, ex: Ex) -> Ex:
        while True:
            word = self.word
            if self.take(".", ".?", "?."):
                ex = self._member(ex, word)
            elif self.take("["):
                index = self.expression()
                self.need("]")
                place = ("_put", ex.code, index.code)
                ex = Ex(f"{self.mark(word)}_at({ex.code}, {index.code})", place=place)
            elif self.sees("++", "--"):
                self.at += 1
                ex = self._stepped(ex, word, is_before=False)
            elif self.sees("("):
                self.fail("only functions by name can be called")
            else:
                return ex

    def _member(self, ex: Ex, dot: Word) -> Ex:
        word = self.word
        if word.kind != "name":
            self.fail("a name is missing after '.'")
        self.at += 1
        name = word.text
        if ex.type == "class":
            return self._static(ex.code, word)
        is_safe = dot.text != "."
        if self.sees("("):
            arguments = ", ".join(self.value(argument) for argument in self._arguments())
            kind = {"size": "I", "length": "I", "indexOf": "I", "getTime": "L", "isEmpty": "B", "contains": "B",
                    "containsKey": "B", "equals": "B"}.get(name, "?")  # fmt: skip
            maybe = "_maybe" if is_safe else "_call"
            return Ex(
                f"{self.mark(word)}{maybe}({ex.code}, {json.dumps(name)}, [{arguments}])", "?" if is_safe else kind
            )
        place = ("_set", ex.code, json.dumps(name))
        if is_safe:
            return Ex(f"_opt({ex.code}, {json.dumps(name)})", place=place)
        if ex.name and name not in OBJECT_NAMES and name.isascii() and "$" not in name:
            return Ex(f"({self.mark(word)}{ex.code}.{name} ?? null)", place=place)
        return Ex(f"{self.mark(word)}_get({ex.code}, {json.dumps(name)})", place=place)

    def _static(self, owner: str, word: Word) -> Ex:
        name = f"{owner}.{word.text}"
        if not self.sees("("):
            if name not in STATIC:
                self.fail(f"there is no {name}", word)
            return Ex(*STATIC[name])
        arguments = self._arguments()
        if owner == "Math":
            if word.text not in MATH:
                self.fail(f"there is no Math.{word.text}() in TBEL", word)
            needs = 2 if word.text in ("max", "min", "pow", "atan2", "hypot", "floorDiv", "floorMod") else 1
            if len(arguments) != (0 if word.text == "random" else needs):
                self.fail(f"Math.{word.text}() takes {needs} values in TBEL", word)
            return self._math(word, arguments)
        if name not in STATIC:
            self.fail(f"there is no {name}() in TBEL", word)
        code, kind = STATIC[name]
        return Ex(f"{self.mark(word)}{code}({', '.join(ex.code for ex in arguments)})", kind)

    def _math(self, word: Word, arguments: list[Ex]) -> Ex:
        name, kind = word.text, MATH[word.text]
        codes = ", ".join(ex.code if ex.type in NUMBERS else f"_n({ex.code})" for ex in arguments)
        code = f"{self.mark(word)}Math.{name}({codes})"
        if kind:
            return Ex(code, kind)
        first = arguments[0].type
        if len(arguments) == 2 and first in "IL" and first != "?":  # Java's overload for ints is taken
            return Ex(f"Math.{name}({arguments[0].code}, Math.trunc(_n({arguments[1].code})))", first)
        known = [ex.type for ex in arguments if ex.type in NUMBERS]
        return Ex(code, "D" if known == ["D"] * len(arguments) else first if first in NUMBERS else "?")


def _literal(text: str) -> str:
    return json.dumps(text)


def _key(text: object) -> str:
    return '["__proto__"]' if text == "__proto__" else json.dumps(str(text))
