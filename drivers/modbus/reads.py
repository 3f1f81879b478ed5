"""Polls: what is asked at each turn, and what happens to a request that the unit refuses.

A refused request is halved, where nobody asked for what lies between if there is such a place, until what the unit
refuses is alone: log n questions, not n. What was refused alone is set aside; a gap that made the difference is not
read across any more; when neither explains it, the request was too long for the unit, or crossed a border that it has.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from drivers.modbus.config import ModbusConfig
from drivers.modbus.cost import LineCost, UnitTimes, cost_of
from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS, Request, Span, blocks, group, one_request, share
from drivers.modbus.learned import Aside, TableOfUnit
from drivers.modbus.registers import Table
from drivers.modbus.tags import Tag
from drivers.modbus.wire import ModbusWire, Refused
from gateway.domain.entity import Json
from gateway.errors import RejectedError
from gateway.ports import Clock, Fault, Poll, PollPoint, Reading

log = logging.getLogger(__name__)

SET_ASIDE_S: Final = 60.0
"""How long a refused point is left alone before the device is asked for it again."""

MOST_IN_A_TURN: Final = 24
"""Questions that the search for culprits may ask in one turn, about; it goes on at the next."""

_ILLEGAL_FUNCTION: Final = 1
_EARLY: Final = 0.5
"""A point that is read at each n-th turn of its poll is due when half a turn is missing: turns may be a little late."""


@dataclass(slots=True)
class _Plan:
    """How one poll is read."""

    spans: Sequence[Span[Tag]]
    every_ms: int
    table: TableOfUnit
    periods: tuple[int, ...]
    read_s: dict[int, float] = field(default_factory=dict)  # by period
    aside: dict[tuple[int, int], Aside] = field(default_factory=dict)  # by first and last address
    requests: dict[tuple[int, ...], list[Request[Tag]]] = field(default_factory=dict)  # by the periods that are due
    made_for: tuple[int, int] = (-1, -1)

    def due(self, now_s: float) -> tuple[int, ...]:
        """Whose turn it is. The shortest period is that of the poll."""
        if len(self.periods) == 1:
            return self.periods
        early_s = self.every_ms * _EARLY / 1000
        return tuple(
            every_ms
            for every_ms in self.periods
            if every_ms == self.every_ms or now_s - self.read_s.get(every_ms, -math.inf) >= every_ms / 1000 - early_s
        )


@dataclass(slots=True)
class _Search:
    """One turn: what it brought, and how many questions it may still ask."""

    readings: list[Reading] = field(default_factory=list)
    answers: int = 0
    questions_left: int = MOST_IN_A_TURN
    refusal: Refused | None = None
    aside: dict[str, str] = field(default_factory=dict)


class Reads:
    """The polls of one bus."""

    def __init__(self, config: ModbusConfig, spans: Sequence[Span[Tag]], wire: ModbusWire, clock: Clock) -> None:
        self._config, self._wire, self._clock = config, wire, clock
        self._cost: LineCost = cost_of(config.wire)
        self._times = UnitTimes(self._cost)
        self._tables: dict[tuple[int, Table], TableOfUnit] = {}
        self._plans: dict[Poll, _Plan] = {}
        self._bad_values: dict[str, str] = {}
        self._told: set[str] = set()  # points whose refusal is in the log
        for (unit_id, table), own in _by_table(spans).items():
            known = self._tables[unit_id, table] = _given(config, unit_id, table)
            widest = self._given_gap(table)
            if widest is None:
                widest = self._cost.gap(self._cost.widest_s, is_bits=table.is_bits)
            alone = group(
                own,
                max_gap_registers=widest,
                max_gap_bits=widest,
                max_count=known.limit,
                barriers=known.barriers(),
            )
            for request in share(alone, max_gap=widest, max_count=known.limit, barriers=known.barriers()):
                periods = tuple(sorted({span.every_ms for span in request.spans}))
                self._plans[_poll(request)] = _Plan(request.spans, request.every_ms, known, periods)

    def polls(self) -> Sequence[Poll]:
        """One a group of neighbouring points."""
        return list(self._plans)

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """The points of one group whose turn it is; empty when all of them are set aside.

        Raises:
            TransientError: The unit is silent. `BusLost`: no connection.
            RejectedError: The unit refused all of the group just now.
        """
        plan, search, now_s = self._plans[poll], _Search(), self._clock.monotonic_s()
        due = plan.due(now_s)
        for request in self._requests(plan, due):
            await self._fetch(plan, request, search)
        for place, aside in [item for item in plan.aside.items() if now_s >= item[1].until_s]:
            if search.questions_left > 0:
                search.questions_left -= 1
                await self._ask_again(plan, place, aside, search)
        for every_ms in due:
            plan.read_s[every_ms] = now_s
        if search.answers:
            self._tell(search.aside)
        elif search.refusal is not None:  # speaks for all of them
            raise search.refusal
        return search.readings

    def faults(self) -> Mapping[str, str]:
        """Points set aside, and points whose last value was none (NaN …)."""
        found = dict(self._bad_values)
        for plan in self._plans.values():
            for aside in plan.aside.values():
                found.update((span.point.name, aside.reason) for span in aside.spans)
        return found

    def seen(self) -> dict[str, Json]:
        """What was found out about the units, for a person."""
        limits: dict[str, Json] = {}
        holes: dict[str, Json] = {}
        for (unit_id, table), known in self._tables.items():
            if known.is_limited:
                limits[f"unit {unit_id}, {table}"] = known.limit
            found = [f"{first}-{last}" for first, last in sorted(known.holes)]
            found += [f"{cut - 1}|{cut}" for cut in sorted(known.cuts)]
            if found:
                holes[f"unit {unit_id}, {table}"] = [*found]
        return {"longest_request": limits, "not_read_across": holes, "answer_ms": {**self._times.measured_ms()}}

    # ── what is asked ──

    def _requests(self, plan: _Plan, due: tuple[int, ...]) -> list[Request[Tag]]:
        gap = self._gap(plan)
        made_for = (plan.table.revision, gap)
        if plan.made_for != made_for:
            plan.requests.clear()
            plan.made_for = made_for
        requests = plan.requests.get(due)
        if requests is None:
            left_out = {span.point.name for aside in plan.aside.values() for span in aside.spans}
            spans = [span for span in plan.spans if span.every_ms in due and span.point.name not in left_out]
            requests = plan.requests[due] = self._group(plan, spans, gap)
        return requests

    def _group(self, plan: _Plan, spans: Iterable[Span[Tag]], gap: int) -> list[Request[Tag]]:
        together = [_at(span, plan.every_ms) for span in spans]
        return group(
            together,
            max_gap_registers=gap,
            max_gap_bits=gap,
            max_count=plan.table.limit,
            barriers=plan.table.barriers(),
        )

    def _gap(self, plan: _Plan) -> int:
        first = plan.spans[0]
        given = self._given_gap(first.table)
        return self._times.gap(first.unit_id, is_bits=first.table.is_bits) if given is None else given

    def _given_gap(self, table: Table) -> int | None:
        return self._config.max_gap_bits if table.is_bits else self._config.max_gap_registers

    # ── asking ──

    async def _fetch(self, plan: _Plan, request: Request[Tag], search: _Search) -> bool:
        """One request, taken apart when the unit refuses it; True when it was answered whole."""
        try:
            search.readings += await self._read(request)
        except Refused as error:
            search.refusal = search.refusal or error
            await self._take_apart(plan, request, error, search)
            return False
        search.answers += 1
        plan.table.answered(request)
        return True

    async def _take_apart(self, plan: _Plan, request: Request[Tag], error: Refused, search: _Search) -> None:
        parts = blocks(request.spans)
        if len(parts) == 1 or error.code == _ILLEGAL_FUNCTION:
            self._set_aside(plan, request, error, SET_ASIDE_S)
            search.aside.update((span.point.name, str(error)) for span in request.spans)
            return
        if search.questions_left < 2:
            self._set_aside(plan, request, error, 0.0)
            return
        border = _border(parts)
        end = max(span.end for part in parts[:border] for span in part)
        address = parts[border][0].address
        are_good = True
        for half in (parts[:border], parts[border:]):
            spans = [span for part in half for span in part]
            whole = one_request(spans, request.every_ms)
            # What was learned from the first half may say that the second is too long.
            for part in [whole] if whole.count <= plan.table.limit else self._group(plan, spans, whole.count):
                search.questions_left -= 1
                are_good &= await self._fetch(plan, part, search)
        if are_good:
            plan.table.refused_as_one(request, end, address)

    async def _ask_again(self, plan: _Plan, place: tuple[int, int], aside: Aside, search: _Search) -> None:
        """What was set aside, all of it at once; a part of it that answers is back."""
        del plan.aside[place]
        plan.table.is_back(*place)
        if not await self._fetch(plan, one_request(aside.spans, plan.every_ms), search):
            return
        self._told.difference_update(span.point.name for span in aside.spans)

    def _set_aside(self, plan: _Plan, request: Request[Tag], error: Refused, for_s: float) -> None:
        first, last = request.address, request.address + request.count - 1
        reason = Fault(str(error), error.code)
        plan.aside[first, last] = Aside(list(request.spans), reason, self._clock.monotonic_s() + for_s)
        plan.table.set_aside(first, last)
        for span in request.spans:
            self._bad_values.pop(span.point.name, None)

    def _tell(self, aside: Mapping[str, str]) -> None:
        new = [name for name in aside if name not in self._told]
        self._told.update(new)
        if new:
            others = f" with {len(new) - 1} others" if len(new) > 1 else ""
            log.warning("%s is set aside%s, its neighbours are read on: %s", new[0], others, aside[new[0]])

    async def _read(self, request: Request[Tag]) -> list[Reading]:
        content: Sequence[int]
        asked_s = self._clock.monotonic_s()
        if request.table.is_bits:
            content = await self._wire.read_bits(request.unit_id, request.table, request.address, request.count)
        else:
            content = await self._wire.read_registers(request.unit_id, request.table, request.address, request.count)
        registers = request.count / 16 if request.table.is_bits else request.count
        self._times.answered(request.unit_id, self._clock.monotonic_s() - asked_s, registers)
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


def _by_table(spans: Iterable[Span[Tag]]) -> dict[tuple[int, Table], list[Span[Tag]]]:
    found: dict[tuple[int, Table], list[Span[Tag]]] = {}
    for span in spans:
        found.setdefault((span.unit_id, span.table), []).append(span)
    return found


def _given(config: ModbusConfig, unit_id: int, table: Table) -> TableOfUnit:
    """What the configuration says of a unit; several devices may share it."""
    devices = [
        device
        for device in config.devices
        if device.unit_id == unit_id
        or any(point.unit_id == unit_id for point in (*device.telemetry, *device.attributes))
    ]
    if table.is_bits:
        limit = min([MAX_BITS, config.max_bits, *(device.max_bits or MAX_BITS for device in devices)])
    else:
        limit = min(
            [MAX_REGISTERS, config.max_registers, *(device.max_registers or MAX_REGISTERS for device in devices)]
        )
    return TableOfUnit(limit, tuple(sorted(hole for device in devices for hole in device.holes)))


def _border(parts: Sequence[Sequence[Span[Tag]]]) -> int:
    """Where to halve: before this part. At a place that nobody asked for when there is one, near the middle."""
    middle = len(parts) / 2
    ends = [max(span.end for span in part) for part in parts]
    return min(range(1, len(parts)), key=lambda at: (parts[at][0].address == ends[at - 1], abs(at - middle), -at))


def _at(span: Span[Tag], every_ms: int) -> Span[Tag]:
    """The same span as a part of a poll of this period."""
    if span.every_ms == every_ms:
        return span
    return Span(
        unit_id=span.unit_id,
        table=span.table,
        address=span.address,
        count=span.count,
        every_ms=every_ms,
        point=span.point,
    )


def _poll(request: Request[Tag]) -> Poll:
    every_ms = request.every_ms
    return Poll(
        key=f"{request.unit_id}/{request.table}/{request.address}+{request.count}@{every_ms}",
        every_s=every_ms / 1000,
        unit=str(request.unit_id),
        points=tuple(
            PollPoint(
                device=span.point.device,
                key=span.point.key,
                report=span.point.report,
                every_s=None if span.every_ms == every_ms else span.every_ms / 1000,
            )
            for span in request.spans
        ),
    )
