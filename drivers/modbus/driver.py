"""Polls, reads and writes of one Modbus bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from drivers.modbus.config import ModbusConfig
from drivers.modbus.lines import TcpLine, TlsLine
from drivers.modbus.places import is_place, placed_tag
from drivers.modbus.reads import Reads
from drivers.modbus.tags import Tag, spans
from drivers.modbus.wire import ModbusWire
from drivers.modbus.wire_open import open_wire
from drivers.modbus.writes import Writes
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import Clock, DriverDevice, Poll, Query, RawRequest, Reading, Write, WriteTogether, Wrote


class ModbusDriver:
    """Implements `Driver`: polls are those of `reads.py`, calls those of `writes.py`."""

    def __init__(self, config: ModbusConfig, wire: ModbusWire, clock: Clock) -> None:
        self._config, self._wire, self._clock = config, wire, clock
        points = list(spans(config))
        self._tags = {(span.point.device, span.point.key): span.point for span in points}
        self._reads = Reads(config, [span for span in points if span.point.is_polled], wire, clock)
        self._writes = Writes(config.name, wire)

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on this bus."""
        return known_devices(self._config)

    def polls(self) -> Sequence[Poll]:
        """One a group of neighbouring points."""
        return self._reads.polls()

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """The points of one group; empty when all of them are set aside.

        Raises:
            TransientError: The unit is silent. `BusLost`: no connection.
            RejectedError: The unit refused all of the group just now.
        """
        return await self._reads.read(poll)

    async def write(self, command: Write) -> Value:
        """Write, then read back: the value that the device now has.

        Raises:
            RejectedError: No such point, not writable, a bad value, or refused by the device.
            TransientError: No answer; the value may have arrived.
        """
        tag = self._tag(command.device, command.key, may_write=True)
        return await self._writes.write(tag, command.value)

    def together(self, device: str, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        """Implements `GroupWriter`: neighbours share a request."""
        parts: list[list[str]] = []
        known: list[Tag] = []
        for key in [*keys, None]:
            tag = None if key is None else self._tags.get((device, key))
            if tag is not None:
                known.append(tag)
                continue
            parts += [[tag.key for tag in part] for part in self._writes.together(known)]
            known = []
            if key is not None:
                parts.append([key])
        return parts

    async def write_together(self, command: WriteTogether) -> Wrote:
        """Implements `GroupWriter`; errors as those of `write`."""
        tags = [self._tag(command.device, key, may_write=True) for key in command.values]
        return await self._writes.write_together(tags, command.values)

    async def query(self, query: Query) -> Value:
        """One point, now."""
        return await self._writes.read(self._tag(query.device, query.key))

    async def raw(self, request: RawRequest) -> bytes:
        """Implements `RawLine`."""
        if not request.unit.isdecimal() or int(request.unit) > 255:
            raise RejectedError(f"{self._config.name}: unit {request.unit!r} does not exist; units are 0 to 255")
        return await self._wire.raw(int(request.unit), request.pdu)

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such point."""
        tag = self._tags.get((device, key))
        return None if tag is None else tag.is_writable

    def faults(self) -> Mapping[str, str]:
        """Points set aside, and points whose last value was none (NaN …)."""
        return self._reads.faults()

    def line(self) -> Mapping[str, Json]:
        """Implements `WatchesLine`: what was found out about the units."""
        return self._reads.seen()

    @property
    def in_flight(self) -> int:
        """Implements `Pipelined`."""
        line = self._config.wire
        return line.in_flight if isinstance(line, TcpLine | TlsLine) else 1

    def _tag(self, device: str, key: str, *, may_write: bool = False) -> Tag:
        tag = self._tags.get((device, key))
        if tag is not None:
            return tag
        if is_place(key):
            for each in self._config.devices:
                if each.name == device:
                    return placed_tag(each, key, may_write=may_write)
        raise RejectedError(f"{device} has no point {key!r}")


@asynccontextmanager
async def open_modbus(config: ModbusConfig, clock: Clock) -> AsyncIterator[ModbusDriver]:
    """A driver for one bus. Needs no network: the connection is made by the first request, and again after a loss."""
    wire = open_wire(config, clock)
    try:
        yield ModbusDriver(config, wire, clock)
    finally:
        wire.close()


def known_devices(config: ModbusConfig) -> list[DriverDevice]:
    """All devices of a bus are known from its configuration."""
    return [DriverDevice(name=device.name, profile=device.profile, label=device.label) for device in config.devices]
