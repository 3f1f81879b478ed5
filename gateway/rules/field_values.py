"""What calculated fields know of the values of entities: the newest of each key, and windows. Pure.

All of it can be read from the store again, so nothing here has to survive, and who was not heard of for long goes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Final, NamedTuple

from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Value
from gateway.rules.alarm_state import Update

MOST_ENTITIES: Final = 10_000
MOST_POINTS: Final = 1_000_000
"""Of all windows together, 16 bytes each."""


POINTS: Final = "POINTS"
"""The scope of what touches a window: an older value is news there, and none of the latest value."""


class Window(NamedTuple):
    """A rolling argument: so many points of a key, of so long."""

    key: str
    limit: int
    span_ms: int


class Place(NamedTuple):
    """Of a value of an entity: telemetry has no scope, or `POINTS`."""

    scope: str
    key: str


@dataclass(slots=True)
class Interest:
    """What of one entity is of use to any field."""

    series: set[str] = field(default_factory=set)
    windows: set[Window] = field(default_factory=set)
    attributes: set[Place] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.series or self.windows or self.attributes)

    def add(self, other: Interest) -> None:
        """Both."""
        self.series |= other.series
        self.windows |= other.windows
        self.attributes |= other.attributes

    def touches(self, update: Update) -> bool:
        """Is there anything of use in it?"""
        if update.scope:
            return any(place.scope == update.scope and place.key in update.values for place in self.attributes)
        values = update.values
        return not self.series.isdisjoint(values) or any(window.key in values for window in self.windows)


class Rolling:
    """The points of a window, oldest first; at most `limit`, the newest."""

    __slots__ = ("limit", "span_ms", "times", "values")

    def __init__(self, limit: int, span_ms: int) -> None:
        self.limit, self.span_ms = limit, span_ms
        self.times, self.values = array("q"), array("d")

    def add(self, ts_ms: int, value: Value) -> None:
        """A second value of one time takes the place of the first."""
        number = _number(value)
        at = bisect_left(self.times, ts_ms)
        if at < len(self.times) and self.times[at] == ts_ms:
            self.values[at] = number
            return
        self.times.insert(at, ts_ms)
        self.values.insert(at, number)
        if len(self.times) > self.limit:
            del self.times[0], self.values[0]

    def trim(self, now_ms: int) -> None:
        """Forget what is older than the window."""
        gone = bisect_left(self.times, now_ms - self.span_ms)
        if gone:
            del self.times[:gone], self.values[:gone]


class Known:
    """Of one entity. `is_loaded`: what the store had is in it; `since_ms`: when that was."""

    __slots__ = ("attributes", "is_loaded", "series", "since_ms", "windows")

    def __init__(self) -> None:
        self.is_loaded = False
        self.since_ms = 0
        self.series: dict[str, tuple[int, Value]] = {}
        self.windows: dict[Window, Rolling] = {}
        self.attributes: dict[Place, tuple[int, Value]] = {}

    @property
    def points(self) -> int:
        """Of all its windows."""
        return sum(len(window.times) for window in self.windows.values())

    def take_latest(self, interest: Interest, latest: Mapping[str, tuple[int, Value]]) -> None:
        """What the store has; newer values stay."""
        for key in interest.series & latest.keys():
            held = self.series.get(key)
            if held is None or held[0] < latest[key][0]:
                self.series[key] = latest[key]

    def take_points(self, window: Window, points: Iterable[tuple[int, Value]]) -> None:
        """The same for a window; what has come meanwhile stays."""
        rolling = self._window(window)
        newer = list(zip(rolling.times, rolling.values, strict=True))
        for ts_ms, value in (*points, *newer):
            rolling.add(ts_ms, value)

    def merge(self, interest: Interest, update: Update) -> set[Place]:
        """Take over what was said; the places that are new. Older telemetry than what is known changes a window only.

        A null is no value.
        """
        touched: set[Place] = set()
        values = update.values
        if update.scope:
            for place in interest.attributes:
                if place.scope != update.scope or (value := values.get(place.key)) is None:
                    continue
                held = self.attributes.get(place)
                if held is None or held[0] <= update.ts_ms:
                    self.attributes[place] = (update.ts_ms, value)
                    touched.add(place)
            return touched
        for key in interest.series & values.keys():
            held = self.series.get(key)
            if (value := values[key]) is not None and (held is None or held[0] <= update.ts_ms):
                self.series[key] = (update.ts_ms, value)
                touched.add(Place("", key))
        for window in interest.windows:
            if (value := values.get(window.key)) is not None:
                self._window(window).add(update.ts_ms, value)
                touched.add(Place(POINTS, window.key))
        return touched

    def _window(self, window: Window) -> Rolling:
        rolling = self.windows.get(window)
        if rolling is None:
            rolling = self.windows[window] = Rolling(window.limit, window.span_ms)
        return rolling


class Memory:
    """Of all entities; the ones that were not heard of for the longest time go first."""

    def __init__(self) -> None:
        self._held: OrderedDict[EntityId, tuple[Known, int]] = OrderedDict()
        self._points = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, entity: EntityId) -> Known | None:
        """None: it is not (or no longer) here."""
        held = self._held.get(entity)
        return None if held is None else held[0]

    def make(self, entity: EntityId) -> Known:
        """The one that is here, else a new one."""
        known = self.get(entity)
        if known is None:
            known = Known()
            self._held[entity] = (known, 0)
        return known

    def used(self, entity: EntityId) -> None:
        """It was heard of, and may have grown."""
        held = self._held.get(entity)
        if held is None:
            return
        points = held[0].points
        self._points += points - held[1]
        self._held[entity] = (held[0], points)
        self._held.move_to_end(entity)
        while len(self._held) > 1 and (len(self._held) > MOST_ENTITIES or self._points > MOST_POINTS):
            self._points -= self._held.popitem(last=False)[1][1]

    def forget(self, entity: EntityId) -> None:
        """Unknown is no error."""
        held = self._held.pop(entity, None)
        if held is not None:
            self._points -= held[1]

    def clear(self) -> None:
        """All."""
        self._held.clear()
        self._points = 0


def _number(value: Value) -> float:
    """Of a point; what is no number is none, and the functions of a window leave it out."""
    if isinstance(value, dict | list):
        return nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return nan
