"""A driver without hardware: the one to copy. It keeps the whole contract of `gateway.ports.Driver`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from drivers.simulator.config import Point, SimulatedDevice, SimulatorConfig
from drivers.simulator.signals import Source, source_of
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, DriverDevice, Poll, PollPoint, Query, Reading, Write

FAULTS = ("none", "silent", "slow")


@dataclass(slots=True)
class _Tag:
    """A point, ready for use."""

    point: Point
    source: Source
    is_attribute: bool
    written: Value | None = None


class SimulatorDriver:
    """Implements `Driver`. One poll for each device and period; a silent device takes `timeout_s` to say nothing."""

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._start_s = clock.monotonic_s()
        self._devices = {device.name: device for device in config.devices}
        self._fault = {device.name: str(device.fault) for device in config.devices}
        self._tags: dict[tuple[str, str], _Tag] = {}
        self._polls: dict[Poll, list[tuple[str, str]]] = {}
        self._without_value: dict[str, str] = {}
        for device in config.devices:
            self._add(device)

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on this bus."""
        return known_devices(self._config)

    def polls(self) -> Sequence[Poll]:
        """One for each device and period."""
        return list(self._polls)

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """All points of one poll, as they are at one moment.

        Raises:
            TransientError: The device plays dead.
        """
        await self._reach(poll.unit)
        ts_ms = self._clock.now_ms()
        readings: list[Reading] = []
        for device, key in self._polls[poll]:
            name = f"{device}.{key}"
            try:
                value = self._value(device, key)
            except RejectedError as error:
                self._without_value[name] = str(error)  # its neighbours go on
                continue
            self._without_value.pop(name, None)
            is_attribute = self._tags[device, key].is_attribute
            readings.append(Reading(device=device, key=key, value=value, ts_ms=ts_ms, is_attribute=is_attribute))
        return readings

    async def write(self, command: Write) -> Value:
        """Set a constant, or the fault of a device.

        Raises:
            RejectedError: No such point, not writable, or another kind of value. TransientError: plays dead.
        """
        device, key = command.device, command.key
        if self._is_fault(device, key):
            if command.value not in FAULTS:
                raise RejectedError(f"{device}.{key}: {command.value!r} is none of {', '.join(FAULTS)}")
            self._fault[device] = str(command.value)
            return self._fault[device]
        tag = self._tag(device, key)
        if not tag.point.writable:
            raise RejectedError(f"{device}.{key} is not writable; `writable: true` makes it so")
        value = _checked(command.value, tag.point.start, f"{device}.{key}")
        await self._reach(device)
        tag.written = value
        return self._value(device, key)

    async def query(self, query: Query) -> Value:
        """One point, now."""
        if self._is_fault(query.device, query.key):
            return self._fault[query.device]
        self._tag(query.device, query.key)
        await self._reach(query.device)
        return self._value(query.device, query.key)

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such point."""
        if self._is_fault(device, key):
            return True
        tag = self._tags.get((device, key))
        return None if tag is None else tag.point.writable

    def faults(self) -> Mapping[str, str]:
        """Points without a value: recordings that have ended."""
        return dict(self._without_value)

    def _add(self, device: SimulatedDevice) -> None:
        periods: dict[int, list[Point]] = {}
        for points, is_attribute in ((device.telemetry, False), (device.attributes, True)):
            for point in points:
                seed = f"{self._config.seed}/{device.name}/{point.key}"
                self._tags[device.name, point.key] = _Tag(point, source_of(point.signal, seed), is_attribute)
                periods.setdefault(point.every_ms or device.every_ms, []).append(point)
        for every_ms, together in periods.items():
            poll = Poll(
                key=f"{device.name}@{every_ms}",
                every_s=every_ms / 1000,
                unit=device.name,
                points=tuple(
                    PollPoint(device=device.name, key=point.key, report=point.report or device.report)
                    for point in together
                ),
            )
            self._polls[poll] = [(device.name, point.key) for point in together]

    def _is_fault(self, device: str, key: str) -> bool:
        return device in self._devices and self._devices[device].fault_key == key

    def _tag(self, device: str, key: str) -> _Tag:
        tag = self._tags.get((device, key))
        if tag is None:
            raise RejectedError(f"{device} has no point {key!r}")
        return tag

    async def _reach(self, device: str) -> None:
        """What the wire and the device take of time."""
        if self._fault[device] == "slow":
            await self._clock.sleep(self._devices[device].slow_s)
        if self._fault[device] == "silent":
            timeout_s = self._config.timeout_s
            await self._clock.sleep(timeout_s)
            raise TransientError(f"{self._config.name}: {device} is silent for {timeout_s:g} s, as it was told to be")

    def _value(self, device: str, key: str) -> Value:
        tag = self._tags[device, key]
        value = tag.source(self._clock.monotonic_s() - self._start_s) if tag.written is None else tag.written
        return round(value, tag.point.round) if isinstance(value, float) and tag.point.round is not None else value


@asynccontextmanager
async def open_simulator(config: SimulatorConfig, clock: Clock) -> AsyncIterator[SimulatorDriver]:
    """A driver for one bus. A driver with a wire opens nothing here that may be missing: it does so at the first read.

    Raises:
        RefusedError: A recording cannot be used.
    """
    yield SimulatorDriver(config, clock)


def known_devices(config: SimulatorConfig) -> list[DriverDevice]:
    """All devices of a bus are known from its configuration."""
    return [DriverDevice(name=device.name, profile=device.profile, label=device.label) for device in config.devices]


def _checked(value: Json, start: Value | None, name: str) -> Value:
    """A value of the kind that the constant began with.

    Raises:
        RejectedError: Another kind.
    """
    if isinstance(start, bool):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(start, str):
        if isinstance(value, str):
            return value
        wanted = "text"
    else:
        if isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        wanted = "a number"
    raise RejectedError(f"{name}: {value!r} is not {wanted}")
