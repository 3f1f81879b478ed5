"""Which readings are worth a message. Pure: time is an argument."""

from __future__ import annotations

from gateway.domain.telemetry import Value
from gateway.ports import Report


class Reporter:
    """What was reported last of one point, and whether the next reading is to be.

    Times are compared to the nearest turn of the poll: a point read each second with a gap of 10 s is reported with
    each tenth reading, though one of them may come a moment early.
    """

    __slots__ = ("_band", "_gap_s", "_is_on_change", "_last", "_last_s", "_share", "_silence_s")

    def __init__(self, rule: Report, every_s: float = 0.0) -> None:
        half_s = every_s / 2
        self._is_on_change = rule.on_change
        self._band, self._share = rule.deadband, rule.deadband_percent / 100
        self._gap_s = rule.min_gap_s - half_s
        self._silence_s = None if rule.max_silence_s is None else rule.max_silence_s - half_s
        self._last: Value | None = None
        self._last_s: float | None = None

    def passes(self, value: Value, now_s: float) -> bool:
        """True when this value is to be reported; it is then the one that the next are compared with."""
        if self._last_s is not None:
            silent_s = now_s - self._last_s
            if silent_s < self._gap_s:
                return False
            is_overdue = self._silence_s is not None and silent_s >= self._silence_s
            if self._is_on_change and not is_overdue and not self._has_changed(value):
                return False
        self._last, self._last_s = value, now_s
        return True

    def forget(self) -> None:
        """There was no good value, or it did not arrive: the next one is reported."""
        self._last = self._last_s = None

    def _has_changed(self, value: Value) -> bool:
        last = self._last
        if isinstance(value, bool) or isinstance(last, bool):
            return value is not last
        if isinstance(value, int | float) and isinstance(last, int | float):
            band = max(self._band, self._share * abs(last))
            return abs(value - last) > band
        return value != last
