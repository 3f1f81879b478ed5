"""JSON values ⇄ the protocol's `KeyValueProto`, and ids ⇄ two signed halves.

Source: the edge protocol's rules for JSON values (numbers keep their kind, number-like text becomes a number).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import orjson

from gateway.cloud.pb import queue_pb2
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

Key = tuple[int, int]
"""An entity's id as it travels: most and least significant half, both signed."""

Report = Callable[[str, str], None]
"""Takes the kind of a violation and what exactly was seen. Secrets are never part of it."""

BOOLEAN: Final = queue_pb2.BOOLEAN_V
LONG: Final = queue_pb2.LONG_V
DOUBLE: Final = queue_pb2.DOUBLE_V
STRING: Final = queue_pb2.STRING_V
JSON: Final = queue_pb2.JSON_V
_LONG_MIN: Final = -(1 << 63)
_LONG_MAX: Final = (1 << 63) - 1
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


def key_of(uuid: UUID) -> Key:
    """The two halves of an id."""
    return _signed(uuid.int >> 64), _signed(uuid.int & 0xFFFF_FFFF_FFFF_FFFF)


def uuid_of(msb: int, lsb: int) -> UUID:
    """The id of two halves."""
    return UUID(int=(msb & 0xFFFF_FFFF_FFFF_FFFF) << 64 | lsb & 0xFFFF_FFFF_FFFF_FFFF)


def _signed(half: int) -> int:
    return half - (1 << 64) if half >> 63 else half


def read_value(kv: queue_pb2.KeyValueProto) -> Value:
    """The typed value.

    Raises:
        RejectedError: JSON_V whose text is not JSON, or an unknown type; the whole UplinkMsg fails.
    """
    kind = kv.type
    if kind == DOUBLE:
        return kv.double_v
    if kind == LONG:
        return kv.long_v
    if kind == BOOLEAN:
        return kv.bool_v
    if kind == STRING:
        return kv.string_v
    try:
        value = orjson.loads(kv.json_v)
    except orjson.JSONDecodeError as error:
        raise RejectedError(f"{kv.key!r}: not JSON: {error}") from None
    if not isinstance(value, bool | int | float | str | dict | list):
        raise RejectedError(f"{kv.key!r}: JSON null is not a value")
    return value


def read_values(kvs: Iterable[queue_pb2.KeyValueProto]) -> dict[str, Value]:
    """All values by key; see `read_value`."""
    return {kv.key: read_value(kv) for kv in kvs}


def write_values(values: Mapping[str, Json]) -> Sequence[queue_pb2.KeyValueProto]:
    """As a server writes the values of a queued event; nulls are left out."""
    return [_write_value(key, value) for key, value in values.items() if value is not None]


def _write_value(key: str, value: Json) -> queue_pb2.KeyValueProto:
    kv = queue_pb2.KeyValueProto(key=key)
    if isinstance(value, str):
        value = _cast(value)
    if isinstance(value, bool):
        kv.type, kv.bool_v = BOOLEAN, value
    elif isinstance(value, int):
        if _LONG_MIN <= value <= _LONG_MAX:
            kv.type, kv.long_v = LONG, value
        else:
            kv.type, kv.string_v = STRING, str(value)
    elif isinstance(value, float):
        kv.type, kv.double_v = DOUBLE, value
    elif isinstance(value, str):
        kv.type, kv.string_v = STRING, value
    else:
        kv.type, kv.json_v = JSON, orjson.dumps(value).decode()
    return kv


def _cast(text: str) -> Json:
    if not _NUMBER.fullmatch(text):
        return text
    if "." not in text and "e" not in text.lower():
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        return text
    return int(number) if "." not in text and number.is_integer() else number


_FIELDS_OF: Final = {
    BOOLEAN: "bool_v",
    LONG: "long_v",
    DOUBLE: "double_v",
    STRING: "string_v",
    JSON: "json_v",
}


def check_halves(report: Report, where: str, msb: int, lsb: int) -> None:
    """Most readers take an id with one half of 0 for none at all."""
    if not msb or not lsb:
        report("half_id", f"{where}: the id's halves are {msb} and {lsb}")


def check_value(report: Report, kv: queue_pb2.KeyValueProto) -> None:
    """For a value that reads as zero or empty: is there one of another type, or none where there must be one?"""
    own = _FIELDS_OF.get(kv.type)
    others = [name for name in _FIELDS_OF.values() if name != own and getattr(kv, name)]
    if own is None:
        report("no_value", f"{kv.key!r}: type {kv.type} is none of KeyValueType")
    elif others:
        report("no_value", f"{kv.key!r}: the type says {own} and the value is in {', '.join(others)}")
    elif kv.type == JSON and not kv.json_v:
        report("no_value", f"{kv.key!r}: JSON without text")
