"""Text and values as PostgreSQL takes them: its text cannot hold the character NUL."""

from __future__ import annotations

import math
from typing import Any, Final

from gateway.domain.telemetry import Value
from gateway.store.values import BOOLEAN, DOUBLE, INTEGER, TEXT, decode_value, encode_value

ESCAPE: Final = "\ue000"
"""A private-use character: NUL is written as it and '0', it itself as it and '1'. JSON text never needs it for NUL."""


def escape(text: str) -> str:
    """Any text without NUL."""
    if "\0" in text or ESCAPE in text:
        return text.replace(ESCAPE, ESCAPE + "1").replace("\0", ESCAPE + "0")
    return text


def unescape(text: str) -> str:
    """The reverse of `escape`."""
    if ESCAPE in text:
        return text.replace(ESCAPE + "0", "\0").replace(ESCAPE + "1", ESCAPE)
    return text


def encode_columns(value: Value) -> tuple[int, int | None, float | None, str | None]:
    """(kind, long_v, dbl_v, str_v).

    Raises:
        RejectedError: Not a value, or larger than 64 bits.
    """
    kind, scalar = encode_value(value)
    if kind == DOUBLE:
        return kind, None, math.nan if scalar == "nan" else float(scalar), None
    if kind in (BOOLEAN, INTEGER):
        return kind, int(scalar), None, None
    return kind, None, None, escape(str(scalar))


def decode_columns(kind: int, long_v: Any, dbl_v: Any, str_v: Any) -> Value:
    """The reverse of `encode_columns`."""
    if kind == DOUBLE:
        return float(dbl_v)
    if kind in (BOOLEAN, INTEGER):
        return decode_value(kind, long_v)
    return decode_value(kind, unescape(str_v)) if kind != TEXT else unescape(str_v)
