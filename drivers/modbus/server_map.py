"""The tables of one served unit: which value lies where, and what a write means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drivers.modbus.protocol.pdu import Function, Request
from drivers.modbus.protocol.slave import Code
from drivers.modbus.registers import Layout, Table, Type, reader
from drivers.modbus.server_config import ServedPoint, ServedUnit
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

_TABLES = {
    Function.READ_COILS: Table.COIL,
    Function.READ_DISCRETE_INPUTS: Table.DISCRETE_INPUT,
    Function.READ_INPUT_REGISTERS: Table.INPUT_REGISTER,
    Function.WRITE_COIL: Table.COIL,
    Function.WRITE_COILS: Table.COIL,
}
"""All others are about holding registers."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One point, ready for use."""

    point: ServedPoint
    layout: Layout
    value: Callable[[Sequence[int]], Value]  # what was written there means
    bad: tuple[int, ...] | None  # its content when there is no good value; None: exception 4


GoodValue = Callable[[Entry], Value | None]
"""The value that a point shows now; None: there is none that is good."""


class UnitMap:
    """Answers from `GoodValue`; writes are only understood here, never done."""

    def __init__(self, unit: ServedUnit) -> None:
        self.unit_id = unit.unit_id
        self._at: dict[tuple[Table, int], list[Entry]] = {}
        for point in unit.points:
            entry = _entry(point, unit.layout(point))
            for address in range(point.address, point.address + point.span):
                self._at.setdefault((point.table, address), []).append(entry)

    def read(self, function: Function, address: int, count: int, good: GoodValue) -> list[int] | Code:
        """The content of these addresses, or why there is none: 2 where nothing lies, 4 where no value is good."""
        table = _TABLES.get(function, Table.HOLDING_REGISTER)
        found: dict[Entry, Sequence[int] | None] = {}
        content: list[int] = []
        for place in range(address, address + count):
            entries = self._at.get((table, place))
            if entries is None:
                return Code.ILLEGAL_ADDRESS
            word = 0
            for entry in entries:
                if entry not in found:
                    found[entry] = _content(entry, good)
                held = found[entry]
                if held is None:
                    return Code.DEVICE_FAILURE
                word |= held[place - entry.point.address]
            content.append(word)
        return content

    def understand(self, request: Request, good: GoodValue) -> list[tuple[Entry, Value]] | Code:
        """What a write asks for, in the order of the addresses; or the exception: 2 not there, not writable, or only a
        part of a value; 3 no value of its type; 4 nothing good to mask.
        """
        table = _TABLES.get(request.function, Table.HOLDING_REGISTER)
        address = request.write_address if request.function is Function.READ_WRITE_REGISTERS else request.address
        values: Sequence[int] = request.values
        if request.function is Function.MASK_REGISTER:
            present = self.read(request.function, address, 1, good)
            if isinstance(present, Code):
                return present
            and_mask, or_mask = request.values
            values = [present[0] & and_mask | or_mask & ~and_mask & 0xFFFF]
        end, place = address + len(values), address
        wanted: list[tuple[Entry, Value]] = []
        while place < end:
            entries = self._at.get((table, place))
            if entries is None or not entries[0].point.writable:
                return Code.ILLEGAL_ADDRESS
            entry = entries[0]
            behind = place + entry.point.span
            if entry.point.address != place or behind > end:
                return Code.ILLEGAL_ADDRESS
            try:
                wanted.append((entry, entry.value(values[place - address : behind - address])))
            except RejectedError:
                return Code.ILLEGAL_VALUE
            place = behind
        return wanted


def keys(units: Iterable[ServedUnit]) -> list[tuple[str, str]]:
    """Device and key of all telemetry that is shown."""
    return [
        (point.device, point.key)
        for unit in units
        for point in unit.points
        if point.device is not None and point.key is not None and point.source == "telemetry"
    ]


def _entry(point: ServedPoint, layout: Layout) -> Entry:
    bad = None if point.bad_value is None else tuple(point.content(point.bad_value, layout))
    return Entry(point, layout, _meaning(point, layout), bad)


def _content(entry: Entry, good: GoodValue) -> Sequence[int] | None:
    value = good(entry)
    if value is not None:
        try:
            return entry.point.content(value, entry.layout)
        except RejectedError:
            pass  # what cannot be shown is as bad as none
    return entry.bad


def _meaning(point: ServedPoint, layout: Layout) -> Callable[[Sequence[int]], Value]:
    if not point.table.is_bits:
        return reader(layout)
    if layout.type is Type.BITS:
        return lambda bits: [bool(bit) for bit in bits]
    return lambda bits: bool(bits[0])
