"""A driver without a wire: `FakeBus` keeps the contract of `Driver`, and tests say what its units do."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from gateway.config import Settings
from gateway.domain.telemetry import Value
from gateway.errors import GatewayError, RejectedError
from gateway.ports import Clock, DriverDevice, DriverPlugin, Poll, Query, Reading, Write


class FakeDevice(Settings):
    name: str
    profile: str = "default"


class FakeConfig(Settings):
    kind: str = "fake"
    name: str = "fake"
    devices: tuple[FakeDevice, ...] = (FakeDevice(name="A"),)


class FakeBus:
    """Implements `Driver`. One poll a device (`unit` is its name) unless `plan` says otherwise."""

    def __init__(self) -> None:
        self.plan: list[Poll] = [Poll(key="A", every_s=1.0, unit="A")]
        self.values: dict[tuple[str, str], Value] = {}
        self.attribute_keys: set[str] = set()
        self.read_only: set[str] = set()
        self.broken: dict[str, GatewayError | Exception] = {}  # by unit: raised by every read
        self.open_error: Exception | None = None
        self.delay_s = 0.0
        self.reads: list[str] = []
        self.writes: list[Write] = []
        self.opened = 0
        self._clock: Clock | None = None
        self._config = FakeConfig()

    @property
    def plugin(self) -> DriverPlugin:
        return DriverPlugin(kind="fake", config=FakeConfig, open=self._open, devices=_devices)

    @asynccontextmanager
    async def _open(self, config: FakeConfig, clock: Clock) -> AsyncIterator["FakeBus"]:
        if self.open_error is not None:
            raise self.open_error
        self._config, self._clock = config, clock
        self.opened += 1
        yield self

    def devices(self) -> Sequence[DriverDevice]:
        return _devices(self._config)

    def polls(self) -> Sequence[Poll]:
        return self.plan

    async def read(self, poll: Poll) -> Sequence[Reading]:
        assert self._clock is not None
        self.reads.append(poll.key)
        await self._take_time()
        if poll.unit in self.broken:
            raise self.broken[poll.unit]
        return [
            Reading(
                device=device, key=key, value=value, ts_ms=self._clock.now_ms(), is_attribute=key in self.attribute_keys
            )
            for (device, key), value in self.values.items()
            if device == poll.unit
        ]

    async def write(self, command: Write) -> Value:
        await self._take_time()
        if self.is_writable(command.device, command.key) is not True:
            raise RejectedError(f"{command.device}.{command.key} is not writable")
        self.writes.append(command)
        self.values[command.device, command.key] = command.value
        return command.value

    async def query(self, query: Query) -> Value:
        await self._take_time()
        if (query.device, query.key) not in self.values:
            raise RejectedError(f"{query.device} has no point {query.key!r}")
        return self.values[query.device, query.key]

    def is_writable(self, device: str, key: str) -> bool | None:
        return key not in self.read_only if (device, key) in self.values else None

    def faults(self) -> Mapping[str, str]:
        return {}

    async def _take_time(self) -> None:
        assert self._clock is not None
        if self.delay_s:
            await self._clock.sleep(self.delay_s)
        else:
            await asyncio.sleep(0)


def _devices(config: FakeConfig) -> list[DriverDevice]:
    return [DriverDevice(name=device.name, profile=device.profile) for device in config.devices]
