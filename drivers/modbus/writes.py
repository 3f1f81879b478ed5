"""One point at a time, for somebody who waits for it: written and read back, or read now."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.modbus.registers import Table, Type, encode, merge, truth, truths
from drivers.modbus.tags import Tag
from drivers.modbus.wire import ModbusWire, Refused
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError


class Writes:
    """What calls do on the wire of one bus."""

    def __init__(self, bus: str, wire: ModbusWire) -> None:
        self._bus, self._wire = bus, wire

    async def write(self, tag: Tag, value: Json) -> Value:
        """Write, then read back: the value that the device now has.

        Raises:
            RejectedError: Not writable, a bad value, or refused by the device.
            TransientError: No answer; the value may have arrived.
        """
        if not tag.is_writable:
            raise RejectedError(f"{tag.name} is not writable; `writable: true` makes it so")
        try:
            await self._write(tag, tag.to_write(value))
        except Refused:
            raise
        except RejectedError as error:
            raise self._placed(tag, error) from None
        return await self.read(tag)

    async def read(self, tag: Tag) -> Value:
        """One point, now."""
        content: Sequence[int]
        if tag.table.is_bits:
            content = await self._wire.read_bits(tag.unit_id, tag.table, tag.address, tag.count)
        else:
            content = await self._wire.read_registers(tag.unit_id, tag.table, tag.address, tag.count)
        try:
            return tag.value(content)
        except RejectedError as error:
            raise self._placed(tag, error) from None

    def _placed(self, tag: Tag, error: RejectedError) -> RejectedError:
        return RejectedError(f"{self._bus}: unit {tag.unit_id}, {tag.table} {tag.address} ({tag.name}): {error}")

    async def _write(self, tag: Tag, value: Json) -> None:
        wire = self._wire
        if tag.table is Table.COIL:
            bits = truths(value, tag.count) if tag.layout.type is Type.BITS else [truth(value)]
            await wire.write_bits(tag.unit_id, tag.address, bits)
        elif tag.layout.type in (Type.BIT, Type.BITS):
            present = await wire.read_registers(tag.unit_id, tag.table, tag.address, tag.count)
            await wire.write_registers(tag.unit_id, tag.address, merge(present, value, tag.layout))
        else:
            await wire.write_registers(tag.unit_id, tag.address, encode(value, tag.layout))
