"""What a person and metrics see of the points of one bus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.fieldbus.outage import Outage, Unit
from gateway.fieldbus.records import Records
from gateway.ports import Clock, Driver, LastValue


class Overview:
    """Reads what the owner keeps; `driver` is None while the bus is not open."""

    def __init__(
        self,
        clock: Clock,
        driver: Callable[[], Driver | None],
        records: Callable[[], Records],
        units: Mapping[str, Unit],
        outage: Outage,
    ) -> None:
        self._clock, self._driver, self._records, self._units, self._outage = clock, driver, records, units, outage

    def tally(self) -> dict[str, int]:
        """How many points there are of each quality."""
        counts = {"good": 0, "stale": 0, "bad": 0}
        now_s, faults = self._clock.monotonic_s(), self.faults()
        for point in self._records():
            counts[point.quality(now_s, self._silence(point.unit), faults)[0]] += 1
        return counts

    def points(self, device: str | None = None, quality: str | None = None) -> Iterator[dict[str, Any]]:
        """Every point, or those of one device or quality."""
        now_s, faults = self._clock.monotonic_s(), self.faults()
        for point in self._records():
            if device is None or point.device == device:
                row = point.status(now_s, self._silence(point.unit), faults)
                if quality is None or row["quality"] == quality:
                    yield row

    def last(self, device: str, key: str) -> LastValue | None:
        """The last good value of one point, and why it is not good now; None: there is no such point."""
        if self._driver() is None:
            return LastValue(False, math.inf, "the bus is not open")
        point = self._records().point(device, key)
        if point is None:
            return None
        if point.reading is None:
            return LastValue(False, math.inf, "no value yet")
        now_s = self._clock.monotonic_s()
        quality, _, reason = point.quality(now_s, self._silence(point.unit), self.faults())
        return LastValue(point.reading.value, now_s - point.read_s, None if quality == "good" else reason or quality)

    def faults(self) -> dict[str, str]:
        """The driver's."""
        driver = self._driver()
        return dict(driver.faults()) if driver else {}

    def _silence(self, unit: str) -> str | None:
        """Why nothing comes from this unit now."""
        if self._driver() is None:
            return "the bus is not open"
        if self._outage.since_ms is not None:
            return self._outage.error
        known = self._units.get(unit)
        if known is None or not known.outage.failures:
            return None
        return known.outage.error if known.outage.failures > 1 or not known.answers else None
