"""What the bytes that came say of the settings, when no frame comes of them. Pure.

A device that is slower than the port by a whole factor leaves a trace in every byte: each of its bits is seen several
times over, so that the bits of a byte, its start bit first, come in groups of that size. Where the groups begin depends
on where the port found its start bit: after a framing error it may be in the middle of one. (A faster device leaves no
such trace: bits of it were never looked at.) A device with seven data bits and parity, read with eight and none, has
its parity in the top bit of each byte, and text in the others.
"""

from __future__ import annotations

from typing import Final

MIN_BYTES: Final = 12
"""Fewer bytes prove nothing. With a factor of two, one of eight random bytes looks right by chance."""

_MANY: Final = 6
"""From here on a byte mostly shows parts of two bits, and factors look alike."""


def stretched(data: bytes) -> int | None:
    """How many times over each bit of the device was seen: 2, 3, 4, or 6 for 6 and more; None: nothing says so.

    Source: the character of a UART: a start bit 0, eight data bits with the lowest first, a stop bit 1.
    """
    seen = set(data)
    if len(data) < MIN_BYTES or len(seen) < 3:
        return None
    if all(len(_changes(byte)) < 2 for byte in seen):
        return _MANY
    return next((factor for factor in (4, 3, 2) if all(_is_stretched(byte, factor) for byte in seen)), None)


def seven_bits(data: bytes) -> str | None:
    """`7E1` or `7O1` where eight bits without parity are text with a parity bit on top; None: they are not."""
    if len(data) < MIN_BYTES or max(data) < 128 or not all(_is_text(byte & 0x7F) for byte in data):
        return None
    odd = sum(byte.bit_count() & 1 for byte in data)
    return {0: "7E1", len(data): "7O1"}.get(odd)


def other_end(data: bytes, end: bytes) -> str | None:
    """What seems to end the lines of a text, when `end` is nowhere in it; None: it is, or nothing else is."""
    if end in data:
        return None
    found = next((mark for mark in (b"\r\n", b"\r", b"\n", b"\x03", b"\0") if mark in data), None)
    if found is None or sum(map(_is_text, data)) < 0.9 * len(data):
        return None
    return f"the end mark {end.hex(' ').upper()} never came, {found.hex(' ').upper()} did: is `end` of `frame` right?"


def hint(data: bytes, settings: str, baudrate: int, errors: tuple[int, int, int]) -> str:
    """The end of a message: what to try.

    Args:
        data: What came last.
        settings: As `9600 8N1`.
        baudrate: That of the port.
        errors: Characters that the UART found wrong: framing, overrun, parity.
    """
    framing, overrun, parity = errors
    counted = [
        f"{count} {what}"
        for count, what in ((framing, "framing errors"), (parity, "parity errors"), (overrun, "lost in the UART"))
        if count
    ]
    told = f" (the UART counts {', '.join(counted)})" if counted else ""
    if (form := seven_bits(data)) is not None and settings.endswith("8N1"):
        return f"the bytes are text with a parity bit on top{told}: is the device set to {baudrate} {form}?"
    if (factor := stretched(data)) is not None:
        or_less = " or less" if factor == _MANY else ""
        return f"each bit comes {factor} times over{told}: is the device set to {baudrate // factor} baud{or_less}?"
    if framing:
        return f"is {settings} what the device is set to?{told}; framing errors mean another baudrate, mostly"
    if parity:
        return f"is {settings} what the device is set to?{told}; the parity is another one, mostly"
    return f"is {settings} what the device is set to?{told}"


def _is_stretched(byte: int, factor: int) -> bool:
    """Its start bit and its bits come in groups of this size, wherever the first group was cut."""
    return any(all((place - first) % factor == 0 for place in _changes(byte)) for first in range(factor))


def _changes(byte: int) -> list[int]:
    """Which bits differ from the one before; the start bit is number 0."""
    bits = [0, *(byte >> place & 1 for place in range(8))]
    return [place for place in range(1, 9) if bits[place] != bits[place - 1]]


def _is_text(byte: int) -> bool:
    return 32 <= byte < 127 or byte in (9, 10, 13, 2, 3)
