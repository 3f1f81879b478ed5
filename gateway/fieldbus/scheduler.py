"""Which poll is next on one bus. Pure: time is an argument."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Container, Iterable
from typing import Final

from gateway.ports import Poll

_EARLY_S: Final = 1e-6
"""A poll may run this much too early: `now + (due - now)` can fall short of `due` by a rounding error."""

_SLACK: Final = 0.5
"""The deadline of a turn, as a share of its period: one that is put off so long still keeps its next turn."""

_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are far from each other: periods get phases that do not meet."""


class _Turn:
    """Where one poll stands: its turns are at `origin_s + n * period`, whatever happens to the bus."""

    __slots__ = ("every_s", "is_held", "number", "origin_s", "poll", "rank", "until_s")

    def __init__(self, poll: Poll, rank: int, origin_s: float) -> None:
        self.poll, self.rank, self.origin_s, self.every_s = poll, rank, origin_s, poll.every_s
        self.number = 0
        self.until_s = -math.inf  # put off alone until then
        self.is_held = False  # waits for the end of a suspension

    def plan(self, now_s: float) -> float:
        """The next turn after now; turns that have passed are forgotten."""
        due_s = self.origin_s + self.number * self.every_s
        if due_s <= now_s:
            self.number = math.floor((now_s - self.origin_s) / self.every_s) + 1
            due_s = self.origin_s + self.number * self.every_s
            if due_s <= now_s:  # a rounding error
                self.number += 1
                due_s = self.origin_s + self.number * self.every_s
        self.number += 1
        return due_s


class PollScheduler:
    """Polls by deadline. Time comes in, polls come out; nothing here waits.

    Everything is read once at the start; then polls of one period take their turns spread over that period, and
    periods get phases of their own. Of the polls that are due the one with the earliest deadline goes first, half a
    period after its turn: fast before slow while the bus can do all of it, and on a bus that cannot no poll starves,
    since deadlines pass. A late poll runs once and forgets the turns it missed (`merged` counts them): a slow bus reads
    less often, and never builds a backlog.
    """

    def __init__(self, polls: Iterable[Poll], now_s: float) -> None:
        polls = list(polls)
        total: dict[float, int] = {}
        for poll in polls:
            total[poll.every_s] = total.get(poll.every_s, 0) + 1
        shift = {every_s: place * _GOLDEN % 1.0 for place, every_s in enumerate(total)}
        place: dict[float, int] = {}
        self._turns: dict[Poll, _Turn] = {}
        self._ready: list[tuple[float, int, float, _Turn]] = []  # deadline, rank, due, turn
        for rank, poll in enumerate(polls):
            place[poll.every_s] = place.get(poll.every_s, 0) + 1
            phase = (place[poll.every_s] - shift[poll.every_s]) / total[poll.every_s]
            turn = self._turns[poll] = _Turn(poll, rank, now_s + poll.every_s * phase)
            self._ready.append((now_s + poll.every_s * _SLACK, rank, now_s, turn))
        heapq.heapify(self._ready)
        self._waiting: list[tuple[float, int, _Turn]] = []  # due, rank, turn
        self._held: dict[Poll, float] = {}  # due
        self._suspended: dict[str, float] = {}
        self._all_until_s = -math.inf
        self.merged = 0
        self.late_s = 0.0
        """How late the poll was that was taken last."""
        self.missed = 0
        """Turns that the poll forgot that was taken last."""

    def wait_s(self, now_s: float, shut: Container[str | None] = ()) -> float:
        """Seconds until a poll is due: 0 when one is late, infinity when there is none. Those of `shut` units do not
        count while they are late.
        """
        self._promote(now_s)
        if self._ready and (not shut or any(turn.poll.unit not in shut for *_, turn in self._ready)):
            return 0.0
        return self._waiting[0][0] - now_s if self._waiting else math.inf

    def take(self, now_s: float, *, hold: bool = False, shut: Container[str | None] = ()) -> Poll | None:
        """The poll that is due, its next turn already planned; None when it is too early.

        `hold`: it does not come again, however late it gets, before `give_back`. `shut`: units whose polls wait.
        """
        self._promote(now_s)
        put_off = []
        while shut and self._ready and self._ready[0][3].poll.unit in shut:
            put_off.append(heapq.heappop(self._ready))
        if not self._ready:
            self._ready = put_off  # in the order of a heap
            return None
        _, rank, due_s, turn = heapq.heappop(self._ready)
        for item in put_off:
            heapq.heappush(self._ready, item)
        self.late_s = max(0.0, now_s - max(due_s, self._until_s(turn)))
        self.missed = int(self.late_s / turn.every_s)
        self.merged += self.missed
        if hold:
            self._held[turn.poll] = turn.plan(now_s)
        else:
            heapq.heappush(self._waiting, (turn.plan(now_s), rank, turn))
        return turn.poll

    def give_back(self, poll: Poll) -> None:
        """A poll that was held has been read."""
        turn = self._turns[poll]
        heapq.heappush(self._waiting, (self._held.pop(poll), turn.rank, turn))

    def suspend(self, unit: str, until_s: float) -> None:
        """No poll of this unit before `until_s`; those that wait then are not counted as late."""
        self._suspended[unit] = until_s

    def suspend_poll(self, poll: Poll, until_s: float) -> None:
        """One poll not before `until_s`; the others of its unit go on."""
        self._turns[poll].until_s = until_s

    def suspend_all(self, until_s: float) -> None:
        """No poll at all before `until_s`."""
        self._all_until_s = max(self._all_until_s, until_s)

    def resume(self, unit: str, now_s: float) -> None:
        """The unit answers: what waits for the end of its suspension is due now."""
        if self._suspended.pop(unit, now_s) > now_s:
            self._let_go({unit}, now_s)

    def resume_all(self, now_s: float) -> None:
        """The line is back: units that are not suspended themselves are due now."""
        if self._all_until_s > now_s:
            self._all_until_s = now_s
            self._let_go({turn.poll.unit for turn in self._turns.values()} - self._suspended.keys(), now_s)

    def _let_go(self, units: Collection[str], now_s: float) -> None:
        for place, (due_s, rank, turn) in enumerate(self._waiting):
            if turn.is_held and turn.poll.unit in units:
                self._waiting[place] = (min(due_s, now_s), rank, turn)
        heapq.heapify(self._waiting)

    def _until_s(self, turn: _Turn) -> float:
        return max(self._all_until_s, turn.until_s, self._suspended.get(turn.poll.unit, -math.inf))

    def _promote(self, now_s: float) -> None:
        """What is due, and not suspended, becomes ready."""
        now_s += _EARLY_S
        while self._waiting and self._waiting[0][0] <= now_s:
            due_s, rank, turn = self._waiting[0]
            if (until_s := self._until_s(turn)) > now_s:
                turn.is_held = True
                heapq.heapreplace(self._waiting, (until_s, rank, turn))
                continue
            heapq.heappop(self._waiting)
            turn.is_held = False
            heapq.heappush(self._ready, (due_s + turn.every_s * _SLACK, rank, due_s, turn))
        while self._ready and (until_s := self._until_s(self._ready[0][3])) > now_s:
            _, rank, _, turn = heapq.heappop(self._ready)
            turn.is_held = True
            heapq.heappush(self._waiting, (until_s, rank, turn))
