"""The text of a proto3 schema as a tree: what a device profile may contain, and no more.

Messages, nested ones, enums, `optional`, `repeated`, `map`, `oneof` and the scalar types. What a payload
cannot need (imports, services, extensions, groups) is refused. Every error names its line. Types are looked
up here, so that `protobuf` gets a tree that is whole.

Source: Protocol Buffers language guide, proto3; ThingsBoard takes the last message as the payload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.errors import RejectedError

MAX_SCHEMA_CHARS: Final = 65_536
MAX_NESTING: Final = 32
_MAX_NUMBER: Final = 2**29 - 1
_RESERVED: Final = range(19_000, 20_000)  # of the protocol itself

_WHOLE: Final = ("int32", "int64", "uint32", "uint64", "sint32", "sint64")
_FIXED: Final = ("fixed32", "fixed64", "sfixed32", "sfixed64")
SCALARS: Final = frozenset((*_WHOLE, *_FIXED, "double", "float", "bool", "string", "bytes"))
_MAP_KEYS: Final = SCALARS - {"double", "float", "bytes"}

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/)|(?P<word>\.?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)"""
    r"""|(?P<number>-?(?:0[xX][0-9a-fA-F]+|[0-9][0-9.eE+-]*))|(?P<text>"[^"\n]*"|'[^'\n]*')|(?P<sign>[{}\[\]()<>=;,:])""",
    re.DOTALL,
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SchemaError(RejectedError):
    """The schema cannot be used: line, and what would be right."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


@dataclass(slots=True)
class Field:
    """One field. `type` is a scalar's name, or the full name (leading dot) of a message or an enum."""

    name: str
    number: int
    type: str
    line: int
    is_enum: bool = False
    is_repeated: bool = False
    is_optional: bool = False
    oneof: str | None = None
    json_name: str | None = None


@dataclass(slots=True)
class EnumType:
    """An enum; its first value is 0."""

    name: str
    values: list[tuple[str, int]] = field(default_factory=list)
    allows_alias: bool = False


@dataclass(slots=True)
class MessageType:
    """A message. A `map` field is a repeated field of a nested message with `is_map`, as it is on the wire."""

    name: str
    line: int
    fields: list[Field] = field(default_factory=list)
    oneofs: list[str] = field(default_factory=list)
    messages: list[MessageType] = field(default_factory=list)
    enums: list[EnumType] = field(default_factory=list)
    is_map: bool = False


@dataclass(slots=True)
class Schema:
    """One file; the last of `messages` is the payload."""

    package: str = ""
    messages: list[MessageType] = field(default_factory=list)
    enums: list[EnumType] = field(default_factory=list)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_schema(text: str) -> Schema:
    """The tree of a schema's text.

    Raises:
        SchemaError: With the line.
    """
    if len(text) > MAX_SCHEMA_CHARS:
        raise SchemaError(1, f"the schema has {len(text)} characters; {MAX_SCHEMA_CHARS} are the most")
    return _Parser(_tokens(text)).schema()


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SchemaError(line, f"{text[at]!r} does not belong into a schema")
        kind, found = match.lastgroup or "", match.group()
        if kind != "blank":
            tokens.append(_Token(kind, found, line))
        line += found.count("\n")
        at = match.end()
    tokens.append(_Token("end", "the end", line))
    return tokens


class _Parser:
    """Recursive descent; `_types` are all full names, True for an enum."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._at = tokens, 0
        self._types: dict[str, bool] = {}
        self._open: list[tuple[Field, str]] = []  # whose type is to be looked up, and the scope of its message

    def schema(self) -> Schema:
        schema = Schema()
        first = self._peek
        if first.text != "syntax":
            raise SchemaError(first.line, 'the schema must begin with: syntax = "proto3";')
        self._next()
        self._sign("=")
        syntax = self._next()
        if syntax.kind != "text" or syntax.text[1:-1] != "proto3":
            raise SchemaError(syntax.line, f'the syntax must be "proto3", not {syntax.text}')
        self._sign(";")
        while self._peek.kind != "end":
            word = self._next()
            if word.text == "message":
                schema.messages.append(self._message(_dot(schema.package), 1))
            elif word.text == "enum":
                schema.enums.append(self._enum(_dot(schema.package)))
            elif word.text == "package":
                if schema.package or schema.messages or schema.enums:
                    raise SchemaError(word.line, "the package stands once, before all messages")
                schema.package = self._type_name().text.lstrip(".")
                self._sign(";")
            elif word.text == "import":
                raise SchemaError(word.line, "imports are not possible: put the imported messages into this schema")
            elif word.text == "option":
                self._skip_statement()
            elif word.text != ";":
                raise SchemaError(word.line, f"expected message or enum, not {word.text}")
        if not schema.messages:
            raise SchemaError(self._peek.line, "there is no message; the last one is the payload")
        self._look_up()
        return schema

    # ── words ──

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _sign(self, sign: str) -> _Token:
        token = self._next()
        if token.text != sign or token.kind == "text":
            raise SchemaError(token.line, f"expected {sign!r}, not {token.text}")
        return token

    def _type_name(self) -> _Token:
        token = self._next()
        if token.kind != "word":
            raise SchemaError(token.line, f"expected a name, not {token.text}")
        return token

    def _name(self) -> _Token:
        token = self._type_name()
        if _NAME.fullmatch(token.text) is None:
            raise SchemaError(token.line, f"{token.text} is no name for what is declared here")
        return token

    def _number(self) -> tuple[int, int]:
        token = self._next()
        try:
            return (int(token.text, 0) if token.kind == "number" else int("")), token.line
        except ValueError:
            raise SchemaError(token.line, f"expected a whole number, not {token.text}") from None

    def _skip_statement(self) -> None:
        while (token := self._next()).text != ";":
            if token.kind == "end":
                raise SchemaError(token.line, "expected ';'")

    # ── declarations ──

    def _declare(self, scope: str, name: _Token, *, is_enum: bool) -> str:
        full = f"{scope}.{name.text}"
        if full in self._types:
            raise SchemaError(name.line, f"{name.text} is declared twice")
        self._types[full] = is_enum
        return full

    def _message(self, scope: str, depth: int) -> MessageType:
        name = self._name()
        if depth > MAX_NESTING:
            raise SchemaError(name.line, f"messages are nested deeper than {MAX_NESTING} levels")
        message = MessageType(name.text, name.line)
        full = self._declare(scope, name, is_enum=False)
        self._sign("{")
        while (word := self._next()).text != "}":
            if word.kind == "end":
                raise SchemaError(word.line, f"expected '}}' at the end of message {name.text}")
            if word.text == ";":
                continue
            if word.text == "message" and self._peek.kind == "word":
                message.messages.append(self._message(full, depth + 1))
            elif word.text == "enum" and self._peek.kind == "word":
                message.enums.append(self._enum(full))
            elif word.text == "oneof" and self._peek.kind == "word":
                self._oneof(message, full)
            elif word.text in ("option", "reserved"):
                self._skip_statement()
            elif word.text == "map" and self._peek.text == "<":
                self._map(message, full)
            else:
                self._field(message, full, word)
        return message

    def _field(self, message: MessageType, scope: str, word: _Token, oneof: str | None = None) -> None:
        is_repeated, is_optional = word.text == "repeated", word.text == "optional"
        if word.text in ("required", "group", "extend", "extensions"):
            raise SchemaError(word.line, f"{word.text} does not exist in proto3")
        if (is_repeated or is_optional) and oneof is not None:
            raise SchemaError(word.line, f"{word.text} is not possible within oneof")
        kind = self._type_name() if is_repeated or is_optional else word
        if kind.kind != "word":
            raise SchemaError(kind.line, f"expected a type, not {kind.text}")
        new = self._numbered(message, kind.text)
        new.is_repeated, new.is_optional, new.oneof = is_repeated, is_optional, oneof
        if kind.text not in SCALARS:
            self._open.append((new, scope))

    def _numbered(self, message: MessageType, kind: str) -> Field:
        """`name = number [options];`, appended to the message."""
        name = self._name()
        self._sign("=")
        number, line = self._number()
        if not 1 <= number <= _MAX_NUMBER or number in _RESERVED:
            raise SchemaError(line, f"field number {number}: 1 to {_MAX_NUMBER} are possible, without 19000 to 19999")
        for other in message.fields:
            if other.number == number:
                raise SchemaError(line, f"field number {number} of {name.text} belongs to {other.name} already")
            if other.name == name.text:
                raise SchemaError(name.line, f"{name.text} is declared twice")
        new = Field(name.text, number, kind, name.line)
        if self._peek.text == "[":
            self._field_options(new)
        self._sign(";")
        message.fields.append(new)
        return new

    def _field_options(self, of: Field) -> None:
        self._next()
        while True:
            option = self._type_name()
            self._sign("=")
            value = self._next()
            if option.text == "json_name":
                of.json_name = value.text[1:-1]
            elif option.text == "default":
                raise SchemaError(option.line, "default does not exist in proto3")
            sign = self._next()
            if sign.text == "]":
                return
            if sign.text != ",":
                raise SchemaError(sign.line, f"expected ',' or ']', not {sign.text}")

    def _oneof(self, message: MessageType, scope: str) -> None:
        name = self._name()
        if name.text in message.oneofs:
            raise SchemaError(name.line, f"{name.text} is declared twice")
        message.oneofs.append(name.text)
        self._sign("{")
        before = len(message.fields)
        while (word := self._next()).text != "}":
            if word.text == "option":
                self._skip_statement()
            elif word.text != ";":
                self._field(message, scope, word, name.text)
        if len(message.fields) == before:
            raise SchemaError(name.line, f"oneof {name.text} has no field")

    def _map(self, message: MessageType, scope: str) -> None:
        self._sign("<")
        key = self._type_name()
        if key.text not in _MAP_KEYS:
            raise SchemaError(key.line, f"{key.text} cannot be the key of a map; a whole number, bool or string can")
        self._sign(",")
        value = self._type_name()
        self._sign(">")
        new = self._numbered(message, "")
        entry_name = "".join(part[:1].upper() + part[1:] for part in new.name.split("_")) + "Entry"
        entry = MessageType(entry_name, new.line, is_map=True)
        full = self._declare(scope, _Token("word", entry_name, new.line), is_enum=False)
        held = Field("value", 2, value.text, value.line)
        entry.fields = [Field("key", 1, key.text, key.line), held]
        if value.text not in SCALARS:
            self._open.append((held, scope))
        message.messages.append(entry)
        new.is_repeated, new.type = True, full

    def _enum(self, scope: str) -> EnumType:
        name = self._name()
        enum = EnumType(name.text)
        self._declare(scope, name, is_enum=True)
        self._sign("{")
        numbers: set[int] = set()
        while (word := self._next()).text != "}":
            if word.text == "option" and self._peek.text == "allow_alias":
                enum.allows_alias = True
            if word.text in ("option", "reserved") and self._peek.text != "=":
                self._skip_statement()
                continue
            if word.text == ";":
                continue
            if word.kind != "word":
                raise SchemaError(word.line, f"expected a value of enum {name.text}, not {word.text}")
            self._sign("=")
            number, line = self._number()
            if not enum.values and number:
                raise SchemaError(line, f"the first value of enum {name.text} must be 0")
            if not -(2**31) <= number < 2**31 or (number in numbers and not enum.allows_alias):
                raise SchemaError(line, f"{number} is used twice in enum {name.text}, or has more than 32 bits")
            numbers.add(number)
            enum.values.append((word.text, number))
            if self._peek.text == "[":
                while self._next().text != "]":
                    if self._peek.kind == "end":
                        raise SchemaError(self._peek.line, "expected ']'")
            self._sign(";")
        if not enum.values:
            raise SchemaError(name.line, f"enum {name.text} has no value")
        return enum

    def _look_up(self) -> None:
        """Names are looked for in the own message first, then further and further out."""
        for of, scope in self._open:
            for candidate in _candidates(of.type, scope):
                if candidate in self._types:
                    of.type, of.is_enum = candidate, self._types[candidate]
                    break
            else:
                raise SchemaError(of.line, f"type {of.type} of {of.name} is not declared in this schema")


def _candidates(name: str, scope: str) -> list[str]:
    if name.startswith("."):
        return [name]
    levels = scope.split(".")
    return [".".join([*levels[:count], name]) for count in range(len(levels), 0, -1)]


def _dot(package: str) -> str:
    return f".{package}" if package else ""
