"""One task owns one bus: calls first, then polls."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, overload

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import BusLost, GatewayError, RejectedError, TransientError
from gateway.fieldbus.channel import BusChannel
from gateway.fieldbus.delivery import Delivery
from gateway.fieldbus.gate import Gates
from gateway.fieldbus.inbox import Call, Command, Inbox
from gateway.fieldbus.outage import Outage, Unit
from gateway.fieldbus.overview import Overview
from gateway.fieldbus.plugins import BusEntry
from gateway.fieldbus.records import LineUse, PollRecord, Records
from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import (
    Clock,
    DeviceInlet,
    Driver,
    GroupWriter,
    Listener,
    Pipelined,
    Poll,
    Query,
    RawLine,
    RawRequest,
    Reading,
    Receipt,
    ToldBeforehand,
    TracesLine,
    WatchesLine,
    Write,
    WriteTogether,
    Wrote,
)
from gateway.supervise import Counters

log = logging.getLogger(__name__)

CALLS_IN_A_ROW: Final = 8
"""Calls go before polls, but after so many of them a poll that is due has its turn."""

CALL_SHARE: Final = 10
"""A call to a silent unit is tried when so many timeouts have passed since the last try, and refused at once before."""

NOT_GOOD: Final = 10
"""So many points that are not good stand in the status; all of them can be asked for."""

PROBE_AFTER_S: Final = 0.001
"""A unit is tried again with another poll than the one that had no answer: it may be that one alone that is mute."""

READS_IN_A_ROW: Final = 32
"""A driver that answers without waiting (from a buffer) leaves the others a turn of the loop after so many reads."""


class Bus:
    """The owner of one bus: nobody else talks to its driver.

    A silent unit is suspended for a growing while, so that its tries cost the line 2 % at most (`outage.SHARE`), and
    comes back by itself; so is a poll that is never answered while its unit answers others; a lost bus suspends all of
    its units. What a poll read must be durable before the same points are read again.
    Where the line carries several questions at a time, so many different polls are open, and what writes has its unit
    to itself.
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
        self._delivery = Delivery(counters)
        self._units: dict[str, Unit] = {}
        self._outage = Outage(f"bus {self.name}", rng)
        self._inbox = Inbox(self.name, clock, self._wake_up)
        self._wakes: set[asyncio.Future[None]] = set()
        self._deciding = asyncio.Lock()
        self._calls_in_a_row = self._reads_in_a_row = 0
        self._in_flight = 1
        self._gates = Gates()
        self._lost_s = -math.inf  # when the bus was found lost last
        self._records = Records(self.name, ())
        self._use = LineUse(clock.monotonic_s())
        self._homes: dict[str, str | None] = {}  # device to its unit; None: it has several
        self._receipts: dict[Poll, list[Receipt]] = {}
        self.overview = Overview(clock, lambda: self._driver, lambda: self._records, self._units, self._outage)

    async def serve(self) -> None:
        """Open the driver and own the bus until cancelled.

        Raises:
            TransientError, RefusedError: The driver cannot be opened now; try again later.
        """
        async with self._entry.plugin.open(self._entry.config, self._clock) as driver:
            polls = driver.polls()
            self._scheduler = PollScheduler(polls, self._clock.monotonic_s())
            unasked = driver.unasked() if isinstance(driver, ToldBeforehand) else ()
            self._records = Records(self.name, polls, unasked)
            self._use = LineUse(self._clock.monotonic_s())
            for poll in polls:
                unit = self._units.setdefault(poll.unit, Unit(self.name, poll.unit, self._rng))
                self._learn(unit, {point.device for point in poll.points})
            for name, point in unasked:
                self._learn(self._units.setdefault(name, Unit(self.name, name, self._rng)), {point.device})
            self._driver = driver
            self._in_flight = driver.in_flight if isinstance(driver, Pipelined) else 1
            self._deciding, self._gates, self._lost_s = asyncio.Lock(), Gates(), -math.inf
            try:
                for device in driver.devices():
                    channel = BusChannel(device.name, self, self._inlet, self._clock, self._counters)
                    self._delivery.channels[device.name] = channel
                    channel.open()
                await self._own_all(driver, self._scheduler)
            finally:
                self._driver = None
                self._end()

    # ── what channels ask of the bus ──

    @overload
    def submit(self, command: Write | Query, expires_ms: int | None = None) -> asyncio.Future[Value]: ...

    @overload
    def submit(self, command: WriteTogether, expires_ms: int | None = None) -> asyncio.Future[Wrote]: ...

    @overload
    def submit(self, command: RawRequest, expires_ms: int | None = None) -> asyncio.Future[bytes]: ...

    def submit(self, command: Command, expires_ms: int | None = None) -> asyncio.Future[Any]:
        """Into the inbox; done with the value read (back), or with the PDU that answers.

        Without `expires_ms` (epoch) it has `inbox.CALL_S`.
        """
        deadline_s = None
        if expires_ms is not None:
            deadline_s = self._clock.monotonic_s() + (expires_ms - self._clock.now_ms()) / 1000
        try:
            if self._driver is None:
                raise TransientError(f"{self.name}: the bus is not open")
            if isinstance(command, RawRequest) and not isinstance(self._driver, RawLine):
                raise RejectedError(f"{self.name}: a bus of kind {self._entry.plugin.kind} takes no raw requests")
            return self._inbox.put(command, deadline_s)
        except GatewayError as error:
            if isinstance(error, RejectedError):
                self._counters.add("fieldbus.calls_refused")
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            return future

    def together(self, device: str, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        """Which of these keys, in their order, are written as one command."""
        if isinstance(self._driver, GroupWriter):
            return self._driver.together(device, keys)
        return [[key] for key in keys]

    def trace(self, after: int) -> Sequence[Mapping[str, Json]]:
        """What passed on the line, for a person who looks on; see `TracesLine`.

        Raises:
            RejectedError: A bus of this kind cannot be looked at. TransientError: it is not open.
        """
        if self._driver is None:
            raise TransientError(f"{self.name}: the bus is not open")
        if not isinstance(self._driver, TracesLine):
            raise RejectedError(f"{self.name}: a bus of kind {self._entry.plugin.kind} cannot be listened to")
        return self._driver.trace(after)

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such tag."""
        return None if self._driver is None else self._driver.is_writable(device, key)

    def is_attribute(self, device: str, key: str) -> bool:
        """True when readings of this tag have been attributes."""
        return self._delivery.is_attribute(device, key)

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
            "devices": [device.name for device in self._entry.devices] or list(self._delivery.channels),
            "units": units,
            "utilisation": self.utilisation,
            "late_merged": self._scheduler.merged if self._scheduler else 0,
            "points": self.overview.tally(),
            "not_good": list(islice((row for row in self.overview.points() if row["quality"] != "good"), NOT_GOOD)),
            "set_aside": self.overview.faults(),
            "calls_waiting": self.calls_waiting,
            "line": dict(self._driver.line()) if isinstance(self._driver, WatchesLine) else {},
        }

    @property
    def utilisation(self) -> float:
        """The share of the last minute that the line was busy: 0 to 1."""
        return round(self._use.share(self._clock.monotonic_s()), 4)

    @property
    def entry(self) -> BusEntry:
        """As it was configured."""
        return self._entry

    @property
    def is_open(self) -> bool:
        """It has a driver; whether that reaches anybody is another question."""
        return self._driver is not None

    @property
    def calls_waiting(self) -> int:
        """For their turn."""
        return len(self._inbox)

    # ── the owner ──

    async def _own_all(self, driver: Driver, scheduler: PollScheduler) -> None:
        """As many owners as the line carries questions, and one who listens, until one of them ends: that is an error,
        and ends the others.
        """
        if self._in_flight == 1 and not isinstance(driver, Listener):
            await self._own(driver, scheduler)
            return
        tasks = [
            asyncio.create_task(self._own(driver, scheduler), name=f"bus {self.name}: owner {number}")
            for number in range(self._in_flight)
        ]
        if isinstance(driver, Listener):
            tasks.append(asyncio.create_task(self._listen(driver), name=f"bus {self.name}: listener"))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _own(self, driver: Driver, scheduler: PollScheduler) -> None:
        """One at a time decides what is next, and does it beside the others who do theirs."""
        while True:
            async with self._deciding:
                turn = await self._next(scheduler)
            if isinstance(turn, Call):
                await self._answer(driver, turn)
                continue
            await self._wait_durable(driver, turn.poll)
            if self._in_flight == 1:
                await self._read(driver, scheduler, turn)
            else:
                async with self._gates.passing(turn.poll.unit, alone=False):
                    await self._read(driver, scheduler, turn)
            scheduler.give_back(turn.poll)
            if self._in_flight > 1:
                self._wake_up()  # who waits for the next turn does not know of this one's, nor of what it changed
            self._reads_in_a_row += 1
            if self._reads_in_a_row >= READS_IN_A_ROW:
                self._reads_in_a_row = 0
                await asyncio.sleep(0)

    async def _next(self, scheduler: PollScheduler) -> Call | PollRecord:
        """Calls first, then the poll that is due."""
        while True:
            wait_s = scheduler.wait_s(self._clock.monotonic_s())
            if self._inbox and (wait_s > 0 or self._calls_in_a_row < CALLS_IN_A_ROW):
                self._calls_in_a_row += 1
                call = self._inbox.take()
                if call is not None:
                    return call
                continue
            self._calls_in_a_row = 0
            if wait_s > 0:
                self._reads_in_a_row = 0
                await self._rest(wait_s)
                continue
            poll = scheduler.take(self._clock.monotonic_s(), hold=True)
            if poll is not None:
                record = self._records.polls[poll]
                record.begin(scheduler.late_s, scheduler.missed)
                if scheduler.missed:
                    self._counters.add("fieldbus.turns_missed", scheduler.missed)
                return record

    async def _answer(self, driver: Driver, call: Call) -> None:
        """A call: executed before its deadline, by somebody who waits for it, or not at all."""
        command = call.command
        home = command.unit if isinstance(command, RawRequest) else self._homes.get(command.device)
        unit = None if home is None else self._units.get(home)
        if unit is not None and (refusal := self._refusal(unit)) is not None:
            call.future.set_exception(refusal)
            return
        if self._in_flight == 1:
            await self._carry_out(driver, call, unit)
            return
        async with self._gates.passing(home, alone=not isinstance(command, Query)):
            if self._inbox.is_in_time(call):
                await self._carry_out(driver, call, unit)

    async def _carry_out(self, driver: Driver, call: Call, unit: Unit | None) -> None:
        started_s = self._clock.monotonic_s()
        try:
            value = await self._execute(driver, call)
        except GatewayError as error:
            if not call.future.done():
                call.future.set_exception(error)
            if isinstance(error, TransientError) and not isinstance(error, BusLost) and unit and unit.outage.failures:
                self._unit_failed(unit, error, started_s)
        except BaseException:  # stopping, or a bug in the driver: the caller is told, the owner ends
            if not call.future.done():
                call.future.set_exception(
                    TransientError(f"{self.name}: the bus was closed; the value may have arrived")
                )
            raise
        else:
            self._counters.add("fieldbus.calls")
            if unit is not None:
                self._mark_good(unit)
            if not call.future.done():
                call.future.set_result(value)
        finally:
            self._use.add(started_s, self._clock.monotonic_s())

    async def _execute(self, driver: Driver, call: Call) -> Value | Wrote | bytes:
        if isinstance(call.command, RawRequest):
            if not isinstance(driver, RawLine):
                raise RejectedError(f"{self.name}: takes no raw requests")
            return await driver.raw(call.command)
        if isinstance(call.command, WriteTogether):
            return await _write_together(driver, call.command)
        if isinstance(call.command, Write):
            return await driver.write(call.command)
        return await driver.query(call.command)

    def _refusal(self, unit: Unit) -> TransientError | None:
        """Why a call to this unit is not worth a timeout of everybody else now."""
        if unit.outage.failures < 2:
            return None
        wait_s = unit.tried_s + CALL_SHARE * unit.cost_s - self._clock.monotonic_s()
        if wait_s <= 0:
            return None
        return TransientError(
            f"{unit.outage.error}; it is silent, and a call is tried again in {max(1, round(wait_s))} s"
        )

    async def _read(self, driver: Driver, scheduler: PollScheduler, record: PollRecord) -> None:
        poll = record.poll
        unit = self._units[poll.unit]
        unit.polls += 1
        started_s = self._clock.monotonic_s()
        try:
            readings = await driver.read(poll)
        except BusLost as error:
            self._count_error(unit)
            record.forget()
            if started_s < self._lost_s:  # under way when the bus was found lost: the same loss
                return
            self._lost_s = self._clock.monotonic_s()
            wait_s = self._outage.failed(error, self._clock.now_ms())
            if error.again_s is not None:
                wait_s = min(wait_s, error.again_s)
            scheduler.suspend_all(self._clock.monotonic_s() + wait_s)
            if self._outage.is_beginning:
                self._delivery.fall_silent(self._delivery.channels)
        except TransientError as error:
            self._count_error(unit)
            self._outage.answered(self._clock.now_ms())
            now_s = self._clock.monotonic_s()
            if record.failed(unit.answers):
                wait_s = record.outage.failed(error, self._clock.now_ms(), now_s - started_s, self._count_silent())
                scheduler.suspend_poll(poll, now_s + wait_s)
            elif started_s >= unit.tried_s:  # else under way when another poll had no answer: the same silence
                until_s = self._unit_failed(unit, error, started_s)
                scheduler.suspend_poll(poll, until_s + PROBE_AFTER_S)  # the next try is another poll's
        except RejectedError as error:
            self._count_error(unit)
            record.refused(error, self._clock.monotonic_s())
            record.outage.answered(self._clock.now_ms())
            self._mark_good(unit)
            if str(error) != unit.last_refusal:
                unit.last_refusal = str(error)
                log.warning("%s", error)
        else:
            record.good(self._clock.monotonic_s())
            record.outage.answered(self._clock.now_ms())
            self._mark_good(unit)
            if readings:
                self._receipts[poll] = self._take(unit, readings, record)
        finally:
            self._use.add(started_s, self._clock.monotonic_s())

    def _unit_failed(self, unit: Unit, error: TransientError, started_s: float) -> float:
        """Until when it is left alone."""
        now_s = unit.tried_s = self._clock.monotonic_s()
        unit.cost_s = now_s - started_s
        wait_s = unit.outage.failed(error, self._clock.now_ms(), unit.cost_s, 1 + self._count_silent(but=unit))
        if self._scheduler is not None:
            self._scheduler.suspend(unit.unit, now_s + wait_s)
        if unit.outage.is_beginning:
            self._delivery.fall_silent(unit.devices)
        return now_s + wait_s

    def _count_silent(self, but: Unit | None = None) -> int:
        units = sum(unit.outage.failures > 1 for unit in self._units.values() if unit is not but)
        return units + sum(record.outage.failures > 1 for record in self._records.polls.values())

    def _take(self, unit: Unit, readings: Sequence[Reading], record: PollRecord | None = None) -> list[Receipt]:
        unit.last_good_ms = self._clock.now_ms()
        devices = {reading.device for reading in readings}
        if not devices <= unit.devices:
            self._learn(unit, devices)
        return self._delivery.take(unit.unit, record, readings, self._records, self._clock.monotonic_s())

    def _learn(self, unit: Unit, devices: Iterable[str]) -> None:
        for device in devices:
            unit.devices.add(device)
            if self._homes.setdefault(device, unit.unit) != unit.unit:
                self._homes[device] = None

    # ── devices that speak unasked ──

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
                    silent: Collection[str] = self._delivery.channels
                else:
                    self._outage.answered(now_ms)
                    unit.outage.failed(heard.error, now_ms)
                    silent = unit.devices
                self._delivery.fall_silent(silent)
                self._records.forget(silent)
                continue
            if heard.readings:
                self._mark_good(unit)
                unit.polls += 1
                receipts = self._take(unit, heard.readings)
                if receipts:
                    await asyncio.wait(receipts)
                self._delivery.settle(receipts)
                if self._inlet.is_congested:
                    await self._inlet.wait_uncongested()

    def _mark_good(self, unit: Unit) -> None:
        now_ms = self._clock.now_ms()
        if self._outage.since_ms is not None:
            self._outage.answered(now_ms)
            if self._scheduler is not None:
                self._scheduler.resume_all(self._clock.monotonic_s())
        unit.answers += 1
        if unit.outage.failures:
            unit.outage.answered(now_ms)
            if self._scheduler is not None:
                self._scheduler.resume(unit.unit, self._clock.monotonic_s())

    def _count_error(self, unit: Unit) -> None:
        unit.errors += 1
        self._counters.add("fieldbus.errors")

    # ── waiting, with the inbox in sight ──

    def _wake_up(self, _: object = None) -> None:
        for wake in self._wakes:
            if not wake.done():
                wake.set_result(None)

    @contextmanager
    def _waking(self) -> Iterator[asyncio.Future[None]]:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakes.add(wake)
        try:
            yield wake
        finally:
            self._wakes.discard(wake)

    async def _rest(self, wait_s: float) -> None:
        """Until a poll is due or a call comes."""
        with self._waking() as wake:
            if math.isinf(wait_s):
                await wake
                return
            sleeper = asyncio.ensure_future(self._clock.sleep(wait_s))
            sleeper.add_done_callback(lambda _: None if wake.done() else wake.set_result(None))
            try:
                await wake
            finally:
                sleeper.cancel()

    async def _wait_durable(self, driver: Driver, poll: Poll) -> None:
        """Until what this poll read before is on disk and the house takes more; calls go on meanwhile."""
        receipts = self._receipts.pop(poll, [])
        while (waiting := [receipt for receipt in receipts if not receipt.done()]) or self._inlet.is_congested:
            if self._inbox:
                if (call := self._inbox.take()) is not None:
                    await self._answer(driver, call)
                continue
            with self._waking() as wake:
                if waiting:
                    await asyncio.wait([*waiting, wake], return_when=asyncio.FIRST_COMPLETED)
                    continue
                free = asyncio.ensure_future(self._inlet.wait_uncongested())
                try:
                    await asyncio.wait([free, wake], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    free.cancel()
        self._delivery.settle(receipts)

    def _end(self) -> None:
        """Nobody is left waiting; receipts still open are the committer's business."""
        self._inbox.close()
        self._delivery.end()
        for receipts in self._receipts.values():
            self._delivery.settle(receipts)
        self._receipts.clear()


async def _write_together(driver: Driver, command: WriteTogether) -> Wrote:
    if isinstance(driver, GroupWriter):
        return await driver.write_together(command)
    values: dict[str, Value] = {}
    for key, value in command.values.items():
        try:
            values[key] = await driver.write(Write(device=command.device, key=key, value=value))
        except (RejectedError, TransientError) as error:
            if not values:
                raise
            return Wrote(values=values, error=error)
    return Wrote(values=values)
