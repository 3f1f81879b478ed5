"""Polls, reads and writes of one Modbus bus."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from drivers.modbus.config import ModbusConfig
from drivers.modbus.grouping import Request, Span, group
from drivers.modbus.places import is_place, placed_tag
from drivers.modbus.tags import Tag, spans
from drivers.modbus.wire import ModbusWire, Refused
from drivers.modbus.wire_open import open_wire
from drivers.modbus.writes import Writes
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import Clock, DriverDevice, Poll, PollPoint, Query, RawRequest, Reading, Write, WriteTogether, Wrote

log = logging.getLogger(__name__)

SET_ASIDE_S: Final = 60.0
"""How long a refused point is left alone before the device is asked for it again."""


@dataclass(slots=True)
class _Plan:
    """How one poll is read: one request, or several after the device refused it."""

    origin: Request[Tag]
    requests: list[Request[Tag]]
    set_aside: dict[str, str] = field(default_factory=dict)
    ask_again_s: float = 0.0


class ModbusDriver:
    """Implements `Driver`. Reads in groups; a refused group is taken apart, and its culprits set aside for a while."""

    def __init__(self, config: ModbusConfig, wire: ModbusWire, clock: Clock) -> None:
        self._config, self._wire, self._clock = config, wire, clock
        points = list(spans(config))
        self._tags = {(span.point.device, span.point.key): span.point for span in points}
        requests = group(
            points,
            max_gap_registers=config.max_gap_registers,
            max_gap_bits=config.max_gap_bits,
            max_count=None if config.max_registers == 125 else config.max_registers,
        )
        self._plans = {_poll(request): _Plan(request, [request]) for request in requests}
        self._writes = Writes(config.name, wire)
        self._bad_values: dict[str, str] = {}
        self._told: set[str] = set()  # points whose refusal is in the log

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on this bus."""
        return known_devices(self._config)

    def polls(self) -> Sequence[Poll]:
        """One a group of neighbouring points."""
        return list(self._plans)

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """The points of one group; empty when all of them are set aside.

        Raises:
            TransientError: The unit is silent. `BusLost`: no connection.
            RejectedError: The unit refused all of the group just now.
        """
        plan = self._plans[poll]
        if plan.set_aside and self._clock.monotonic_s() >= plan.ask_again_s:
            plan.requests, plan.set_aside = [plan.origin], {}
        readings: list[Reading] = []
        for request in list(plan.requests):
            try:
                readings += await self._read(request)
            except Refused as error:
                readings += await self._take_apart(plan, request, error)
        return readings

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
        found = dict(self._bad_values)
        for plan in self._plans.values():
            found.update(plan.set_aside)
        return found

    def _tag(self, device: str, key: str, *, may_write: bool = False) -> Tag:
        tag = self._tags.get((device, key))
        if tag is not None:
            return tag
        if is_place(key):
            for each in self._config.devices:
                if each.name == device:
                    return placed_tag(each, key, may_write=may_write)
        raise RejectedError(f"{device} has no point {key!r}")

    async def _read(self, request: Request[Tag]) -> list[Reading]:
        content: Sequence[int]
        if request.table.is_bits:
            content = await self._wire.read_bits(request.unit_id, request.table, request.address, request.count)
        else:
            content = await self._wire.read_registers(request.unit_id, request.table, request.address, request.count)
        ts_ms = self._clock.now_ms()
        readings: list[Reading] = []
        for span in request.spans:
            tag = span.point
            start = span.address - request.address
            try:
                value = tag.value(content[start : start + span.count])
            except RejectedError as error:
                self._bad_values[tag.name] = str(error)
                continue
            if self._bad_values:
                self._bad_values.pop(tag.name, None)
            readings.append(
                Reading(device=tag.device, key=tag.key, value=value, ts_ms=ts_ms, is_attribute=tag.is_attribute)
            )
        return readings

    async def _take_apart(self, plan: _Plan, refused: Request[Tag], error: Refused) -> list[Reading]:
        """Read the points of a refused request one by one; from now on those that answered go without the others."""
        readings: list[Reading] = []
        good: list[Span[Tag]] = []
        aside: dict[str, str] = {}
        for span in refused.spans:
            alone = group([span])[0]
            if len(refused.spans) == 1:
                aside[span.point.name] = str(error)
                continue
            try:
                readings += await self._read(alone)
                good.append(span)
            except Refused as own:
                aside[span.point.name] = str(own)
        requests = group(good, max_gap_registers=0, max_gap_bits=0)
        if len(requests) == 1 and requests[0].count == refused.count:
            # Every point answers alone and nothing lies between them: the request is too long for this device.
            requests = group(good, max_gap_registers=0, max_gap_bits=0, max_count=max(1, refused.count // 2))
        place = plan.requests.index(refused)
        plan.requests[place : place + 1] = requests
        if aside:
            plan.set_aside.update(aside)
            plan.ask_again_s = self._clock.monotonic_s() + SET_ASIDE_S
            if good:  # otherwise the error below speaks for all of them
                self._tell(aside)
        if not good and not plan.requests:
            raise error
        return readings

    def _tell(self, aside: Mapping[str, str]) -> None:
        for name, reason in aside.items():
            if name not in self._told:
                self._told.add(name)
                log.warning("%s is set aside, its neighbours are read on: %s", name, reason)


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


def _poll(request: Request[Tag]) -> Poll:
    return Poll(
        key=f"{request.unit_id}/{request.table}/{request.address}+{request.count}@{request.every_ms}",
        every_s=request.every_ms / 1000,
        unit=str(request.unit_id),
        points=tuple(
            PollPoint(device=span.point.device, key=span.point.key, report=span.point.report) for span in request.spans
        ),
    )
