"""What a unit cannot do, as it was configured and as it turned out. Pure; kept while the service runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.modbus.grouping import Barriers, Request, Span
from drivers.modbus.tags import Tag
from gateway.ports import Fault


@dataclass(slots=True)
class Aside:
    """Points that the unit refused, left alone until then (monotonic)."""

    spans: list[Span[Tag]]
    reason: Fault
    until_s: float


@dataclass(slots=True)
class TableOfUnit:
    """One unit and table: the longest request, and what no request reads across."""

    limit: int
    given: tuple[tuple[int, int], ...] = ()  # holes of the configuration
    is_limited: bool = False  # found out, not configured
    longest: int = 0  # the longest request that was answered
    holes: set[tuple[int, int]] = field(default_factory=set)
    cuts: set[int] = field(default_factory=set)
    revision: int = 0

    def barriers(self) -> Barriers:
        """For `group`."""
        return Barriers((*self.given, *sorted(self.holes)), frozenset(self.cuts))

    def answered(self, request: Request[Tag]) -> None:
        """A request of this length is not too long."""
        if request.count > self.longest:
            self.longest = request.count

    def refused_as_one(self, request: Request[Tag], end: int, address: int) -> None:
        """It was refused, and both its parts, up to `end` and from `address` on, were answered."""
        if request.count > self.limit:
            return  # that explains it
        self.revision += 1
        if address > end:
            self.holes.add((end, address - 1))
        elif request.count > self.longest:
            self.limit, self.is_limited = max(1, request.count // 2), True
        else:
            self.cuts.add(address)

    def set_aside(self, first: int, last: int) -> None:
        """Refused for itself: not read along either."""
        self.holes.add((first, last))
        self.revision += 1

    def is_back(self, first: int, last: int) -> None:
        """It answers after all."""
        self.holes.discard((first, last))
        self.revision += 1
