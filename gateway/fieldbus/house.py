"""What foreign masters may see and do: the gateway's own values, last values of devices, data in, tags out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from gateway.domain.cloud_event import Lane
from gateway.domain.entity import Device
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import BusLost, FullError, RejectedError, TransientError
from gateway.fieldbus.bus import Bus
from gateway.fieldbus.inbox import MAX_CALLS
from gateway.ports import (
    Clock,
    CloudEvents,
    DeviceInlet,
    DeviceSession,
    LastValue,
    LatestValues,
    RawRequest,
    Receipt,
    StateReader,
    Write,
)

IDLE_S: Final = 600.0
"""A device for which no master has written anything for so long is not connected any more."""


class Facts:
    """The gateway's own values (`GATEWAY_VALUES`). `is_connected` is None where there is no cloud."""

    def __init__(
        self,
        events: CloudEvents,
        clock: Clock,
        is_connected: Callable[[], bool] | None,
        devices: Callable[[], int],
        connected: Callable[[], int],
    ) -> None:
        self._events, self._clock = events, clock
        self._started_s = clock.monotonic_s()
        self._parked: int | None = None
        self._values: Mapping[str, Callable[[], Value | None]] = {
            "uptime_s": self._uptime_s,
            "heartbeat": lambda: self._uptime_s() % 65536,
            "time_s": lambda: clock.now_ms() // 1000,
            "cloud_state": lambda: 0 if is_connected is None else 1 + is_connected(),
            "cloud_connected": lambda: is_connected is not None and is_connected(),
            "pending": lambda: events.last(Lane.MAIN) - events.cursor(Lane.MAIN),
            "pending_express": lambda: events.last(Lane.EXPRESS) - events.cursor(Lane.EXPRESS),
            "parked": lambda: self._parked,
            "devices": devices,
            "connected_devices": connected,
        }

    def value(self, name: str) -> Value | None:
        """None: not known now."""
        read = self._values.get(name)
        return None if read is None else read()

    async def refresh(self) -> None:
        """What only the store knows; not known while it does not answer."""
        try:
            self._parked = (await self._events.depth()).parked
        except TransientError:
            self._parked = None

    def _uptime_s(self) -> int:
        return int(self._clock.monotonic_s() - self._started_s)


class House:
    """Implements `Served`."""

    def __init__(
        self,
        facts: Facts,
        bus_of: Callable[[str], Bus | None],
        inlet: DeviceInlet,
        state: StateReader,
        latest: LatestValues,
        clock: Clock,
    ) -> None:
        self._facts, self._bus_of, self._inlet = facts, bus_of, inlet
        self.refresh = facts.refresh
        self._state, self._latest, self._clock = state, latest, clock
        self._spoken_for: dict[UUID, _Spoken] = {}

    def gateway(self, name: str) -> Value | None:
        """See `Served`."""
        return self._facts.value(name)

    def telemetry(self, device: str, key: str) -> LastValue | None:
        """See `Served`."""
        bus = self._bus_of(device)
        if bus is not None and (seen := bus.overview.last(device, key)) is not None:
            return seen
        held = self._latest.value(device, key)
        return None if held is None else LastValue(held[1], (self._clock.now_ms() - held[0]) / 1000)

    def attribute(self, device: str, scope: str, key: str) -> LastValue | None:
        """See `Served`."""
        found = self._inlet.find_device(device)
        held = None if found is None else self._state.attribute(found.entity_id, scope, key)
        return None if held is None else LastValue(held.value, (self._clock.now_ms() - held.ts_ms) / 1000)

    async def post(self, device: str, telemetry: Mapping[str, Value], attributes: Mapping[str, Value]) -> None:
        """See `Served`. Also raises `TransientError`: the gateway stops."""
        while self._inlet.is_congested:
            await self._inlet.wait_uncongested()
        found = self._inlet.find_device(device)
        if found is None:
            raise RejectedError(f"there is no device {device!r}")
        session = self._session(found)
        receipts: list[Receipt] = []
        if telemetry:
            receipts.append(session.post_telemetry((TsKv(self._clock.now_ms(), telemetry),)))
        if attributes:
            receipts.append(session.post_attributes(attributes))
        if receipts:
            await asyncio.wait(receipts)  # who stops waiting for them must not cancel them
        for receipt in receipts:
            if receipt.cancelled():
                raise TransientError("the gateway stops")
            receipt.result()

    async def write(self, device: str, key: str, value: Value, timeout_s: float) -> None:
        """See `Served`."""
        bus = self._bus_of(device)
        if bus is None:
            raise RejectedError(f"no bus has a device {device!r}")
        check_room(bus)
        await bus.submit(Write(device=device, key=key, value=value), self._clock.now_ms() + round(timeout_s * 1000))

    def close_idle(self) -> None:
        """Now and then."""
        now_s = self._clock.monotonic_s()
        for spoken in list(self._spoken_for.values()):
            if now_s - spoken.used_s > IDLE_S:
                spoken.end()

    def close(self) -> None:
        """The room closes."""
        for spoken in list(self._spoken_for.values()):
            spoken.end()

    def _session(self, device: Device) -> DeviceSession:
        spoken = self._spoken_for.get(device.id)
        if spoken is None:
            spoken = self._spoken_for[device.id] = _Spoken(device, self._inlet, self._spoken_for)
        spoken.used_s = self._clock.monotonic_s()
        return spoken.session


class _Spoken:
    """A device that masters speak for. Implements `DeviceChannel`: what it is told is in registers."""

    def __init__(self, device: Device, inlet: DeviceInlet, all_of_them: dict[UUID, _Spoken]) -> None:
        self._key, self._all = device.id, all_of_them
        self.used_s = 0.0
        self.session = inlet.open_visit(device, self)

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """A register shows them."""

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """A register shows it."""

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        """A slave cannot call its master."""
        raise TransientError("a Modbus master cannot be called")

    def close(self, reason: str) -> None:
        """Opened again by the next write."""
        if self._all.get(self._key) is self:
            del self._all[self._key]

    def end(self) -> None:
        """From our side."""
        self.session.close()
        self.close("shutdown")


class SharedBus:
    """Implements `RawLine` on the inbox of a bus: others' requests wait there, each with a deadline."""

    def __init__(self, bus: Bus, clock: Clock, deadline_s: float = 10.0) -> None:
        self._bus, self._clock, self._deadline_s = bus, clock, deadline_s

    async def raw(self, request: RawRequest) -> bytes:
        """See `RawLine`. Also raises `FullError`: too many wait."""
        check_room(self._bus)
        answer: Awaitable[bytes] = self._bus.submit(request, self._clock.now_ms() + round(self._deadline_s * 1000))
        return await answer


def check_room(bus: Bus) -> None:
    """Raises `BusLost`: it is not open; `FullError`: too many calls wait for it."""
    if not bus.is_open:
        raise BusLost(f"{bus.name}: the bus is not open")
    if bus.calls_waiting >= MAX_CALLS:
        raise FullError(f"{bus.name}: the bus is busy, {MAX_CALLS} calls wait already")
