"""Windows by the clock: counted from midnight, of a time zone where one is given. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from gateway.rules.node import LAST_MS

DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
LATEST_MS: Final = LAST_MS - 2 * DAY_MS
"""Later times have no window."""


class Spans:
    """Windows of one length; the last one of a day ends at midnight, so that it may be shorter, and with more than an
    hour also longer where clocks are set back. All times are UTC epoch, milliseconds.
    """

    def __init__(self, size_ms: int, zone: ZoneInfo | None = None) -> None:
        self.size_ms, self._zone = size_ms, zone
        self._day = (0, 0)

    def of(self, ts_ms: int) -> tuple[int, int]:
        """Begin, and end, which belongs to the next one; 0 ≤ `ts_ms` ≤ `LATEST_MS`."""
        if self._zone is None:
            midnight = ts_ms - ts_ms % DAY_MS
            next_midnight = midnight + DAY_MS
        else:
            midnight, next_midnight = self._day
            if not midnight <= ts_ms < next_midnight:
                midnight, next_midnight = self._day = _day(ts_ms, self._zone)
        begin = ts_ms - (ts_ms - midnight) % self.size_ms
        if self.size_ms > _HOUR_MS:
            last = midnight + (DAY_MS - 1) // self.size_ms * self.size_ms
            if begin >= last:  # of a day with 25 hours it takes the rest
                return last, next_midnight
        return begin, min(begin + self.size_ms, next_midnight)


def _day(ts_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """The local day, of 23 or 25 hours where the clocks change."""
    local = datetime.fromtimestamp(ts_ms // 1000, UTC).astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    begin_ms = int(midnight.timestamp()) * 1000
    end_ms = int((midnight + timedelta(days=1)).timestamp()) * 1000
    if ts_ms >= end_ms:  # midnight comes twice, and this is between the two
        end_ms = int((midnight + timedelta(days=1)).replace(fold=1).timestamp()) * 1000
    return begin_ms, end_ms
