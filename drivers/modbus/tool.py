"""Registers by hand: what a person types ⇄ requests, answers ⇄ what a person reads. Implements `RegisterTool`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from drivers.modbus.protocol.pdu import ERROR_BIT, Function, Request, answer, bits, parse, question, words
from drivers.modbus.registers import Layout, Order, Table, Type, decode, encode, truth
from drivers.modbus.wire import EXCEPTIONS
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import Registers

MOST_VALUES: Final = 65_536
_READS: Final = {
    Table.COIL: Function.READ_COILS,
    Table.DISCRETE_INPUT: Function.READ_DISCRETE_INPUTS,
    Table.HOLDING_REGISTER: Function.READ_HOLDING_REGISTERS,
    Table.INPUT_REGISTER: Function.READ_INPUT_REGISTERS,
}
_SHORT: Final = {
    "coils": Table.COIL,
    "discrete": Table.DISCRETE_INPUT,
    "input": Table.INPUT_REGISTER,
    "holding": Table.HOLDING_REGISTER,
}
_TEXTS: Final = (Type.STRING, Type.HEX)
_WRITES: Final = frozenset({5, 6, 15, 16, 21, 22, 23})
_ONE: Final = {Function.WRITE_COIL, Function.WRITE_REGISTER}
_TRUTHS: Final = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


class ModbusTool:
    """See `RegisterTool`."""

    tables: Sequence[str] = [table.value for table in Table]

    def read(self, place: Registers) -> Sequence[bytes]:
        """As few requests as read it; no value is cut in two."""
        table = _table(place.table)
        return [question(Request(_READS[table], address, size)).pdu for address, size in _pieces(place, table)]

    def values(self, place: Registers, answers: Sequence[bytes]) -> Sequence[Value]:
        """What the answers hold, in address order."""
        table = _table(place.table)
        found: list[Value] = []
        for (_, size), pdu in zip(_pieces(place, table), answers, strict=True):
            if table.is_bits:
                found += bits(pdu, size)
                continue
            layout = _layout(place)
            held = words(pdu)
            found += [decode(held[at : at + layout.words], layout) for at in range(0, len(held), layout.words)]
        return found

    def write(self, place: Registers, texts: Sequence[str]) -> bytes:
        """One request, so that all of it is written or nothing."""
        table = _table(place.table)
        if not table.is_writable:
            raise RejectedError(f"{table} cannot be written; coil and holding_register can")
        if not texts:
            raise RejectedError("say what to write")
        if table.is_bits:
            _bool_only(place)
            content = [int(_truth(text)) for text in texts]
            function = Function.WRITE_COIL if len(content) == 1 else Function.WRITE_COILS
        else:
            layout = _layout(place)
            if layout.type in _TEXTS:
                if len(texts) > 1:
                    raise RejectedError(f"{layout.type} is one value: put it in quotation marks")
                size = len(texts[0].encode()) if layout.type is Type.STRING else len(texts[0].replace(" ", "")) // 2
                layout = replace(layout, count=max(1, (size + 1) // 2))
            content = [word for text in texts for word in encode(_value(text, layout), layout)]
            function = Function.WRITE_REGISTER if len(content) == 1 else Function.WRITE_REGISTERS
        if place.function:
            function = self._wanted(place.function, table, len(content))
        return question(Request(function, place.address, values=tuple(content))).pdu

    def _wanted(self, function: int, table: Table, count: int) -> Function:
        right = (5, 15) if table.is_bits else (6, 16)
        if function not in right or (Function(function) in _ONE and count > 1):
            most = f"{right[1]} does" if count > 1 else f"{right[0]} and {right[1]} do"
            raise RejectedError(f"function {function} does not write {count} of {table}; {most}")
        return Function(function)

    def as_read(self, place: Registers, pdu: bytes) -> Sequence[bytes]:
        """Answers to `read` from a unit that has taken all of this write."""
        table, request = _table(place.table), parse(pdu)
        answers = []
        for address, size in _pieces(place, table):
            start = address - request.address
            answers.append(answer(Request(_READS[table], address, size), request.values[start : start + size]))
        return answers

    def width(self, place: Registers) -> int:
        """Addresses that one value takes."""
        return 1 if _table(place.table).is_bits else _layout(place).words

    def refusal(self, pdu: bytes) -> str | None:
        """Why the unit refused; None: it did not."""
        if len(pdu) != 2 or not pdu[0] & ERROR_BIT:
            return None
        function, code = pdu[0] & ~ERROR_BIT, pdu[1]
        text = f"function {function:#04x} refused: {EXCEPTIONS.get(code, 'exception')} ({code})"
        hint = _HINTS.get(code)
        return f"{text}; {hint}" if hint else text

    def may_write(self, pdu: bytes) -> bool:
        """True for the functions that are known to write."""
        return pdu[:1] != b"" and pdu[0] in _WRITES


_HINTS: Final = {
    1: "the unit does not know this function: another table, or --function",
    2: "this address, or one behind it, does not exist: addresses are zero-based, 40001 of a manual is 0",
}


def _pieces(place: Registers, table: Table) -> Iterator[tuple[int, int]]:
    """Address and number of registers or bits of each request."""
    if not 1 <= place.count <= MOST_VALUES:
        raise RejectedError(f"{place.count} values cannot be read; 1 to {MOST_VALUES} can")
    if table.is_bits:
        _bool_only(place)
        each, most, total = 1, 2000, place.count
    else:
        layout = _layout(place)
        each = layout.words
        most, total = 125 // each * each, each * (1 if layout.type in _TEXTS else place.count)
        if each > 125:
            raise RejectedError(f"a {layout.type} of {each} registers; one request reads up to 125")
    if place.address < 0 or place.address + total > 65_536:
        raise RejectedError(f"{total} from address {place.address} on: the last address is 65535")
    address, end = place.address, place.address + total
    while address < end:
        size = min(most, end - address)
        yield address, size
        address += size


def _table(name: str) -> Table:
    found = _SHORT.get(name) or next((table for table in Table if table.value == name), None)
    if found is None:
        raise RejectedError(f"table {name!r} does not exist; it is one of {', '.join(Table)}")
    return found


def _layout(place: Registers) -> Layout:
    kinds = [kind.value for kind in Type if kind not in (Type.BOOL, Type.BIT, Type.BITS, Type.FIELD)]
    kind = place.type or Type.UINT16.value
    if kind not in kinds:
        raise RejectedError(f"type {kind!r} is not for registers; these are: {', '.join(kinds)}")
    for order in (place.byte_order, place.word_order):
        if order not in list(Order):
            raise RejectedError(f"order {order!r} does not exist; it is big or little")
    try:
        return Layout(
            type=Type(kind),
            byte_order=Order(place.byte_order),
            word_order=Order(place.word_order),
            count=place.count if kind in _TEXTS else 1,
        )
    except ValueError as error:
        raise RejectedError(f"type {kind}: {error}") from None


def _bool_only(place: Registers) -> None:
    if place.type not in ("", "bool"):
        raise RejectedError(f"type {place.type!r} is not for single bits; they are bool")


def _truth(text: str) -> bool:
    found = _TRUTHS.get(text.lower())
    if found is None:
        raise RejectedError(f"{text!r} is not true or false: 1, 0, true, false, on, off")
    return truth(found)


def _value(text: str, layout: Layout) -> str | int | float:
    if layout.type in _TEXTS:
        return text
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise RejectedError(f"{text!r} is not a number") from None


tool = ModbusTool()
