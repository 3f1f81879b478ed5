"""Numbers that registers hold in other ways than two's complement and IEEE 754. Pure, on plain integers.

Source: BCD and fields of a register are vendor practice.
"""

from __future__ import annotations

from gateway.domain.telemetry import Value
from gateway.errors import RejectedError


def field_of(word: int, bit: int, width: int) -> int:
    """`width` bits of a register from `bit` on, as a number."""
    return word >> bit & (1 << width) - 1


def put(word: int, value: int, bit: int, width: int) -> int:
    """The register with `value` in these bits, the others as they were."""
    mask = (1 << width) - 1
    return word & ~(mask << bit) & 0xFFFF | (value & mask) << bit


def from_bcd(content: int) -> int:
    """0x1234 → 1234.

    Raises:
        RejectedError: A digit above 9.
    """
    text = f"{content:x}"
    if not text.isdecimal():
        raise RejectedError(f"0x{text.upper()} is no BCD: its digits are 0 to 9")
    return int(text)


def to_bcd(value: int) -> int:
    """1234 → 0x1234."""
    return int(str(value), 16)


def plausible(value: Value, low: float, high: float) -> Value:
    """The value itself.

    Raises:
        RejectedError: A number that lies outside.
    """
    if isinstance(value, int | float) and not low <= value <= high:
        raise RejectedError(f"{value:g} is not plausible; {low:g} to {high:g} would be")
    return value
