"""Telemetry and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

Value = bool | int | float | str | dict[str, Any] | list[Any]
"""A typed value; the Python type is the stored type: bool BOOLEAN, int LONG (fits int64), float DOUBLE,
str STRING, dict and list JSON. `None` never gets this far."""

MAX_KEY_CHARS: Final = 255
"""Longest key that a server stores; blank ones it refuses as well."""

MAX_ATTRIBUTES_BYTES: Final = 64 << 20
"""What the attributes of all devices together may weigh: they are kept in memory, and devices invent their keys."""
_ATTRIBUTE_BYTES: Final = 200  # of one with nothing in it


def attribute_bytes(key: str, value: Value) -> int:
    """What an attribute weighs in memory, about."""
    if isinstance(value, str):
        return _ATTRIBUTE_BYTES + len(key) + len(value)
    if isinstance(value, dict | list):
        return _ATTRIBUTE_BYTES + len(key) + 4 * len(repr(value))
    return _ATTRIBUTE_BYTES + len(key)


class TsKv(NamedTuple):
    """All keys of one time stamp (UTC epoch, milliseconds)."""

    ts_ms: int
    values: Mapping[str, Value]


class AttributeScope(StrEnum):
    """Who owns an attribute."""

    CLIENT_SCOPE = "CLIENT_SCOPE"  #: the device; never written by the cloud
    SERVER_SCOPE = "SERVER_SCOPE"  #: the server; never shown to the device
    SHARED_SCOPE = "SHARED_SCOPE"  #: the server, and the device is told of changes


class Attribute(NamedTuple):
    """One attribute's value and when it was written (UTC epoch, milliseconds)."""

    ts_ms: int
    value: Value


class Summary(NamedTuple):
    """All values of one key in an interval. What is no number (text, booleans, JSON, NaN) counts in `values` alone."""

    values: int = 0
    numbers: int = 0
    total: int | float = 0  #: exact while all numbers are whole
    low: int | float | None = None
    high: int | float | None = None
