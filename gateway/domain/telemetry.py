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
