"""Values and entities as columns, and back; what cannot be kept is refused here."""

from __future__ import annotations

import math
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.entity import Credentials, Device, DeviceProfile, Json
from gateway.domain.telemetry import Summary, Value
from gateway.errors import RejectedError

BOOLEAN, INTEGER, DOUBLE, TEXT, JSON_TEXT = range(5)
_KINDS: Final = {bool: BOOLEAN, int: INTEGER, float: DOUBLE, str: TEXT, dict: JSON_TEXT, list: JSON_TEXT}
Scalar = int | float | str


def encode_value(value: Value) -> tuple[int, Scalar]:
    """(kind, scalar): the Python type is kept exactly.

    Raises:
        RejectedError: Not a value, or larger than 64 bits.
    """
    kind = _KINDS.get(type(value))
    if kind == DOUBLE:
        # A database reads NaN as 'nothing': its name is kept instead.
        return kind, value if value == value else "nan"  # type: ignore[return-value]
    if kind == INTEGER:
        if not -(1 << 63) <= value < 1 << 63:  # type: ignore[operator]
            raise RejectedError("an integer of more than 64 bits cannot be stored")
        return kind, value  # type: ignore[return-value]
    if kind == TEXT:
        return kind, value  # type: ignore[return-value]
    if kind == BOOLEAN:
        return kind, 1 if value else 0
    if kind == JSON_TEXT:
        return kind, encode_json(value)
    raise RejectedError(f"a value of type {type(value).__name__} cannot be stored")


def decode_value(kind: int, scalar: Any) -> Value:
    """The reverse of `encode_value`."""
    if kind == BOOLEAN:
        return bool(scalar)
    if kind == DOUBLE:
        return math.nan if scalar == "nan" else float(scalar)
    if kind == JSON_TEXT:
        decoded: Value = orjson.loads(scalar)
        return decoded
    result: Value = scalar
    return result


def summary_of(
    count: int,
    wholes: int,
    whole_total: int,
    whole_low: int | None,
    whole_high: int | None,
    reals: int,
    real_total: float | None,
    real_low: float | None,
    real_high: float | None,
) -> Summary:
    """From what a database has counted of whole numbers, and of the others, each for itself."""
    lows = [low for low in (whole_low, real_low) if low is not None]
    highs = [high for high in (whole_high, real_high) if high is not None]
    return Summary(
        count,
        wholes + reals,
        whole_total + (math.nan if real_total is None else real_total) if reals else whole_total,
        min(lows, default=None),
        max(highs, default=None),
    )


def encode_json(json: Json) -> str:
    """JSON text.

    Raises:
        RejectedError: Not JSON (a lone surrogate, a number of more than 64 bits, another type).
    """
    try:
        return orjson.dumps(json).decode()
    except TypeError as error:
        raise RejectedError(f"cannot be stored as JSON: {error}") from None


def decode_json(text: str | None) -> Json:
    """None stays None."""
    return None if text is None else orjson.loads(text)


def device_columns(device: Device) -> tuple[Any, ...]:
    """As in table `device`; ids are UUID."""
    credentials = device.credentials
    return (
        device.id,
        device.name,
        device.type,
        device.profile_id,
        device.label,
        device.created_ms,
        device.local_name,
        device.is_gateway,
        device.origin,
        credentials.type if credentials else None,
        credentials.credentials_id if credentials else None,
        credentials.value if credentials else None,
        None if device.json is None else encode_json(device.json),
    )


def device_of(row: tuple[Any, ...]) -> Device:
    """The reverse of `device_columns`."""
    return Device(
        id=row[0],
        name=row[1],
        type=row[2],
        profile_id=row[3],
        label=row[4],
        created_ms=row[5],
        local_name=row[6],
        is_gateway=bool(row[7]),
        origin=row[8],
        credentials=Credentials(type=row[9], credentials_id=row[10], value=row[11]) if row[9] is not None else None,
        json=decode_json(row[12]),
    )


def profile_columns(profile: DeviceProfile) -> tuple[Any, ...]:
    """As in table `profile`; ids are UUID."""
    return (
        profile.id,
        profile.name,
        profile.origin,
        profile.is_default,
        profile.default_rule_chain_id,
        None if profile.json is None else encode_json(profile.json),
    )


def profile_of(row: tuple[Any, ...]) -> DeviceProfile:
    """The reverse of `profile_columns`."""
    return DeviceProfile(
        id=row[0],
        name=row[1],
        origin=row[2],
        is_default=bool(row[3]),
        default_rule_chain_id=row[4],
        json=decode_json(row[5]),
    )


def body_text(body: bytes | None) -> str | None:
    """An event's body as text.

    Raises:
        RejectedError: Not UTF-8.
    """
    if body is None:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise RejectedError("the body of an event is not UTF-8") from None


def uuid_or_none(value: UUID | None) -> UUID | None:
    """An id as it is: the dialect of a database whose driver knows UUID."""
    return value
