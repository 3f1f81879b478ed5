"""What telemetry arrived: exact counts, latest values, and what is missing, repeated or out of order.

The hot path of the simulator: it shares a small machine with the gateway that is being measured. Memory is
bounded by the number of entities and keys, whatever the number of values:
- a key keeps its latest value and at most `keep_values` older ones;
- an entity whose telemetry carries a whole number under the key `seq` keeps the numbers that are missing, as
  ranges, so that loss, repetition and order are known exactly (sequences begin at 0 or 1);
- telemetry without `seq` is taken for repeated when the same entity, time stamp, keys and values were among
  the last few hundred thousand.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from gateway.cloud.pb import queue_pb2
from gateway.cloudsim.values import LONG, Report, check_value, read_value
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

SEQUENCE_KEY: Final = "seq"
_MAX_RANGES: Final = 10_000
_GENERATION: Final = 200_000
_LATENCIES: Final = 10_000


class Seen(IntEnum):
    """What a sequence number turned out to be."""

    NEXT = 0  #: above all before it (numbers that it skipped are missing from now on)
    LATE = 1  #: had been missing: out of order
    REPEATED = 2  #: had been there


class SequenceCheck:
    """Numbers of one entity that have been seen, as the highest one and the ranges missing below it."""

    __slots__ = ("_ends", "_starts", "forgotten", "high")

    def __init__(self) -> None:
        self.high = 0
        self.forgotten = 0  # missing numbers that were dropped because there were too many separate ranges
        self._starts: list[int] = []
        self._ends: list[int] = []  # inclusive

    def see(self, number: int) -> Seen:
        """Take note of one number."""
        high = self.high
        if number == high + 1:
            self.high = number
            return Seen.NEXT
        if number > high:
            self._starts.append(high + 1)
            self._ends.append(number - 1)
            self.high = number
            if len(self._starts) > _MAX_RANGES:
                self.forgotten += self._ends.pop(0) - self._starts.pop(0) + 1
            return Seen.NEXT
        return self._see_older(number)

    def _see_older(self, number: int) -> Seen:
        index = bisect_right(self._starts, number) - 1
        if index < 0 or number > self._ends[index]:
            return Seen.REPEATED
        start, end = self._starts[index], self._ends[index]
        if start == end:
            del self._starts[index], self._ends[index]
        elif number == start:
            self._starts[index] = number + 1
        elif number == end:
            self._ends[index] = number - 1
        else:
            self._ends[index] = number - 1
            self._starts.insert(index + 1, number + 1)
            self._ends.insert(index + 1, end)
        return Seen.LATE

    @property
    def contiguous(self) -> int:
        """Everything up to here has arrived."""
        return self._starts[0] - 1 if self._starts else self.high

    @property
    def missing(self) -> int:
        """How many numbers below the highest one have not arrived."""
        return sum(self._ends) - sum(self._starts) + len(self._starts) + self.forgotten

    def first_missing(self, limit: int) -> list[tuple[int, int]]:
        """The lowest missing ranges, both ends included."""
        return list(zip(self._starts[:limit], self._ends[:limit], strict=True))


class Series:
    """The telemetry of one entity."""

    __slots__ = (
        "duplicates",
        "events",
        "has_zero",
        "history",
        "latest",
        "out_of_order",
        "points",
        "sequence",
    )

    def __init__(self) -> None:
        self.latest: dict[str, tuple[int, Value]] = {}
        self.history: dict[str, deque[tuple[int, Value]]] = {}
        self.forget_counts()

    def forget_counts(self) -> None:
        """Count from zero; a sequence begins anew. Values stay."""
        self.events = 0
        self.points = 0
        self.duplicates = 0
        self.out_of_order = 0
        self.sequence: SequenceCheck | None = None
        self.has_zero = False


class Arrivals:
    """Counts over all entities. `events` are time stamps (telemetry messages), `points` are values."""

    def __init__(self, keep_values: int, report: Report = lambda kind, what: None) -> None:
        self._keep, self._report = keep_values, report
        self._recent: set[int] = set()
        self._older: set[int] = set()
        self.latencies_ms: deque[int] = deque(maxlen=_LATENCIES)
        """Arrival less time stamp, of the newest numbered telemetry (`seq`): its sender stamps the time of sending."""
        self.forget_counts()

    def forget_counts(self) -> None:
        """Count from zero."""
        self.events = 0
        self.points = 0
        self.duplicates = 0
        self.out_of_order = 0
        self.last_ts_ms = 0
        self.latencies_ms.clear()
        self._recent.clear()
        self._older.clear()

    def take(self, series: Series, lists: Sequence[queue_pb2.TsKvListProto]) -> None:
        """Count and keep the telemetry of one entity.

        Raises:
            RejectedError: A value that cannot be read; the lists before it are kept.
        """
        latest = series.latest
        keep = self._keep
        now_ms = time.time_ns() // 1_000_000
        for item in lists:
            ts = item.ts
            points = 0
            number = -1
            for kv in item.kv:
                key = kv.key
                try:
                    value = read_value(kv)
                except RejectedError as error:
                    self._report("no_value", str(error))
                    raise
                if not value:
                    check_value(self._report, kv)
                points += 1
                known = latest.get(key)
                if known is None or known[0] <= ts:
                    latest[key] = (ts, value)
                if keep:
                    history = series.history.get(key)
                    if history is None:
                        history = series.history[key] = deque(maxlen=keep)
                    history.append((ts, value))
                if key == SEQUENCE_KEY and kv.type == LONG:
                    number = kv.long_v
            if ts <= 0 or not points:
                self._odd(ts, item)
            series.events += 1
            series.points += points
            self.events += 1
            self.points += points
            self.last_ts_ms = ts
            if number > 0:
                self.latencies_ms.append(now_ms - ts)
                sequence = series.sequence
                if sequence is None:
                    sequence = series.sequence = SequenceCheck()
                if number == sequence.high + 1:
                    sequence.high = number
                else:
                    self._note(series, sequence.see(number))
            elif number == 0:
                self._note_zero(series)
            elif self._is_repeated(hash((id(series), item.SerializeToString()))):
                self._note(series, Seen.REPEATED)

    def latency_ms(self, percent: int) -> int:
        """A percentile of the latest latencies; 0 when there are none."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0

    def _odd(self, ts: int, item: queue_pb2.TsKvListProto) -> None:
        if not item.kv:
            self._report("empty_telemetry", f"no value at {ts}")
        if ts <= 0:
            self._report("zero_ts", f"{', '.join(kv.key for kv in item.kv)} at {ts}")

    def _note(self, series: Series, seen: Seen) -> None:
        if seen is Seen.REPEATED:
            series.duplicates += 1
            self.duplicates += 1
        elif seen is Seen.LATE:
            series.out_of_order += 1
            self.out_of_order += 1

    def _note_zero(self, series: Series) -> None:
        if series.has_zero:
            self._note(series, Seen.REPEATED)
        elif series.sequence is not None and series.sequence.high > 0:
            self._note(series, Seen.LATE)
        series.has_zero = True
        if series.sequence is None:
            series.sequence = SequenceCheck()

    def _is_repeated(self, fingerprint: int) -> bool:
        if fingerprint in self._recent or fingerprint in self._older:
            return True
        self._recent.add(fingerprint)
        if len(self._recent) >= _GENERATION:
            self._older, self._recent = self._recent, set()
        return False
