"""One task owns one bus: calls first, then polls."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, overload

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import GatewayError, RejectedError, TransientError
from gateway.fieldbus.channel import BusChannel
from gateway.fieldbus.delivery import Delivery
from gateway.fieldbus.gate import Gates, Queue
from gateway.fieldbus.inbox import Call, Command, Inbox
from gateway.fieldbus.outcomes import Outcomes
from gateway.fieldbus.overview import Overview
from gateway.fieldbus.plugins import BusEntry
from gateway.fieldbus.records import LineUse, PollRecord
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
    Receipt,
    ToldBeforehand,
    TracesLine,
    WatchesLine,
    Write,
    WriteTogether,
    Wrote,
)
from gateway.supervise import Counters

CALLS_IN_A_ROW: Final = 8
"""Calls go before polls, but after so many of them a poll that is due has its turn. After a call that had no answer,
and after a request of others, polls that are due have as much of the line's time as it took: half of it is theirs."""

NOT_GOOD: Final = 10
"""So many points that are not good stand in the status; all of them can be asked for."""

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
        self._entry, self._inlet, self._clock, self._counters = entry, inlet, clock, counters
        self.name = entry.name
        self._driver: Driver | None = None
        self._scheduler: PollScheduler | None = None
        self._delivery = Delivery(counters)
        self._outcomes = Outcomes(self.name, self._delivery, clock, counters, rng)
        self._inbox = Inbox(self.name, clock, self._wake_up)
        self._wakes: set[asyncio.Future[None]] = set()
        self._deciding = asyncio.Lock()
        self._calls_in_a_row = self._reads_in_a_row = 0
        self._in_flight = 1
        self._gates = Gates()
        self._owed_s = 0.0  # of the line's time, to polls
        self._others_after_s = -math.inf  # requests of others rest until then
        self._use = LineUse(clock.monotonic_s())
        self._receipts: dict[Poll, list[Receipt]] = {}
        outcomes = self._outcomes
        self.overview = Overview(clock, lambda: self._driver, lambda: outcomes.records, outcomes.units, outcomes.outage)

    async def serve(self) -> None:
        """Open the driver and own the bus until cancelled.

        Raises:
            TransientError, RefusedError: The driver cannot be opened now; try again later.
        """
        async with self._entry.plugin.open(self._entry.config, self._clock) as driver:
            polls = driver.polls()
            self._scheduler = PollScheduler(polls, self._clock.monotonic_s())
            unasked = driver.unasked() if isinstance(driver, ToldBeforehand) else ()
            self._outcomes.begin(self._scheduler, polls, unasked)
            self._use = LineUse(self._clock.monotonic_s())
            self._driver = driver
            self._in_flight = driver.in_flight if isinstance(driver, Pipelined) else 1
            self._deciding, self._gates, self._owed_s = asyncio.Lock(), Gates(), 0.0
            self._others_after_s = -math.inf
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
        lost = self._outcomes.outage
        units = [unit.status(is_bus_lost=lost.since_ms is not None) for unit in self._outcomes.units.values()]
        return {
            "name": self.name,
            "kind": self._entry.plugin.kind,
            "connected": any(unit["ok"] for unit in units),
            "lost_since_ms": lost.since_ms,
            "last_error": lost.error,
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
                await self._read(driver, turn)
            else:
                await self._read_beside_others(driver, turn)
            scheduler.give_back(turn.poll)
            if self._in_flight > 1:
                self._wake_up()  # who waits for the next turn does not know of this one's, nor of what it changed
            self._reads_in_a_row += 1
            if self._reads_in_a_row >= READS_IN_A_ROW:
                self._reads_in_a_row = 0
                await asyncio.sleep(0)

    async def _next(self, scheduler: PollScheduler) -> Call | PollRecord:
        """Calls first, then the poll that is due; of both only what may enter its unit now."""
        while True:
            shut = self._gates.shut
            is_due = scheduler.wait_s(self._clock.monotonic_s(), shut) <= 0
            if self._inbox and (not is_due or (self._calls_in_a_row < CALLS_IN_A_ROW and self._owed_s <= 0)):
                call, shut = self._choose()
                if call is not None:
                    self._calls_in_a_row += 1
                    return call
            self._calls_in_a_row = 0
            wait_s = scheduler.wait_s(self._clock.monotonic_s(), shut)
            if wait_s > 0:
                self._reads_in_a_row, self._owed_s = 0, 0.0
                await self._rest(wait_s if self._rest_of_others_s <= 0 else min(wait_s, self._rest_of_others_s))
                continue
            poll = scheduler.take(self._clock.monotonic_s(), hold=True, shut=shut)
            if poll is not None:
                record = self._outcomes.records.polls[poll]
                record.begin(scheduler.late_s, scheduler.missed)
                if scheduler.missed:
                    self._counters.add("fieldbus.turns_missed", scheduler.missed)
                return record

    def _choose(self) -> tuple[Call | None, Container[str | None]]:
        """The first call whose unit is free, which has entered it then; and whom polls should leave alone."""
        others_rest = self._rest_of_others_s > 0
        if self._in_flight == 1:
            return self._inbox.take(_is_ours if others_rest else None), ()
        queue = Queue(self._gates)
        call = self._inbox.take(
            lambda call: (
                not (others_rest and not _is_ours(call)) and queue.may_enter(self._home(call), alone=_is_alone(call))
            )
        )
        if call is not None:
            self._gates.enter(self._home(call), alone=_is_alone(call))
        return call, queue.shut

    @property
    def _rest_of_others_s(self) -> float:
        """After a request of others that had no answer the line is left to everybody else for as long as it took."""
        return self._others_after_s - self._clock.monotonic_s()

    def _home(self, call: Call) -> str | None:
        command = call.command
        return command.unit if isinstance(command, RawRequest) else self._outcomes.home(command.device)

    async def _answer(self, driver: Driver, call: Call) -> None:
        """A call: executed before its deadline, by somebody who waits for it, or not at all."""
        home = self._home(call)
        try:
            if home is not None and (refusal := self._outcomes.why_not_now(home)) is not None:
                call.future.set_exception(refusal)
            else:
                await self._carry_out(driver, call, home)
        finally:
            if self._in_flight > 1:
                self._gates.leave(home)
                self._wake_up()

    async def _carry_out(self, driver: Driver, call: Call, unit: str | None) -> None:
        started_s = self._clock.monotonic_s()
        is_of_others, is_silent = isinstance(call.command, RawRequest), False
        try:
            value = await self._execute(driver, call)
        except GatewayError as error:
            if not call.future.done():
                call.future.set_exception(error)
            if isinstance(error, TransientError):
                is_silent = True
                if unit is not None:
                    self._outcomes.not_called(unit, error, started_s)
        except BaseException:  # stopping, or a bug in the driver: the caller is told, the owner ends
            if not call.future.done():
                call.future.set_exception(
                    TransientError(f"{self.name}: the bus was closed; the value may have arrived")
                )
            raise
        else:
            self._counters.add("fieldbus.calls")
            if unit is not None:
                self._outcomes.called(unit)
            self._remember(call.command, value)
            if not call.future.done():
                call.future.set_result(value)
        finally:
            now_s = self._clock.monotonic_s()
            self._use.add(started_s, now_s)
            if is_of_others or is_silent:
                self._owed_s = now_s - started_s
            if is_of_others and is_silent:
                self._others_after_s = now_s + self._owed_s

    def _remember(self, command: Command, value: Value | Wrote | bytes) -> None:
        """What was read back is what masters and persons are shown, before the next poll."""
        if isinstance(command, RawRequest) or isinstance(value, bytes):
            return
        values: Mapping[str, Value] = (
            value.values
            if isinstance(value, Wrote)
            else {command.key: value}
            if isinstance(command, Write | Query)
            else {}
        )
        self._outcomes.records.seen(command.device, values, self._clock.now_ms(), self._clock.monotonic_s())

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

    async def _read_beside_others(self, driver: Driver, record: PollRecord) -> None:
        unit = record.poll.unit
        while not self._gates.is_free(unit, alone=False):  # taken while this one waited for the disk
            with self._waking() as wake:
                await wake
        self._gates.enter(unit, alone=False)
        try:
            await self._read(driver, record)
        finally:
            self._gates.leave(unit)

    async def _read(self, driver: Driver, record: PollRecord) -> None:
        poll = record.poll
        self._outcomes.units[poll.unit].polls += 1
        started_s = self._clock.monotonic_s()
        try:
            readings = await driver.read(poll)
        except (TransientError, RejectedError) as error:
            self._outcomes.not_read(record, error, started_s)
        else:
            if receipts := self._outcomes.read(record, readings):
                self._receipts[poll] = receipts
        finally:
            now_s = self._clock.monotonic_s()
            self._use.add(started_s, now_s)
            self._owed_s -= now_s - started_s

    # ── devices that speak unasked ──

    async def _listen(self, listener: Listener) -> None:
        async for heard in listener.listen():
            if receipts := self._outcomes.heard(heard):
                await asyncio.wait(receipts)
                self._delivery.settle(receipts)
            if heard.readings and self._inlet.is_congested:
                await self._inlet.wait_uncongested()

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
                call, _ = self._choose()
                if call is not None:
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


def _is_ours(call: Call) -> bool:
    return not isinstance(call.command, RawRequest)


def _is_alone(call: Call) -> bool:
    return not isinstance(call.command, Query)


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
