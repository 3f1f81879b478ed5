"""The talking, as the driver sees it: tables and words; the errors say who was asked for what, and what happens next.

Who carries the question is a `Master`: `wire_tcp.py` (TCP, TLS, UDP) or `wire_line.py` (RTU and ASCII).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from drivers.modbus.protocol.pdu import READS, Function, Question, Request, bits, question, raw_question, reading, words
from drivers.modbus.registers import Table
from drivers.modbus.wire_master import Closed, Damaged, Master, NoAnswer, Silent, Unreachable
from gateway.errors import BusLost, RejectedError, TransientError

_READ_FUNCTIONS: Final = {
    Table.COIL: Function.READ_COILS,
    Table.DISCRETE_INPUT: Function.READ_DISCRETE_INPUTS,
    Table.HOLDING_REGISTER: Function.READ_HOLDING_REGISTERS,
    Table.INPUT_REGISTER: Function.READ_INPUT_REGISTERS,
}
EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledged, still working",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}
"""Source: Modbus Application Protocol V1.1b3 §7."""

_FINAL: Final = frozenset({1, 2, 3, 4})
"""Codes after which asking the same again is of no use. 4 is among them because many devices, asked for a
register that they do not have, answer just that."""


class Refused(RejectedError):
    """The device answered with an exception code; `code` is that code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class ModbusWire:
    """One bus, opened when it is needed. `place` is where it is, for the errors.

    Errors of all requests: `BusLost` (no connection), `TransientError` (this unit is silent, busy, or answered
    nonsense), `Refused` (exception code). Their text names bus, unit, table, address and function.
    """

    def __init__(self, bus: str, place: str, master: Master) -> None:
        self._bus, self._place, self._master = bus, place, master

    @property
    def connects(self) -> int:
        """How often the connection was made."""
        return self._master.connects

    def close(self) -> None:
        """Safe to call twice."""
        self._master.close()

    async def read_bits(self, unit_id: int, table: Table, address: int, count: int) -> Sequence[bool]:
        """Coils or discrete inputs, in address order."""
        answer = await self._ask(unit_id, table, address, reading(_READ_FUNCTIONS[table], address, count), is_read=True)
        return bits(answer, count)

    async def read_registers(self, unit_id: int, table: Table, address: int, count: int) -> Sequence[int]:
        """Holding or input registers, in address order."""
        answer = await self._ask(unit_id, table, address, reading(_READ_FUNCTIONS[table], address, count), is_read=True)
        return words(answer)

    async def write_bits(self, unit_id: int, address: int, bits: Sequence[bool], *, is_several: bool = False) -> None:
        """Function 5 for one coil, 15 for several; for one too when `is_several` says so."""
        function = Function.WRITE_COIL if len(bits) == 1 and not is_several else Function.WRITE_COILS
        asked = question(Request(function, address, values=tuple(int(bit) for bit in bits)))
        await self._ask(unit_id, Table.COIL, address, asked, is_read=False)

    async def write_registers(
        self, unit_id: int, address: int, words: Sequence[int], *, is_several: bool = False
    ) -> None:
        """Function 6 for one register, 16 for several; for one too when `is_several` says so."""
        function = Function.WRITE_REGISTER if len(words) == 1 and not is_several else Function.WRITE_REGISTERS
        asked = question(Request(function, address, values=tuple(words)))
        await self._ask(unit_id, Table.HOLDING_REGISTER, address, asked, is_read=False)

    async def mask_register(self, unit_id: int, address: int, and_mask: int, or_mask: int) -> None:
        """Function 22: register = register & and_mask | or_mask & ~and_mask, within the device."""
        asked = question(Request(Function.MASK_REGISTER, address, values=(and_mask, or_mask)))
        await self._ask(unit_id, Table.HOLDING_REGISTER, address, asked, is_read=False)

    async def read_write_registers(
        self, unit_id: int, address: int, count: int, write_address: int, words_written: Sequence[int]
    ) -> Sequence[int]:
        """Function 23: writes, then reads, in one exchange."""
        asked = question(Request(Function.READ_WRITE_REGISTERS, address, count, tuple(words_written), write_address))
        return words(await self._ask(unit_id, Table.HOLDING_REGISTER, address, asked, is_read=False))

    async def raw(self, unit_id: int, pdu: bytes) -> bytes:
        """The PDU that answers, refusals included; b"" from unit 0 of a line."""
        asked = raw_question(pdu)
        is_read = asked.function in READS and not asked.is_open
        answer = await self._exchange(f"{self._bus}: unit {unit_id}", unit_id, asked, is_read=is_read)
        if not answer and is_read:
            raise self._unread()
        return answer

    async def _ask(self, unit_id: int, table: Table, address: int, asked: Question, *, is_read: bool) -> bytes:
        answer = await self._exchange(
            f"{self._bus}: unit {unit_id}, {table} {address}", unit_id, asked, is_read=is_read
        )
        if not answer and is_read:
            raise self._unread()
        code = asked.refusal(answer)
        if code is None:
            return answer
        text = (
            f"{self._bus}: unit {unit_id}, {table} {address}: function {asked.function:#04x} refused: "
            f"{EXCEPTIONS.get(code, 'exception')} ({code})"
        )
        raise Refused(text, code) if code in _FINAL else TransientError(text)

    def _unread(self) -> RejectedError:
        return RejectedError(f"{self._bus}: unit 0 is all units of a line: it can be written, not read")

    async def _exchange(self, where: str, unit_id: int, asked: Question, *, is_read: bool) -> bytes:
        was_open = self._master.is_open
        try:
            try:
                return await self._master.ask(unit_id, asked)
            except (Closed, Damaged) as error:
                # A device may drop an idle connection at any time, and a line may flip a bit: no outage. A write
                # is sent once.
                if not (is_read and was_open and (isinstance(error, Closed) or self._master.is_open)):
                    raise
                return await self._master.ask(unit_id, asked)
        except NoAnswer as error:
            raise self._error(where, asked.function, error) from error

    def _error(self, where: str, function: int, error: NoAnswer) -> TransientError:
        if isinstance(error, Unreachable):
            return BusLost(f"{self._bus}: no connection to {self._place}: {error}", again_s=error.again_s)
        if isinstance(error, Closed):
            return TransientError(f"{where}: {error} on function {function:#04x}")
        if isinstance(error, Silent):
            rest = str(error).removeprefix("no answer")
            return TransientError(f"{where}: no answer to function {function:#04x}{rest}")
        return TransientError(f"{where}: {error}")
