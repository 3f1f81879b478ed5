"""What follows from an answer, a refusal, a silence and a lost line: for a poll, its unit and the whole bus."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from gateway.errors import BusLost, RejectedError, TransientError
from gateway.fieldbus.delivery import Delivery
from gateway.fieldbus.outage import Outage, Silence, Unit
from gateway.fieldbus.records import PollRecord, Records
from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import Clock, Heard, Poll, PollPoint, Reading, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

MAX_STRANGERS: Final = 256
"""Units that no poll asks, of which is remembered that they are silent: all that a Modbus line has."""

PROBE_AFTER_S: Final = 0.001
"""A unit is tried again with another poll than the one that had no answer: it may be that one alone that is mute."""


class Outcomes:
    """What is known of the units of one bus; tells the scheduler who is left alone, and the sessions who is silent."""

    def __init__(
        self, bus: str, delivery: Delivery, clock: Clock, counters: Counters, rng: random.Random | None = None
    ) -> None:
        self._bus, self._delivery, self._clock, self._counters, self._rng = bus, delivery, clock, counters, rng
        self._scheduler: PollScheduler | None = None
        self._lost_s = -math.inf  # when the bus was found lost last
        self._homes: dict[str, str | None] = {}  # device to its unit; None: it has several
        self._strangers: dict[str, Silence] = {}  # units that only others ask, and that were silent
        self.units: dict[str, Unit] = {}
        self.outage = Outage(f"bus {bus}", rng)
        self.records = Records(bus, ())

    def begin(
        self, scheduler: PollScheduler, polls: Sequence[Poll], unasked: Sequence[tuple[str, PollPoint]] = ()
    ) -> None:
        """The bus was opened; units are remembered from before."""
        self._scheduler, self._lost_s = scheduler, -math.inf
        self.records = Records(self._bus, polls, unasked)
        for poll in polls:
            self._learn(self._unit(poll.unit), {point.device for point in poll.points})
        for name, point in unasked:
            self._learn(self._unit(name), {point.device})

    def home(self, device: str) -> str | None:
        """The unit of a device; None: it has several, or is not known."""
        return self._homes.get(device)

    # ── polls ──

    def read(self, record: PollRecord, readings: Sequence[Reading]) -> list[Receipt]:
        """A poll was answered; what is not durable yet of it."""
        unit = self.units[record.poll.unit]
        record.good(self._clock.monotonic_s())
        record.outage.answered(self._clock.now_ms())
        self.answered(unit)
        return self._take(unit, readings, record) if readings else []

    def not_read(self, record: PollRecord, error: TransientError | RejectedError, started_s: float) -> None:
        """A poll brought nothing. `started_s`: when it was asked, monotonic."""
        unit = self.units[record.poll.unit]
        self._count_error(unit)
        if isinstance(error, BusLost):
            self._lost(record, error, started_s)
        elif isinstance(error, TransientError):
            self._silent(unit, record, error, started_s)
        else:
            self._refused(unit, record, error)

    def _lost(self, record: PollRecord, error: BusLost, started_s: float) -> None:
        record.forget()
        if started_s < self._lost_s:  # under way when the bus was found lost: the same loss
            return
        self._lost_s = self._clock.monotonic_s()
        wait_s = self.outage.failed(error, self._clock.now_ms())
        if error.again_s is not None:
            wait_s = min(wait_s, error.again_s)
        if self._scheduler is not None:
            self._scheduler.suspend_all(self._clock.monotonic_s() + wait_s)
        if self.outage.is_beginning:
            self._delivery.fall_silent(self._delivery.channels)

    def _silent(self, unit: Unit, record: PollRecord, error: TransientError, started_s: float) -> None:
        self.outage.answered(self._clock.now_ms())
        now_s = self._clock.monotonic_s()
        if record.failed(unit.answers):
            wait_s = record.outage.failed(error, self._clock.now_ms(), now_s - started_s, self._count_silent())
            until_s = now_s + wait_s
        elif started_s >= unit.silence.tried_s:  # else under way when another poll had no answer: the same silence
            until_s = self._unit_failed(unit, error, started_s) + PROBE_AFTER_S  # the next try is another poll's
        else:
            return
        if self._scheduler is not None:
            self._scheduler.suspend_poll(record.poll, until_s)

    def _refused(self, unit: Unit, record: PollRecord, error: RejectedError) -> None:
        record.refused(error, self._clock.monotonic_s())
        record.outage.answered(self._clock.now_ms())
        self.answered(unit)
        if str(error) != unit.last_refusal:
            unit.last_refusal = str(error)
            log.warning("%s", error)

    # ── calls ──

    def why_not_now(self, unit: str) -> TransientError | None:
        """Why a call to this unit is not worth a timeout of everybody else now."""
        known = self.units.get(unit)
        silence = self._strangers.get(unit) if known is None else known.silence
        return None if silence is None else silence.why_not_now(self._clock.monotonic_s())

    def called(self, unit: str) -> None:
        """A call was answered."""
        known = self.units.get(unit)
        if known is not None:
            self.answered(known)
        else:
            self._strangers.pop(unit, None)

    def not_called(self, unit: str, error: TransientError, started_s: float) -> None:
        """A call had no answer: that tells something of a unit that is silent already, or that no poll asks."""
        if isinstance(error, BusLost):
            return
        known = self.units.get(unit)
        if known is not None:
            if known.outage.failures:
                self._unit_failed(known, error, started_s)
            return
        if len(self._strangers) < MAX_STRANGERS or unit in self._strangers:
            now_s = self._clock.monotonic_s()
            self._strangers.setdefault(unit, Silence()).failed(str(error), now_s, now_s - started_s)

    def answered(self, unit: Unit) -> None:
        """Whatever it was asked: it and the line are there."""
        now_ms = self._clock.now_ms()
        if self.outage.since_ms is not None:
            self.outage.answered(now_ms)
            if self._scheduler is not None:
                self._scheduler.resume_all(self._clock.monotonic_s())
        unit.answers += 1
        unit.silence.failures = 0
        if unit.outage.failures:
            unit.outage.answered(now_ms)
            if self._scheduler is not None:
                self._scheduler.resume(unit.unit, self._clock.monotonic_s())

    # ── devices that speak unasked ──

    def heard(self, heard: Heard) -> list[Receipt]:
        """What came, or why nothing comes; what is not durable yet of it."""
        if heard.bad_frames:
            self._counters.add("fieldbus.bad_frames", heard.bad_frames)
        if heard.lost_readings:
            self._counters.add("fieldbus.readings_lost", heard.lost_readings)
        unit = self._unit(heard.unit)
        if heard.error is None:
            if not heard.readings:
                return []
            self.answered(unit)
            unit.polls += 1
            return self._take(unit, heard.readings)
        self._count_error(unit)
        now_ms = self._clock.now_ms()
        if isinstance(heard.error, BusLost):
            self.outage.failed(heard.error, now_ms)
            silent: Collection[str] = self._delivery.channels
        else:
            self.outage.answered(now_ms)
            unit.outage.failed(heard.error, now_ms)
            silent = unit.devices
        self._delivery.fall_silent(silent)
        self.records.forget(silent)
        return []

    # ── what it comes to ──

    def _unit(self, name: str) -> Unit:
        return self.units.setdefault(name, Unit(self._bus, name, self._rng))

    def _unit_failed(self, unit: Unit, error: TransientError, started_s: float) -> float:
        """Until when it is left alone."""
        now_s = self._clock.monotonic_s()
        cost_s = now_s - started_s
        unit.silence.failed(str(error), now_s, cost_s)
        wait_s = unit.outage.failed(error, self._clock.now_ms(), cost_s, 1 + self._count_silent(but=unit))
        if self._scheduler is not None:
            self._scheduler.suspend(unit.unit, now_s + wait_s)
        if unit.outage.is_beginning:
            self._delivery.fall_silent(unit.devices)
        return now_s + wait_s

    def _count_silent(self, but: Unit | None = None) -> int:
        units = sum(unit.outage.failures > 1 for unit in self.units.values() if unit is not but)
        return units + sum(record.outage.failures > 1 for record in self.records.polls.values())

    def _take(self, unit: Unit, readings: Sequence[Reading], record: PollRecord | None = None) -> list[Receipt]:
        unit.last_good_ms = self._clock.now_ms()
        devices = {reading.device for reading in readings}
        if not devices <= unit.devices:
            self._learn(unit, devices)
        return self._delivery.take(unit.unit, record, readings, self.records, self._clock.monotonic_s())

    def _learn(self, unit: Unit, devices: Iterable[str]) -> None:
        for device in devices:
            unit.devices.add(device)
            if self._homes.setdefault(device, unit.unit) != unit.unit:
                self._homes[device] = None

    def _count_error(self, unit: Unit) -> None:
        unit.errors += 1
        self._counters.add("fieldbus.errors")
