"""When nodes are to act by themselves. Pure: times are arguments (seconds on the monotonic clock)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Container
from math import inf
from typing import TYPE_CHECKING, Final

from gateway.ports import Outcome

if TYPE_CHECKING:
    from gateway.rules.node import Routed

Fire = Callable[[Outcome], "Routed | None"]
"""What a node does when its time has come: adds changes, and sends messages on, or nothing."""

SPARE: Final = 64


class Timer:
    """One alarm clock of one node."""

    __slots__ = ("_timers", "due_s", "fire", "owner", "round")

    def __init__(self, timers: Timers, owner: object, fire: Fire) -> None:
        self._timers, self.owner, self.fire = timers, owner, fire
        self.due_s = inf
        self.round = 0

    @property
    def is_armed(self) -> bool:
        """It will fire."""
        return self.due_s != inf

    def arm(self, due_s: float) -> None:
        """At this time, once; an earlier arming is forgotten."""
        self._timers.arm(self, due_s)

    def cancel(self) -> None:
        """It does not fire."""
        self._timers.disarm(self)


class Timers:
    """All of an engine. `on_earlier` is called when the next time has come nearer."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer, int]] = []
        self._order = itertools.count()
        self._armed: dict[int, Timer] = {}
        self.on_earlier: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._armed)

    @property
    def due_s(self) -> float:
        """When the next one fires; infinite when there is none."""
        heap = self._heap
        while heap and heap[0][3] != heap[0][2].round:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf

    def arm(self, timer: Timer, due_s: float) -> None:
        """See `Timer.arm`."""
        is_earlier = due_s < self.due_s
        timer.round += 1
        timer.due_s = due_s
        self._armed[id(timer)] = timer
        heapq.heappush(self._heap, (due_s, next(self._order), timer, timer.round))
        if len(self._heap) > 2 * len(self._armed) + SPARE:
            self._heap = [entry for entry in self._heap if entry[3] == entry[2].round]
            heapq.heapify(self._heap)
        if is_earlier:
            self.on_earlier()

    def disarm(self, timer: Timer) -> None:
        """See `Timer.cancel`."""
        timer.round += 1
        timer.due_s = inf
        self._armed.pop(id(timer), None)

    def disarm_all(self, owners: Container[object]) -> None:
        """Of nodes that are gone."""
        for timer in [timer for timer in self._armed.values() if timer.owner in owners]:
            self.disarm(timer)

    def take(self, now_s: float) -> Timer | None:
        """The earliest that is due; it is no longer armed."""
        if self.due_s > now_s:
            return None
        timer = heapq.heappop(self._heap)[2]
        self.disarm(timer)
        return timer
