"""Many points → few requests. Pure.

Points of one unit, table and period travel together; values are never cut in two. A gap between two points is
read along when it is short, because a second request costs more than a few registers; how short is the caller's to
say (`cost.py`). What must not be read across is a *barrier*. What is read at a multiple of another's period rides along
with it when it is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from drivers.modbus.registers import Table

MAX_REGISTERS: Final = 125
MAX_BITS: Final = 2000
"""Quantities of one read request. Source: Modbus Application Protocol V1.1b3 §6.1–6.4."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span(Generic[T]):
    """What one point needs: `count` registers or bits from `address`. `point` is the caller's."""

    unit_id: int
    table: Table
    address: int
    count: int
    every_ms: int
    point: T

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[T]):
    """One read on the wire, and the points that it answers."""

    unit_id: int
    table: Table
    address: int
    count: int
    every_ms: int
    spans: Sequence[Span[T]]


@dataclass(frozen=True, slots=True)
class Barriers:
    """Of one unit and table. `holes`: first and last address of what must not be read; `cuts`: addresses that must not
    be in one request with the one before.
    """

    holes: tuple[tuple[int, int], ...] = ()
    cuts: frozenset[int] = frozenset()

    def between(self, end: int, address: int) -> bool:
        """True when nothing may be read from before `end` on to `address`, or over it."""
        return any(first < address and last >= end for first, last in self.holes) or any(
            end <= cut <= address for cut in self.cuts
        )


FREE: Final = Barriers()


def group(
    spans: Iterable[Span[T]],
    *,
    max_gap_registers: int = 8,
    max_gap_bits: int = 64,
    max_count: int | None = None,
    barriers: Barriers = FREE,
) -> list[Request[T]]:
    """The fewest requests that read every span, within the protocol's limits.

    Args:
        spans: In any order; they may overlap.
        max_gap_registers: Longest run of registers nobody asked for that is read along.
        max_gap_bits: The same for coils and discrete inputs.
        max_count: A lower limit than the protocol's, for a device that cannot do more. A single span larger
            than this travels alone.
        barriers: What no request reads across, in any unit and table.
    """
    ordered = sorted(spans, key=lambda span: (span.unit_id, span.table, span.every_ms, span.address, span.end))
    requests: list[Request[T]] = []
    run: list[Span[T]] = []
    end = 0
    for span in ordered:
        if run:
            first = run[0]
            gap, limit = (max_gap_bits, MAX_BITS) if span.table.is_bits else (max_gap_registers, MAX_REGISTERS)
            if (
                (first.unit_id, first.table, first.every_ms) == (span.unit_id, span.table, span.every_ms)
                and span.address - end <= gap
                and (span.address < end or not barriers.between(end, span.address))
                and max(end, span.end) - first.address <= min(limit, max_count or limit)
            ):
                run.append(span)
                end = max(end, span.end)
                continue
            requests.append(_request(run, end))
        run, end = [span], span.end
    if run:
        requests.append(_request(run, end))
    return requests


def share(
    requests: Iterable[Request[T]], *, max_gap: int, max_count: int, barriers: Barriers = FREE
) -> list[Request[T]]:
    """Requests of one unit and table, of which those at a multiple of another's period have joined it, where one
    request can carry both. Its `every_ms` is the shorter one; each span keeps its own.
    """
    hosts: list[Request[T]] = []
    for request in sorted(requests, key=lambda request: (request.every_ms, request.address)):
        for place, host in enumerate(hosts):
            first, second = sorted((host, request), key=lambda each: each.address)
            end = first.address + first.count
            count = max(end, second.address + second.count) - first.address
            if (
                host.every_ms < request.every_ms
                and request.every_ms % host.every_ms == 0
                and second.address - end <= max_gap
                and count <= max_count
                and (second.address < end or not barriers.between(end, second.address))
            ):
                hosts[place] = Request(
                    unit_id=host.unit_id,
                    table=host.table,
                    address=first.address,
                    count=count,
                    every_ms=host.every_ms,
                    spans=(*host.spans, *request.spans),
                )
                break
        else:
            hosts.append(request)
    return hosts


def blocks(spans: Iterable[Span[T]]) -> list[list[Span[T]]]:
    """Spans of one unit and table that overlap, together: what lies between two blocks is asked for by nobody."""
    found: list[list[Span[T]]] = []
    end = -1
    for span in sorted(spans, key=lambda span: (span.address, span.end)):
        if span.address < end:
            found[-1].append(span)
        else:
            found.append([span])
        end = max(end, span.end)
    return found


def one_request(spans: Sequence[Span[T]], every_ms: int) -> Request[T]:
    """All of them, whatever lies between."""
    address = min(span.address for span in spans)
    return Request(
        unit_id=spans[0].unit_id,
        table=spans[0].table,
        address=address,
        count=max(span.end for span in spans) - address,
        every_ms=every_ms,
        spans=tuple(spans),
    )


def _request(run: list[Span[T]], end: int) -> Request[T]:
    first = run[0]
    return Request(
        unit_id=first.unit_id,
        table=first.table,
        address=first.address,
        count=end - first.address,
        every_ms=first.every_ms,
        spans=tuple(run),
    )
