"""What is known of each poll, each point and the line: for the owner's decisions and for a person."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from gateway.domain.telemetry import Value
from gateway.fieldbus.outage import Outage
from gateway.fieldbus.report import Reporter
from gateway.ports import Poll, PollPoint, Reading

MAX_POINTS: Final = 100_000
"""Points of one bus that are remembered; beyond them readings go on, without a line in the overview."""

STALE_TURNS: Final = 2.5
"""A value older than so many periods is stale, whatever the reason."""

_MAX_TEXT: Final = 200
_WEIGHT: Final = 0.2


class PollRecord:
    """One poll: how often it was answered, refused, late. Seconds are those of the monotonic clock."""

    __slots__ = (
        "achieved_s",
        "answers_seen",
        "errors",
        "failures",
        "good_s",
        "late_s",
        "missed",
        "outage",
        "points",
        "poll",
        "refusal",
        "refused_s",
        "reports",
        "runs",
    )

    def __init__(self, poll: Poll, name: str) -> None:
        self.poll = poll
        self.runs = self.errors = self.missed = 0
        self.late_s = 0.0  # the worst so far
        self.good_s: float | None = None
        self.achieved_s: float | None = None  # between good answers, a moving average
        self.refusal: Exception | None = None
        self.refused_s: float | None = None
        self.failures = 0  # in a row, without an answer
        self.answers_seen = 0  # of its unit, when it failed last
        self.outage = Outage(name)
        self.points: list[PointRecord] = []
        self.reports = False  # at least one of its points has a reporter

    def begin(self, late_s: float, missed: int) -> None:
        """Its turn has come."""
        self.runs += 1
        self.missed += missed
        self.late_s = max(self.late_s, late_s)

    def good(self, now_s: float) -> None:
        """Answered."""
        if self.good_s is not None:
            gap_s = now_s - self.good_s
            self.achieved_s = (
                gap_s if self.achieved_s is None else self.achieved_s + _WEIGHT * (gap_s - self.achieved_s)
            )
        self.good_s, self.failures, self.refusal = now_s, 0, None

    def refused(self, error: Exception, now_s: float) -> None:
        """The device answered, and said no."""
        self.errors += 1
        self.refusal, self.refused_s, self.failures = error, now_s, 0
        self.forget()

    def failed(self, answers: int) -> bool:
        """No answer. True: its unit does answer others, so that it is this poll that is mute."""
        self.errors += 1
        self.failures += 1
        is_alone = self.failures > 1 and answers > self.answers_seen
        self.answers_seen = answers
        self.forget()
        return is_alone

    def forget(self) -> None:
        """Its points have no good value: the next ones are reported."""
        if self.reports:
            for point in self.points:
                if point.reporter is not None:
                    point.reporter.forget()


class PointRecord:
    """One point: its last good value, and which poll brings it (None: it speaks unasked)."""

    __slots__ = ("device", "every_s", "key", "poll", "read_s", "reading", "reporter", "unit")

    def __init__(self, device: str, key: str, unit: str, poll: PollRecord | None, every_s: float | None = None) -> None:
        self.device, self.key, self.unit, self.poll = device, key, unit, poll
        self.every_s = every_s if every_s is not None or poll is None else poll.poll.every_s
        self.reading: Reading | None = None
        self.read_s = 0.0
        self.reporter: Reporter | None = None

    def quality(
        self, now_s: float, silence: str | None, faults: Mapping[str, str]
    ) -> tuple[str, int | None, str | None]:
        """`good`, `stale` or `bad`; with the device's code, where it gave one, and the reason.

        Args:
            now_s: Monotonic.
            silence: Why nothing comes from its unit or line now; None: it answers.
            faults: The driver's: `device.key` to the reason.
        """
        poll = self.poll
        refusal = None if poll is None else poll.refusal
        if refusal is not None and (
            self.reading is None or self.read_s <= (poll.refused_s if poll and poll.refused_s else 0.0)
        ):
            code = getattr(refusal, "code", None)
            return "bad", code if isinstance(code, int) else None, _short(refusal)
        if faults and (reason := faults.get(f"{self.device}.{self.key}")) is not None:
            return "bad", getattr(reason, "code", None), _short(reason)
        if self.reading is None:
            return "bad", None, silence or (poll and poll.outage.error) or "no value yet"
        if silence is not None:
            return "stale", None, silence
        if poll is not None and self.every_s and now_s - self.read_s > STALE_TURNS * self.every_s:
            return "stale", None, poll.outage.error or "not read in time"
        return "good", None, None

    def status(self, now_s: float, silence: str | None, faults: Mapping[str, str]) -> dict[str, Any]:
        """For a person."""
        quality, code, reason = self.quality(now_s, silence, faults)
        poll, reading = self.poll, self.reading
        achieved_s = None if poll is None else poll.achieved_s
        if poll is not None and achieved_s is not None and poll.good_s is not None:
            achieved_s = max(achieved_s, now_s - poll.good_s)  # an average says nothing of what has stopped
            achieved_s *= (self.every_s or poll.poll.every_s) / poll.poll.every_s
        value = None if reading is None else reading.value
        return {
            "device": self.device,
            "key": self.key,
            "unit": self.unit,
            "quality": quality,
            "code": code,
            "reason": reason,
            "value": _short(value) if isinstance(value, str | list | dict) else value,
            "ts_ms": None if reading is None else reading.ts_ms,
            "age_s": None if reading is None else round(now_s - self.read_s, 3),
            "every_ms": None if self.every_s is None else round(self.every_s * 1000, 3),
            "achieved_ms": None if achieved_s is None else round(achieved_s * 1000, 3),
            "missed": 0 if poll is None else poll.missed,
            "late_max_ms": None if poll is None else round(poll.late_s * 1000, 3),
        }


class Records:
    """All polls and points of one bus. Bounded: `MAX_POINTS`."""

    def __init__(self, bus: str, polls: Iterable[Poll], unasked: Iterable[tuple[str, PollPoint]] = ()) -> None:
        self.polls = {poll: PollRecord(poll, f"{bus}: poll {poll.key}") for poll in polls}
        self._points: dict[tuple[str, str], PointRecord] = {}
        self._hears_reports = False  # at least one point that comes unasked has a reporter
        for poll, record in self.polls.items():
            for point in poll.points:
                self._meet(point, poll.unit, record)
        for unit, point in unasked:
            self._meet(point, unit, None)

    def __iter__(self) -> Iterator[PointRecord]:
        return iter(self._points.values())

    def take(self, unit: str, poll: PollRecord | None, readings: Sequence[Reading], now_s: float) -> Sequence[Reading]:
        """Remember good values; those of them that are to be reported."""
        points = self._points
        for reading in readings:
            point = points.get((reading.device, reading.key))
            if point is None:
                point = self._meet(PollPoint(device=reading.device, key=reading.key), unit, poll)
                if point is None:
                    continue
            point.reading, point.read_s = reading, now_s
        if not (self._hears_reports if poll is None else poll.reports):
            return readings
        return [reading for reading in readings if self._is_reported(reading, now_s)]

    def seen(self, device: str, values: Mapping[str, Value], ts_ms: int, now_s: float) -> None:
        """What a call has read (back): as good as a poll's, but for whether it is to be reported."""
        for key, value in values.items():
            point = self._points.get((device, key))
            if point is not None and point.reading is not None:
                point.reading, point.read_s = replace(point.reading, value=value, ts_ms=ts_ms), now_s

    def point(self, device: str, key: str) -> PointRecord | None:
        """None: no such point, or it was never read."""
        return self._points.get((device, key))

    def forget(self, devices: Container[str]) -> None:
        """What was reported of these devices did not arrive, or they have been silent."""
        for point in self._points.values():
            if point.reporter is not None and point.device in devices:
                point.reporter.forget()

    def _is_reported(self, reading: Reading, now_s: float) -> bool:
        point = self._points.get((reading.device, reading.key))
        return point is None or point.reporter is None or point.reporter.passes(reading.value, now_s)

    def _meet(self, point: PollPoint, unit: str, poll: PollRecord | None) -> PointRecord | None:
        if len(self._points) >= MAX_POINTS:
            return None
        record = self._points[point.device, point.key] = PointRecord(point.device, point.key, unit, poll, point.every_s)
        if poll is None:
            if point.report is not None:
                record.reporter = Reporter(point.report)
                self._hears_reports = True
            return record
        poll.points.append(record)
        if point.report is not None:
            record.reporter = Reporter(point.report, point.every_s or poll.poll.every_s)
            poll.reports = True
        return record


class LineUse:
    """Which share of the last minute the line was busy: 0 to 1."""

    STEP_S: Final = 10.0
    STEPS: Final = 6

    def __init__(self, now_s: float) -> None:
        self._busy_s = 0.0
        self._to_s = now_s
        self._marks = deque([(now_s, 0.0)], maxlen=self.STEPS)

    def add(self, from_s: float, to_s: float) -> None:
        """It was busy from then till then. What ends later comes later; what overlaps is counted once."""
        self._busy_s += to_s - max(from_s, self._to_s)
        self._to_s = to_s
        if to_s - self._marks[-1][0] >= self.STEP_S:
            self._marks.append((to_s, self._busy_s))

    def share(self, now_s: float) -> float:
        """Of the time since the oldest mark."""
        from_s, busy_s = self._marks[0]
        return min(1.0, (self._busy_s - busy_s) / (now_s - from_s)) if now_s > from_s else 0.0


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
