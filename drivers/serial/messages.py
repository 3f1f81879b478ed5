"""What the configuration means for one frame: which device said it, and its values. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from drivers.serial.config import Command, Message, SerialField
from drivers.serial.fields import Content, Field, NoValue, by_columns, by_json, by_regex, by_struct, value_of
from drivers.serial.notation import shown, to_bytes
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

_TRUTHS: Final = {True: ("true", "on", "1"), False: ("false", "off", "0")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of frame of one device."""

    device: str
    fields: tuple[Field, ...]
    starts_with: bytes
    match: re.Pattern[str] | None
    parse: Callable[[bytes], Content | None] | None
    encoding: str

    def content(self, body: bytes) -> Content | None:
        """What fields are taken from; None: a frame of another kind."""
        if not body.startswith(self.starts_with):
            return None
        if self.match is not None and self.match.search(body.decode(self.encoding, "replace")) is None:
            return None
        return () if self.parse is None else self.parse(body)

    def values(self, content: Content) -> Iterator[tuple[Field, Value | NoValue]]:
        """Each field with its value, or why it has none."""
        for field in self.fields:
            try:
                yield field, value_of(field, content)
            except NoValue as problem:
                yield field, problem


def kind_of(device: str, message: Message, encoding: str) -> Kind:
    """A message of the configuration, ready for use."""
    parse: Callable[[bytes], Content | None] | None = None
    if message.regex is not None:
        parse = by_regex(message.regex, encoding)
    elif message.csv is not None:
        parse = by_columns(message.csv, encoding)
    elif message.json_:
        parse = by_json
    elif message.struct is not None:
        parse = by_struct(message.struct)
    return Kind(
        device=device,
        fields=(
            *(_field(field, is_attribute=False) for field in message.telemetry),
            *(_field(field, is_attribute=True) for field in message.attributes),
        ),
        starts_with=to_bytes(message.starts_with),
        match=None if message.match is None else re.compile(message.match),
        parse=parse,
        encoding=encoding,
    )


def value_to_send(command: Command, takes_value: bool, value: Json) -> Value | None:
    """What stands in the template; None for a command that takes no value.

    Raises:
        RejectedError: What the caller gave is not what the command takes.
    """
    if not takes_value:
        if value not in (None, True, {}, [], ""):
            raise RejectedError(f"{command.key!r} takes no value")
        return None
    if command.values is not None:
        for text in _TRUTHS[value] if isinstance(value, bool) else (str(value),):
            if text in command.values:
                return command.values[text]
        raise RejectedError(f"{command.key!r} takes one of {', '.join(command.values)}, not {value!r}")
    if value is None or isinstance(value, dict | list):
        raise RejectedError(f"{command.key!r} takes one number, text or truth")
    if command.min is not None or command.max is not None:
        if isinstance(value, bool | str):
            raise RejectedError(f"{command.key!r} takes a number, not {value!r}")
        if not _within(value, command.min, command.max):
            raise RejectedError(f"{command.key!r} takes {_range(command.min, command.max)}, not {value!r}")
    given: Value = value
    return given


def text_of(body: bytes, encoding: str) -> str:
    """A frame as an answer: its text, or its bytes as hexadecimal digits."""
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError:
        return body.hex(" ").upper()
    return text.strip() if text.isprintable() or text.strip().isprintable() else body.hex(" ").upper()


def answer_value(kind: Kind, content: Content, body: bytes, key: str) -> Value:
    """What a command's answer says: the field of the command's own key, else all fields, else the frame.

    Raises:
        RejectedError: A field has no value.
    """
    values: dict[str, Value] = {}
    for field, value in kind.values(content):
        if isinstance(value, NoValue):
            raise RejectedError(f"{kind.device}.{field.key}: {value}; the answer was {shown(body)}")
        values[field.key] = value
    if key in values:
        return values[key]
    return values or text_of(body, kind.encoding)


def _field(field: SerialField, *, is_attribute: bool) -> Field:
    values: Mapping[str, Value] | None = field.values
    return Field(
        key=field.key,
        at=field.key if field.at is None else field.at,
        form=field.type,
        scale=field.scale,
        offset=field.offset,
        decimals=field.round,
        sign_at=field.sign_at,
        decimal_comma=field.decimal_comma,
        values=values,
        is_attribute=is_attribute,
    )


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return f"at most {most:g}"
    return f"at least {least:g}" if most is None else f"{least:g}..{most:g}"
