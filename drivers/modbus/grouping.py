"""Many points → few requests. Pure.

Points of one unit, table and period travel together; values are never cut in two. A gap between two points is
read along when it is short, because a second request costs more than a few registers.
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


def group(
    spans: Iterable[Span[T]], *, max_gap_registers: int = 8, max_gap_bits: int = 64, max_count: int | None = None
) -> list[Request[T]]:
    """The fewest requests that read every span, within the protocol's limits.

    Args:
        spans: In any order; they may overlap.
        max_gap_registers: Longest run of registers nobody asked for that is read along.
        max_gap_bits: The same for coils and discrete inputs.
        max_count: A lower limit than the protocol's, for a device that cannot do more. A single span larger
            than this travels alone.
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
