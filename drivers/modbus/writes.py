"""Points for somebody who waits for them: written and read back, or read now.

What a unit does not know is learned from its refusals and remembered while the service runs: a mask write, a write of
one register, a write of several points at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from drivers.modbus.registers import Table
from drivers.modbus.tags import Tag
from drivers.modbus.wire import ModbusWire, Refused
from drivers.modbus.write_plan import Content, as_read, content, is_partial, merged, together
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.ports import Wrote

ILLEGAL_FUNCTION: Final = 1
_ONE_REGISTER, _REGISTERS, _MASK, _READ_WRITE = 6, 16, 22, 23


class Writes:
    """What calls do on the wire of one bus."""

    def __init__(self, bus: str, wire: ModbusWire) -> None:
        self._bus, self._wire = bus, wire
        self._without: set[tuple[int, int]] = set()  # unit and the function that it does not know
        self._one_by_one: set[int] = set()  # units that do not take several points in one request

    def together(self, tags: Sequence[Tag]) -> list[list[Tag]]:
        """In their order, cut into those that one request writes."""
        return [part for whole in together(tags) for part in self._parts(whole)]

    def _parts(self, whole: list[Tag]) -> list[list[Tag]]:
        return [[tag] for tag in whole] if whole[0].unit_id in self._one_by_one else [whole]

    async def write(self, tag: Tag, value: Json) -> Value:
        """Write, then read back: the value that the device now has.

        Raises:
            RejectedError: Not writable, a bad value, or refused by the device.
            TransientError: No answer; the value may have arrived.
        """
        return (await self.write_together([tag], {tag.key: value})).values[tag.key]

    async def write_together(self, tags: Sequence[Tag], values: Mapping[str, Json]) -> Wrote:
        """One part of `together`, in one request and one to read back; raises as `write` when nothing was written.

        When the unit refuses several points at once, they are written one by one: then the culprit is known, and what
        was written before it.
        """
        for tag in tags:
            if not tag.is_writable:
                raise RejectedError(f"{tag.name} is not writable; `writable: true` makes it so")
        if len(tags) == 1:
            return await self._write_at_once(tags, values)
        try:
            return await self._write_at_once(tags, values)
        except Refused:
            done = await self._write_one_by_one(tags, values)
        if done.error is None:
            self._one_by_one.add(tags[0].unit_id)
        return done

    async def read(self, tag: Tag) -> Value:
        """One point, now."""
        found = await self._content(tag, tag.address, tag.count)
        try:
            return tag.value(found)
        except RejectedError as error:
            raise self._placed(tag, error) from None

    async def _write_one_by_one(self, tags: Sequence[Tag], values: Mapping[str, Json]) -> Wrote:
        written: dict[str, Value] = {}
        notes: dict[str, str] = {}
        for tag in tags:
            try:
                wrote = await self._write_at_once([tag], values)
            except (RejectedError, TransientError) as error:
                if not written:
                    raise
                return Wrote(values=written, notes=notes, error=error)
            written |= wrote.values
            notes |= wrote.notes
        return Wrote(values=written, notes=notes)

    async def _write_at_once(self, tags: Sequence[Tag], values: Mapping[str, Json]) -> Wrote:
        first = tags[0]
        held: Sequence[int] | None = None
        try:
            if first.count > 1 and is_partial(first.layout, first.table):
                present = await self._content(first, first.address, first.count)
                what = Content(first.address, merged(first, present, values))
                await self._write_registers(first, what)
            else:
                what = content(tags, values)
                if what.keep is not None:
                    await self._write_bits_of_register(first, what)
                elif first.table is Table.COIL:
                    await self._write_coils(first, what)
                elif first.write_function == _READ_WRITE:
                    held = await self._wire.read_write_registers(
                        first.unit_id, what.address, len(what.values), what.address, what.values
                    )
                else:
                    await self._write_registers(first, what)
        except Refused:
            raise
        except RejectedError as error:
            text = str(error)
            raise RejectedError(text if text.startswith(f"{self._bus}: ") else f"{self._bus}: {text}") from None
        if held is None:
            held = await self._read_back(first, what) if first.read_back else None
        return self._compare(tags, what, held, values)

    async def _read_back(self, tag: Tag, what: Content) -> Sequence[int]:
        try:
            return await self._content(tag, what.address, len(what.values))
        except RejectedError as error:
            hint = "`read_back: false` is for what can only be written"
            raise RejectedError(f"written, but it cannot be read back: {error}; {hint}") from error
        except TransientError as error:
            raise TransientError(f"written, but not read back: {error}") from error

    def _compare(
        self, tags: Sequence[Tag], what: Content, held: Sequence[int] | None, values: Mapping[str, Json]
    ) -> Wrote:
        found: dict[str, Value] = {}
        notes: dict[str, str] = {}
        for tag in tags:
            start = tag.address - what.address
            wanted = as_read(tag, what.values[start : start + tag.count])
            now = wanted if held is None else list(held[start : start + tag.count])
            try:
                found[tag.key] = tag.value(now)
                if what.keep is not None:
                    wanted = [now[0] & what.keep | wanted[0] & ~what.keep & 0xFFFF]
                is_same = tag.value(wanted) == found[tag.key]
            except RejectedError as error:
                raise self._placed(
                    tag, RejectedError(f"written, but what the device now holds is no value: {error}")
                ) from error
            if not is_same:
                notes[tag.key] = f"{_text(values[tag.key])} was written; the device holds {_text(found[tag.key])}"
        return Wrote(values=found, notes=notes)

    async def _write_coils(self, tag: Tag, what: Content) -> None:
        bits = [bool(value) for value in what.values]
        if tag.write_function == 5:
            for place, bit in enumerate(bits):
                await self._wire.write_bits(tag.unit_id, what.address + place, [bit])
            return
        await self._wire.write_bits(tag.unit_id, what.address, bits, is_several=tag.write_function == 15)

    async def _write_registers(self, tag: Tag, what: Content) -> None:
        unit, function, words = tag.unit_id, tag.write_function, what.values
        if function == _ONE_REGISTER:
            for place, word in enumerate(words):
                await self._wire.write_registers(unit, what.address + place, [word])
        elif function == _MASK:
            await self._wire.mask_register(unit, what.address, 0, words[0])
        elif function == _READ_WRITE:
            await self._wire.read_write_registers(unit, what.address, len(words), what.address, words)
        elif function == _REGISTERS or len(words) > 1 or (unit, _ONE_REGISTER) in self._without:
            await self._wire.write_registers(unit, what.address, words, is_several=True)
        else:
            try:
                await self._wire.write_registers(unit, what.address, words)
            except Refused as error:
                if error.code != ILLEGAL_FUNCTION:
                    raise
                await self._wire.write_registers(unit, what.address, words, is_several=True)
                self._without.add((unit, _ONE_REGISTER))

    async def _write_bits_of_register(self, tag: Tag, what: Content) -> None:
        """Function 22 where the unit knows it, else read, change, write; both do no harm, it is the same bits."""
        unit, keep = tag.unit_id, what.keep or 0
        may_mask = tag.write_function in (None, _MASK) and (unit, _MASK) not in self._without
        why: Refused | TransientError | None = None
        if tag.write_function == _MASK or may_mask:
            try:
                await self._wire.mask_register(unit, what.address, keep, what.values[0])
                return
            except Refused as error:
                if tag.write_function == _MASK or error.code != ILLEGAL_FUNCTION:
                    raise
                why = error
            except BusLost:
                raise
            except TransientError as error:  # some devices are silent to what they do not know
                if tag.write_function == _MASK:
                    raise
                why = error
        present = (await self._content(tag, what.address, 1))[0]
        if why is not None:
            self._without.add((unit, _MASK))
        await self._write_registers(tag, Content(what.address, [present & keep | what.values[0] & ~keep & 0xFFFF]))

    async def _content(self, tag: Tag, address: int, count: int) -> Sequence[int]:
        if tag.table.is_bits:
            return await self._wire.read_bits(tag.unit_id, tag.table, address, count)
        return await self._wire.read_registers(tag.unit_id, tag.table, address, count)

    def _placed(self, tag: Tag, error: RejectedError) -> RejectedError:
        return RejectedError(f"{self._bus}: unit {tag.unit_id}, {tag.table} {tag.address} ({tag.name}): {error}")


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
