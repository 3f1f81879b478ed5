"""Which poll is next on one bus. Pure: time is an argument."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Final

from gateway.ports import Poll

_EARLY_S: Final = 1e-6
"""A poll may run this much too early: `now + (due - now)` can fall short of `due` by a rounding error."""


class _Turn:
    """Where one poll stands: `planned_s` moves on its own grid, whatever happens to the bus."""

    __slots__ = ("first_gap_s", "planned_s", "poll")

    def __init__(self, poll: Poll, planned_s: float, first_gap_s: float) -> None:
        self.poll, self.planned_s, self.first_gap_s = poll, planned_s, first_gap_s


class PollScheduler:
    """Polls by deadline. Time comes in, polls come out; nothing here waits.

    Everything is read once at the start; then polls of one period take their turns spread over that period. A late
    poll runs at once and forgets the turns it missed (`merged` counts them): a slow bus reads less often, and never
    builds a backlog. The earliest deadline goes first, so no poll starves.
    """

    def __init__(self, polls: Iterable[Poll], now_s: float) -> None:
        polls = list(polls)
        total: dict[float, int] = {}
        for poll in polls:
            total[poll.every_s] = total.get(poll.every_s, 0) + 1
        place: dict[float, int] = {}
        self._heap: list[tuple[float, int, _Turn]] = []
        for rank, poll in enumerate(polls):
            place[poll.every_s] = place.get(poll.every_s, 0) + 1
            gap_s = poll.every_s * place[poll.every_s] / total[poll.every_s]
            self._heap.append((now_s, rank, _Turn(poll, now_s, gap_s)))
        heapq.heapify(self._heap)
        self._suspended: dict[str, float] = {}
        self.merged = 0

    def wait_s(self, now_s: float) -> float:
        """Seconds until a poll is due: 0 when one is late, infinity when there is none."""
        self._skip_suspended()
        if not self._heap:
            return math.inf
        wait_s = self._heap[0][0] - now_s
        return wait_s if wait_s > _EARLY_S else 0.0

    def take(self, now_s: float) -> Poll | None:
        """The poll that is due, its next turn already planned; None when it is too early."""
        if self.wait_s(now_s) > 0:
            return None
        due_s, rank, turn = self._heap[0]
        every_s = turn.poll.every_s
        self.merged += int((now_s - due_s) / every_s)
        if turn.first_gap_s:
            turn.planned_s, turn.first_gap_s = turn.planned_s + turn.first_gap_s, 0.0
        else:
            turn.planned_s += every_s
        if turn.planned_s <= now_s:
            turn.planned_s += every_s * (math.floor((now_s - turn.planned_s) / every_s) + 1)
        heapq.heapreplace(self._heap, (turn.planned_s, rank, turn))
        return turn.poll

    def suspend(self, unit: str, until_s: float) -> None:
        """No poll of this unit before `until_s`; those that wait then are not counted as late."""
        self._suspended[unit] = until_s

    def suspend_all(self, until_s: float) -> None:
        """No poll at all before `until_s`."""
        for _, _, turn in self._heap:
            self._suspended[turn.poll.unit] = max(until_s, self._suspended.get(turn.poll.unit, until_s))

    def _skip_suspended(self) -> None:
        while self._heap:
            due_s, rank, turn = self._heap[0]
            until_s = self._suspended.get(turn.poll.unit, due_s)
            if until_s <= due_s:
                return
            heapq.heapreplace(self._heap, (until_s, rank, turn))
