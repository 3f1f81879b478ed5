"""The door to pymodbus: one TCP connection, one question at a time. pymodbus 3.16, and nothing else imports its client.

A late answer can never be credited to another question: whatever ends a question without its answer also ends
the connection, and each connection is a new client object with a new socket. (pymodbus alone would compare
transaction ids, but lets an answer with id 0 through.)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ModbusPDU

from drivers.modbus.registers import Table
from gateway.errors import BusLost, RejectedError, TransientError

# Its complaints reach our log as errors of ours, once an outage; its own lines would repeat with every request.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

_READ_FUNCTIONS: Final = {
    Table.COIL: 1,
    Table.DISCRETE_INPUT: 2,
    Table.HOLDING_REGISTER: 3,
    Table.INPUT_REGISTER: 4,
}
_EXCEPTIONS: Final = {
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
    """One connection, opened when it is needed. Called by one task at a time.

    Errors of all requests: `BusLost` (no connection), `TransientError` (this unit is silent, busy, or answered
    nonsense), `Refused` (exception code). Their text names bus, unit, table, address and function.
    """

    def __init__(self, bus: str, host: str, port: int, timeout_s: float) -> None:
        self._bus, self._host, self._port, self._timeout_s = bus, host, port, timeout_s
        self._client: AsyncModbusTcpClient | None = None
        self._is_asking = False
        self.connects = 0

    def close(self) -> None:
        """Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def read_bits(self, unit_id: int, table: Table, address: int, count: int) -> Sequence[bool]:
        """Coils or discrete inputs, in address order."""

        def question(client: AsyncModbusTcpClient) -> Awaitable[ModbusPDU]:
            ask = client.read_coils if table is Table.COIL else client.read_discrete_inputs
            return ask(address, count=count, device_id=unit_id)

        where = f"unit {unit_id}, {table} {address}"
        answer = await self._ask(where, _READ_FUNCTIONS[table], question, is_repeatable=True)
        if len(answer.bits) != (count + 7) // 8 * 8:
            raise self._nonsense(where, f"{len(answer.bits)} bits where {count} were asked for")
        return answer.bits[:count]

    async def read_registers(self, unit_id: int, table: Table, address: int, count: int) -> Sequence[int]:
        """Holding or input registers, in address order."""

        def question(client: AsyncModbusTcpClient) -> Awaitable[ModbusPDU]:
            ask = client.read_holding_registers if table is Table.HOLDING_REGISTER else client.read_input_registers
            return ask(address, count=count, device_id=unit_id)

        where = f"unit {unit_id}, {table} {address}"
        answer = await self._ask(where, _READ_FUNCTIONS[table], question, is_repeatable=True)
        if len(answer.registers) != count:
            raise self._nonsense(where, f"{len(answer.registers)} registers where {count} were asked for")
        return answer.registers

    async def write_bits(self, unit_id: int, address: int, bits: Sequence[bool]) -> None:
        """Function 5 for one coil, 15 for several."""

        def question(client: AsyncModbusTcpClient) -> Awaitable[ModbusPDU]:
            if len(bits) == 1:
                return client.write_coil(address, bits[0], device_id=unit_id)
            return client.write_coils(address, list(bits), device_id=unit_id)

        await self._ask(f"unit {unit_id}, coil {address}", 5 if len(bits) == 1 else 15, question, is_repeatable=False)

    async def write_registers(self, unit_id: int, address: int, words: Sequence[int]) -> None:
        """Function 6 for one register, 16 for several."""

        def question(client: AsyncModbusTcpClient) -> Awaitable[ModbusPDU]:
            if len(words) == 1:
                return client.write_register(address, words[0], device_id=unit_id)
            return client.write_registers(address, list(words), device_id=unit_id)

        where = f"unit {unit_id}, holding_register {address}"
        await self._ask(where, 6 if len(words) == 1 else 16, question, is_repeatable=False)

    async def _ask(
        self,
        where: str,
        function: int,
        question: Callable[[AsyncModbusTcpClient], Awaitable[ModbusPDU]],
        *,
        is_repeatable: bool,
    ) -> ModbusPDU:
        had_connection = self._client is not None and self._client.connected
        try:
            answer = await self._ask_once(question)
        except ConnectionException:
            # A device may drop an idle connection at any time; that alone is no outage.
            if not (is_repeatable and had_connection):
                raise self._lost(where, function) from None
            try:
                answer = await self._ask_once(question)
            except ConnectionException:
                raise self._lost(where, function) from None
            except ModbusException as error:
                raise self._silent(where, function) from error
        except ModbusException as error:
            raise self._silent(where, function) from error
        if answer.isError():
            code = answer.exception_code
            text = (
                f"{self._bus}: {where}: function {function:#04x} refused: {_EXCEPTIONS.get(code, 'exception')} ({code})"
            )
            raise Refused(text, code) if code in _FINAL else TransientError(text)
        if answer.function_code != function:
            raise self._nonsense(where, f"function {answer.function_code:#04x} answers {function:#04x}")
        return answer

    async def _ask_once(self, question: Callable[[AsyncModbusTcpClient], Awaitable[ModbusPDU]]) -> ModbusPDU:
        client = await self._connect()
        has_answer = False
        self._is_asking = True
        try:
            answer = await question(client)
            has_answer = True
            return answer
        finally:
            self._is_asking = False
            if not has_answer:
                self.close()

    async def _connect(self) -> AsyncModbusTcpClient:
        if self._client is not None and self._client.connected:
            return self._client
        self.close()
        client = AsyncModbusTcpClient(
            self._host,
            port=self._port,
            timeout=self._timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_connect=lambda is_up: self._connection_changed(client, is_up),
        )
        if not await client.connect():
            client.close()
            raise BusLost(
                f"{self._bus}: no connection to {self._host}:{self._port}: refused, or silent for {self._timeout_s:g} s"
            )
        self._client = client
        self.connects += 1
        return client

    def _connection_changed(self, client: AsyncModbusTcpClient, is_up: bool) -> None:
        """Fail the open question at once: pymodbus would let it wait for its whole timeout."""
        future = client.ctx.response_future
        if not is_up and self._is_asking and client is self._client and not future.done():
            future.set_exception(ConnectionException("connection lost"))

    def _silent(self, where: str, function: int) -> TransientError:
        return TransientError(f"{self._bus}: {where}: no answer to function {function:#04x} in {self._timeout_s:g} s")

    def _lost(self, where: str, function: int) -> TransientError:
        return TransientError(f"{self._bus}: {where}: connection closed by the device on function {function:#04x}")

    def _nonsense(self, where: str, problem: str) -> TransientError:
        self.close()
        return TransientError(f"{self._bus}: {where}: {problem}")
