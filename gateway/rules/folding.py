"""Many numbers folded into a few. Pure; what is kept between two numbers is JSON, exact to the last bit.

Percentiles are by nearest rank: the smallest value that at least p % of the values do not exceed. Up to `EXACT` values
they are exact; of more they come from a sketch with logarithmic buckets (DDSketch, Masson, Rim, Lee 2019), within
`ACCURACY` of a value that was measured, whatever the order of the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from gateway.domain.entity import Json

PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
FUNCTIONS: Final = ("min", "max", "avg", "sum", "count", "first", "last", "std", "delta", *PERCENTILES)
MOST: Final = 1e100
"""Larger numbers are none: their squares and sums must stay finite."""

ACCURACY: Final = 0.005
TAIL: Final = 16
EXACT: Final = 128
MAX_BUCKETS: Final = 1024
"""Of each sign: values of which the largest is 28,000 times the smallest; smaller ones then share one bucket."""
_GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA: Final = math.log(_GAMMA)
_WHOLE: Final = 1 << 62


class Sample:
    """The values of which percentiles are wanted.

    They are kept in three parts, so that one more value rewrites little: `tail` (less than `TAIL`), `sealed` blocks of
    `TAIL` (together less than `EXACT`), and `sketch` with all before. `is_folded`: the sketch is newer than what its
    owner has written.
    """

    __slots__ = ("is_folded", "sealed", "sketch", "tail", "written")

    def __init__(self) -> None:
        self.tail: list[float] = []
        self.sealed: list[list[float]] = []
        self.sketch: Sketch | None = None
        self.is_folded = False
        self.written = 0  # of the sealed blocks, as far as the owner has written them

    def add(self, value: float) -> None:
        """One more."""
        self.tail.append(value)
        if len(self.tail) < TAIL:
            return
        self.sealed.append(self.tail)
        self.tail = []
        if len(self.sealed) * TAIL >= EXACT:
            self.sketch = self.sketch or Sketch()
            for block in self.sealed:
                self.sketch.add_all(block)
            self.sealed = []
            self.is_folded = True

    def at(self, ranks: Iterable[int], least: float, most: float) -> list[float]:
        """The values of these ranks, which count from 1; `least` and `most` of all values are known exactly."""
        recent = [value for block in (*self.sealed, self.tail) for value in block]
        if self.sketch is None:
            recent.sort()
            return [recent[rank - 1] for rank in ranks]
        whole = Sketch(self.sketch.json())
        whole.add_all(recent)
        return [min(max(whole.at(rank), least), most) for rank in ranks]


class Sketch:
    """Counts of values in buckets whose bounds grow by a constant factor."""

    __slots__ = ("above", "below", "zeros")

    def __init__(self, json: Json = None) -> None:
        zeros, below, above = json or (0, [], [])
        self.zeros: int = zeros
        self.below: dict[int, int] = dict(below)
        self.above: dict[int, int] = dict(above)

    def json(self) -> list[Any]:
        """As it is made again from."""
        return [self.zeros, [*map(list, self.below.items())], [*map(list, self.above.items())]]

    def add_all(self, values: Iterable[float]) -> None:
        """More."""
        for value in values:
            if value == 0:
                self.zeros += 1
                continue
            side = self.above if value > 0 else self.below
            bucket = math.ceil(math.log(abs(value)) / _LOG_GAMMA)
            side[bucket] = side.get(bucket, 0) + 1
            if len(side) > MAX_BUCKETS:
                lowest, second = sorted(side)[:2]
                side[second] += side.pop(lowest)

    def at(self, rank: int) -> float:
        """The value of this rank, which counts from 1."""
        for bucket in sorted(self.below, reverse=True):
            rank -= self.below[bucket]
            if rank <= 0:
                return -_middle(bucket)
        rank -= self.zeros
        if rank <= 0:
            return 0.0
        for bucket in sorted(self.above):
            rank -= self.above[bucket]
            if rank <= 0:
                return _middle(bucket)
        return math.inf  # more than there are: the owner limits it to the largest value


def _middle(bucket: int) -> float:
    """Within `ACCURACY` of every value of the bucket."""
    return float(2 * _GAMMA**bucket / (_GAMMA + 1))


class Series:
    """One key of one window. `row` is where its owner keeps it."""

    __slots__ = (
        "_error",
        "_first",
        "_first_ms",
        "_last",
        "_last_ms",
        "_least",
        "_mean",
        "_most",
        "_squares",
        "_total",
        "count",
        "key",
        "row",
        "sample",
    )

    def __init__(self, key: str, row: int, has_percentiles: bool) -> None:
        self.key, self.row = key, row
        self.count = 0
        self._total: float = 0
        self._error: float = 0  # what rounding has taken from the total (Neumaier)
        self._least = self._most = self._first = self._last = 0.0
        self._first_ms = self._last_ms = 0
        self._mean = self._squares = 0.0
        self.sample = Sample() if has_percentiles else None

    def add(self, ts_ms: int, value: float) -> None:
        """One value, less than `MOST`. Of equal times the first one that came is first, the last one last."""
        if type(value) is int and not -_WHOLE < value < _WHOLE:
            value = float(value)
        count = self.count = self.count + 1
        if count == 1:
            self._least = self._most = self._first = self._last = value
            self._first_ms = self._last_ms = ts_ms
        else:
            if value < self._least:
                self._least = value
            elif value > self._most:
                self._most = value
            if ts_ms >= self._last_ms:
                self._last, self._last_ms = value, ts_ms
            elif ts_ms < self._first_ms:
                self._first, self._first_ms = value, ts_ms
        before = self._total
        total = before + value
        if type(total) is float:
            self._error += (before - total) + value if abs(before) >= abs(value) else (value - total) + before
        elif not -_WHOLE < total < _WHOLE:
            total = float(total)
        self._total = total
        off = value - self._mean
        self._mean += off / count
        self._squares += off * (value - self._mean)
        if self.sample is not None:
            self.sample.add(value)

    def results(self, functions: Iterable[str]) -> dict[str, float]:
        """By function, of those in `FUNCTIONS`; `std` is that of these values, not of a population behind them."""
        found: dict[str, float] = {}
        total = self._total + self._error
        for name in functions:
            match name:
                case "min":
                    found[name] = self._least
                case "max":
                    found[name] = self._most
                case "avg":
                    found[name] = total / self.count
                case "sum":
                    found[name] = total
                case "count":
                    found[name] = self.count
                case "first":
                    found[name] = self._first
                case "last":
                    found[name] = self._last
                case "delta":
                    found[name] = self._last - self._first
                case "std":
                    found[name] = math.sqrt(max(0.0, self._squares / self.count))
        wanted = [name for name in functions if name in PERCENTILES]
        if wanted and self.sample is not None:
            ranks = [max(1, math.ceil(PERCENTILES[name] * self.count / 100)) for name in wanted]
            found |= zip(wanted, self.sample.at(ranks, self._least, self._most), strict=True)
        return found

    def json(self) -> list[Json]:
        """All but what the sample has sealed and folded."""
        row: list[Json] = [
            self.key,
            self.count,
            self._total,
            self._error,
            self._least,
            self._most,
            self._first_ms,
            self._first,
            self._last_ms,
            self._last,
            self._mean,
            self._squares,
        ]
        if self.sample is not None:
            row.append(self.sample.tail)
        return row

    @classmethod
    def of(cls, json: Json, row: int) -> Series:
        """From `json`."""
        made = cls(json[0], row, len(json) > 12)
        made.count, made._total, made._error, made._least, made._most = json[1:6]
        made._first_ms, made._first, made._last_ms, made._last, made._mean, made._squares = json[6:12]
        if made.sample is not None:
            made.sample.tail = list(json[12])
        return made
