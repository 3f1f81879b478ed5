"""Domain ⇄ protobuf. The only readers of `pb/` are the modules gathered here: bytes go in and out.

`encode` makes `RequestMsg`, `decode` reads `ResponseMsg`; this module holds what both need.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from gateway.domain.entity import NULL_UUID
from gateway.errors import RejectedError

_LOW: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63


def halves(id_: UUID) -> tuple[int, int]:
    """The high and the low 64 bits as signed numbers (Java's `getMostSignificantBits` and its twin)."""
    number = id_.int
    high, low = number >> 64, number & _LOW
    return high - (1 << 64) if high & _SIGN else high, low - (1 << 64) if low & _SIGN else low


def uuid_of(high: int, low: int) -> UUID:
    """The reverse of `halves`."""
    return UUID(int=(high & _LOW) << 64 | low & _LOW)


def optional_uuid(high: int, low: int) -> UUID | None:
    """None for "no id", which is written as zeros or as `NULL_UUID`."""
    if not high or not low:
        return None
    id_ = uuid_of(high, low)
    return None if id_ == NULL_UUID else id_


def required_uuid(high: int, low: int, what: str) -> UUID:
    """An id that has to be there.

    Raises:
        RejectedError: It is not.
    """
    if not high or not low:
        raise RejectedError(f"{what} has no id")
    return uuid_of(high, low)
