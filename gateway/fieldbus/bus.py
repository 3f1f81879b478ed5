"""One task owns one bus: calls first, then polls."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.telemetry import TsKv, Value
from gateway.errors import BusLost, GatewayError, RejectedError, TransientError
from gateway.fieldbus.channel import BusChannel, CallExpired
from gateway.fieldbus.outage import Outage, Unit
from gateway.fieldbus.plugins import BusEntry
from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import Clock, DeviceInlet, Driver, Listener, Poll, Query, Reading, Receipt, Write
from gateway.supervise import Counters

log = logging.getLogger(__name__)

MAX_CALLS: Final = 100
"""Calls that may wait for one bus; more are refused at once, with a text that says so."""

CALLS_IN_A_ROW: Final = 8
"""Calls go before polls, but after so many of them a poll that is due has its turn."""


@dataclass(slots=True)
class _Call:
    command: Write | Query
    expires_ms: int | None
    future: asyncio.Future[Value]


class Bus:
    """The owner of one bus: nobody else talks to its driver.

    A silent unit is suspended for a random, growing while (1 s … 30 s) and comes back by itself; a lost bus suspends
    all of its units. What a poll read must be durable before the same points are read again.
    """

    def __init__(
        self,
        entry: BusEntry,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        rng: random.Random | None = None,
    ) -> None:
        self._entry, self._inlet, self._clock, self._counters, self._rng = entry, inlet, clock, counters, rng
        self.name = entry.name
        self._driver: Driver | None = None
        self._scheduler: PollScheduler | None = None
        self._channels: dict[str, BusChannel] = {}
        self._units: dict[str, Unit] = {}
        self._outage = Outage(f"bus {self.name}", rng)
        self._inbox: deque[_Call] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._receipts: dict[Poll, list[Receipt]] = {}
        self._attribute_keys: set[tuple[str, str]] = set()

    async def serve(self) -> None:
        """Open the driver and own the bus until cancelled.

        Raises:
            TransientError, RefusedError: The driver cannot be opened now; try again later.
        """
        async with self._entry.plugin.open(self._entry.config, self._clock) as driver:
            polls = driver.polls()
            self._scheduler = PollScheduler(polls, self._clock.monotonic_s())
            for poll in polls:
                self._units.setdefault(poll.unit, Unit(self.name, poll.unit, self._rng))
            self._driver = driver
            try:
                for device in driver.devices():
                    channel = BusChannel(device.name, self, self._inlet, self._clock, self._counters)
                    self._channels[device.name] = channel
                    channel.open()
                if isinstance(driver, Listener):
                    await self._own_and_listen(driver, self._scheduler, driver)
                else:
                    await self._own(driver, self._scheduler)
            finally:
                self._driver = None
                self._end()

    # ── what channels ask of the bus ──

    def submit(self, command: Write | Query, expires_ms: int | None = None) -> asyncio.Future[Value]:
        """Into the inbox; done with the value read (back)."""
        future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        if self._driver is None:
            future.set_exception(TransientError(f"{self.name}: the bus is not open"))
        elif len(self._inbox) >= MAX_CALLS:
            self._counters.add("fieldbus.calls_refused")
            future.set_exception(RejectedError(f"{self.name}: the bus is busy, {MAX_CALLS} calls wait already"))
        else:
            self._inbox.append(_Call(command, expires_ms, future))
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        return future

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such tag."""
        return None if self._driver is None else self._driver.is_writable(device, key)

    def is_attribute(self, device: str, key: str) -> bool:
        """True when readings of this tag have been attributes."""
        return (device, key) in self._attribute_keys

    def status(self) -> dict[str, Any]:
        """For a person and for metrics: name, kind, `connected`, units, late turns, points set aside."""
        is_lost = self._outage.since_ms is not None
        units = [unit.status(is_bus_lost=is_lost) for unit in self._units.values()]
        return {
            "name": self.name,
            "kind": self._entry.plugin.kind,
            "connected": any(unit["ok"] for unit in units),
            "lost_since_ms": self._outage.since_ms,
            "last_error": self._outage.error,
            "devices": [device.name for device in self._entry.devices] or list(self._channels),
            "units": units,
            "late_merged": self._scheduler.merged if self._scheduler else 0,
            "set_aside": dict(self._driver.faults()) if self._driver else {},
            "calls_waiting": len(self._inbox),
            "line": dict(self._driver.line()) if isinstance(self._driver, Listener) else {},
        }

    # ── the owner ──

    async def _own(self, driver: Driver, scheduler: PollScheduler) -> None:
        calls = 0
        while True:
            wait_s = scheduler.wait_s(self._clock.monotonic_s())
            if self._inbox and (wait_s > 0 or calls < CALLS_IN_A_ROW):
                calls += 1
                await self._answer(driver, self._inbox.popleft())
                continue
            calls = 0
            if wait_s > 0:
                await self._rest(wait_s)
                continue
            poll = scheduler.take(self._clock.monotonic_s())
            if poll is not None:
                await self._wait_durable(driver, poll)
                await self._read(driver, scheduler, poll)

    async def _answer(self, driver: Driver, call: _Call) -> None:
        future = call.future
        if future.done():
            return  # the caller has given up: a call nobody waits for is not executed
        if call.expires_ms is not None and self._clock.now_ms() >= call.expires_ms:
            future.set_exception(CallExpired(f"{self.name}: the deadline passed before the bus was free"))
            return
        try:
            if isinstance(call.command, Write):
                value = await driver.write(call.command)
            else:
                value = await driver.query(call.command)
        except GatewayError as error:
            if not future.done():
                future.set_exception(error)
        except BaseException:  # stopping, or a bug in the driver: the caller is told, the owner ends
            if not future.done():
                future.set_exception(TransientError(f"{self.name}: the bus was closed; the value may have arrived"))
            raise
        else:
            self._counters.add("fieldbus.calls")
            if not future.done():
                future.set_result(value)

    async def _read(self, driver: Driver, scheduler: PollScheduler, poll: Poll) -> None:
        unit = self._units[poll.unit]
        unit.polls += 1
        try:
            readings = await driver.read(poll)
        except BusLost as error:
            self._count_error(unit)
            wait_s = self._outage.failed(error, self._clock.now_ms())
            if error.again_s is not None:
                wait_s = min(wait_s, error.again_s)
            scheduler.suspend_all(self._clock.monotonic_s() + wait_s)
            if self._outage.is_beginning:
                self._fall_silent(self._channels)
        except TransientError as error:
            self._count_error(unit)
            self._outage.answered(self._clock.now_ms())
            until_s = self._clock.monotonic_s() + unit.outage.failed(error, self._clock.now_ms())
            scheduler.suspend(poll.unit, until_s)
            if unit.outage.is_beginning:
                self._fall_silent(unit.devices)
        except RejectedError as error:
            self._count_error(unit)
            self._mark_good(unit)
            if str(error) != unit.last_refusal:
                unit.last_refusal = str(error)
                log.warning("%s", error)
        else:
            self._mark_good(unit)
            if readings:
                self._receipts[poll] = self._take(unit, readings)

    def _take(self, unit: Unit, readings: Sequence[Reading]) -> list[Receipt]:
        unit.last_good_ms = self._clock.now_ms()
        self._counters.add("fieldbus.readings", len(readings))
        unit.devices.update(reading.device for reading in readings)
        return self._post(readings)

    # ── devices that speak unasked ──

    async def _own_and_listen(self, driver: Driver, scheduler: PollScheduler, listener: Listener) -> None:
        """Both until one of them ends: that is an error, and ends the other."""
        tasks = [
            asyncio.create_task(self._own(driver, scheduler), name=f"bus {self.name}: owner"),
            asyncio.create_task(self._listen(listener), name=f"bus {self.name}: listener"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, listener: Listener) -> None:
        async for heard in listener.listen():
            if heard.bad_frames:
                self._counters.add("fieldbus.bad_frames", heard.bad_frames)
            if heard.lost_readings:
                self._counters.add("fieldbus.readings_lost", heard.lost_readings)
            unit = self._units.setdefault(heard.unit, Unit(self.name, heard.unit, self._rng))
            if heard.error is not None:
                self._count_error(unit)
                now_ms = self._clock.now_ms()
                if isinstance(heard.error, BusLost):
                    self._outage.failed(heard.error, now_ms)
                    self._fall_silent(self._channels)
                else:
                    self._outage.answered(now_ms)
                    unit.outage.failed(heard.error, now_ms)
                    self._fall_silent(unit.devices)
                continue
            if heard.readings:
                self._mark_good(unit)
                unit.polls += 1
                receipts = self._take(unit, heard.readings)
                if receipts:
                    await asyncio.wait(receipts)
                self._settle(receipts)
                if self._inlet.is_congested:
                    await self._inlet.wait_uncongested()

    def _post(self, readings: Sequence[Reading]) -> list[Receipt]:
        telemetry: dict[str, dict[int, dict[str, Value]]] = {}
        attributes: dict[str, dict[str, Value]] = {}
        for reading in readings:
            if reading.is_attribute:
                self._attribute_keys.add((reading.device, reading.key))
                attributes.setdefault(reading.device, {})[reading.key] = reading.value
            else:
                series = telemetry.setdefault(reading.device, {}).setdefault(reading.ts_ms, {})
                series[reading.key] = reading.value
        receipts: list[Receipt] = []
        for device in {**telemetry, **attributes}:
            items = [TsKv(ts_ms, values) for ts_ms, values in telemetry.get(device, {}).items()]
            receipts += self._channels[device].post(items, attributes.get(device, {}))
        return receipts

    def _fall_silent(self, devices: Iterable[str]) -> None:
        for device in devices:
            self._channels[device].fall_silent()

    def _mark_good(self, unit: Unit) -> None:
        now_ms = self._clock.now_ms()
        self._outage.answered(now_ms)
        unit.outage.answered(now_ms)

    def _count_error(self, unit: Unit) -> None:
        unit.errors += 1
        self._counters.add("fieldbus.errors")

    # ── waiting, with the inbox in sight ──

    async def _rest(self, wait_s: float) -> None:
        """Until a poll is due or a call comes."""
        wake = self._wake = asyncio.get_running_loop().create_future()
        if math.isinf(wait_s):
            await wake
            return
        sleeper = asyncio.ensure_future(self._clock.sleep(wait_s))
        try:
            await asyncio.wait([sleeper, wake], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()

    async def _wait_durable(self, driver: Driver, poll: Poll) -> None:
        """Until what this poll read before is on disk and the house takes more; calls go on meanwhile."""
        receipts = self._receipts.pop(poll, [])
        while (waiting := [receipt for receipt in receipts if not receipt.done()]) or self._inlet.is_congested:
            if self._inbox:
                await self._answer(driver, self._inbox.popleft())
                continue
            wake = self._wake = asyncio.get_running_loop().create_future()
            if waiting:
                await asyncio.wait([*waiting, wake], return_when=asyncio.FIRST_COMPLETED)
                continue
            free = asyncio.ensure_future(self._inlet.wait_uncongested())
            try:
                await asyncio.wait([free, wake], return_when=asyncio.FIRST_COMPLETED)
            finally:
                free.cancel()
        self._settle(receipts)

    def _settle(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            if receipt.done() and not receipt.cancelled() and receipt.exception() is not None:
                self._counters.add("fieldbus.readings_rejected")

    def _end(self) -> None:
        """Nobody is left waiting; receipts still open are the committer's business."""
        while self._inbox:
            call = self._inbox.popleft()
            if not call.future.done():
                call.future.set_exception(TransientError(f"{self.name}: the bus was closed"))
        for channel in self._channels.values():
            channel.end()
        self._channels.clear()
        for receipts in self._receipts.values():
            self._settle(receipts)
        self._receipts.clear()
