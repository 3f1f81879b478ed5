"""What a frame says: text, columns, JSON or packed numbers into values. Pure."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

Form = Literal["auto", "number", "integer", "text", "bool", "hex", "degrees"]
Content = Mapping[str | int, Any] | Sequence[Any]

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no")
_INT64: Final = 1 << 63
_NEGATIVE: Final = ("-", "S", "W", "s", "w")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value of a frame. `at` and `sign_at`: name of a group, index of a column or packed item, path in JSON."""

    key: str
    at: str | int
    form: Form = "auto"
    scale: float = 1.0
    offset: float = 0.0
    decimals: int | None = None
    sign_at: str | int | None = None  # there a minus, S or W makes it negative
    decimal_comma: bool = False
    values: Mapping[str, Value] | None = None  # text of the frame to value
    is_attribute: bool = False


class NoValue(RejectedError):
    """The frame is good, and this field of it holds nothing."""


def by_regex(pattern: str, encoding: str) -> Callable[[bytes], Content | None]:
    """Groups of a regular expression by number and name; None where it is not found."""
    compiled = re.compile(pattern)

    def parse(frame: bytes) -> Content | None:
        match = compiled.search(frame.decode(encoding, "replace"))
        if match is None:
            return None
        content: dict[str | int, Any] = dict(enumerate((match[0], *match.groups())))
        content.update(match.groupdict())
        return content

    return parse


def by_columns(separator: str, encoding: str) -> Callable[[bytes], Content | None]:
    """Columns, without blanks around them."""

    def parse(frame: bytes) -> Content | None:
        return [column.strip() for column in frame.decode(encoding, "replace").split(separator)]

    return parse


def by_json(frame: bytes) -> Content | None:
    """One JSON object or array; None where it is not."""
    try:
        tree = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return None
    return tree if isinstance(tree, dict | list) else None


def by_struct(layout: str) -> Callable[[bytes], Content | None]:
    """Packed items from the beginning of a frame; None where it is too short. What lies behind them is ignored."""
    compiled = struct.Struct(layout)

    def parse(frame: bytes) -> Content | None:
        return compiled.unpack_from(frame) if len(frame) >= compiled.size else None

    return parse


def value_of(field: Field, content: Content) -> Value:
    """One field's value.

    Raises:
        NoValue: It is absent, empty, or not what its form says.
    """
    raw = _at(content, field.at)
    if isinstance(raw, bytes):
        raw = raw.rstrip(b"\0").decode("utf-8", "replace") if field.form in ("auto", "text") else raw.hex()
    if field.values is not None:
        text = raw.strip() if isinstance(raw, str) else _plain(raw)
        if text not in field.values:
            raise NoValue(f"{text!r} is none of {', '.join(map(repr, field.values))}")
        return field.values[text]
    if raw is None or raw == "":
        raise NoValue("the frame has no value here")
    if field.form == "text":
        return raw if isinstance(raw, str) else _plain(raw)
    if field.form == "bool":
        return _truth(raw)
    if isinstance(raw, bool | dict | list):
        if field.form == "auto":
            return raw
        raise NoValue(f"{raw!r} is not a number")
    if isinstance(raw, str):
        number = _number(raw, field)
        if number is None:
            return raw.strip()
    else:
        number = raw
    return _scaled(number, field, content)


def _at(content: Content, at: str | int) -> Any:
    if isinstance(content, Mapping) and at in content:
        return content[at]
    current: Any = content
    for step in (at,) if isinstance(at, int) else at.split("."):
        try:
            if isinstance(current, Mapping):
                current = current[step]
            elif isinstance(current, Sequence) and not isinstance(current, str | bytes):
                current = current[int(step)]
            else:
                return None
        except (KeyError, IndexError, ValueError):
            return None
    return current


def _number(text: str, field: Field) -> int | float | None:
    """The number that a text reads as; None: form auto, and it is none."""
    if field.form == "hex":
        try:
            return int(text.strip(), 16)
        except ValueError:
            raise NoValue(f"{text!r} is not a hexadecimal number") from None
    plain = "".join(text.split())  # scales write blanks between sign and digits
    if field.decimal_comma:
        plain = plain.replace(".", "").replace(",", ".")
    if _NUMBER.fullmatch(plain) is None or len(plain) > 64:
        if field.form == "auto":
            return None
        raise NoValue(f"{text!r} is not a number")
    if field.form == "degrees":
        whole, minutes = divmod(float(plain), 100.0)
        return round(whole + minutes / 60.0, 7)
    return float(plain) if any(mark in plain for mark in ".eE") else int(plain)


def _scaled(number: int | float, field: Field, content: Content) -> Value:
    if field.sign_at is not None and str(_at(content, field.sign_at)).strip() in _NEGATIVE:
        number = -number
    if field.scale != 1.0 or field.offset != 0.0:
        number = number * field.scale + field.offset
        if field.decimals is None:
            number = float(f"{number:.12g}")  # 235 * 0.1 is 23.5
    if field.form == "integer":
        if not math.isfinite(number) or number != int(number):
            raise NoValue(f"{number!r} is not a whole number")
        number = int(number)
    if field.decimals is not None and isinstance(number, float):
        number = round(number, field.decimals)
    if isinstance(number, float) and not math.isfinite(number):
        raise NoValue(f"{number!r} is not a number")
    if isinstance(number, int) and not -_INT64 <= number < _INT64:
        raise NoValue("does not fit 64 bits")
    return number


def _truth(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    text = _plain(raw).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise NoValue(f"{raw!r} is neither true nor false; `values` says what it means")


def _plain(raw: Any) -> str:
    return raw if isinstance(raw, str) else orjson.dumps(raw).decode()
