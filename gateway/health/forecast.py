"""How long the store lasts, and how long a drain takes, at the present rate. Measured, never guessed from settings."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.cloud_event import Lane
from gateway.errors import TransientError
from gateway.ports import Clock, Store, StoreUse

EVERY_S: Final = 10.0
FILL_WINDOW_S: Final = 300.0
"""Rates are means over this time at most: what is written in bursts must not look like a change."""
DRAIN_WINDOW_S: Final = 60.0
"""A drain is told sooner."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    use: StoreUse
    stored: int
    pending: int


class Forecast:
    """Samples the store; `status` and `gauges` answer from memory."""

    name = "forecast"

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._samples: deque[_Sample] = deque(maxlen=int(FILL_WINDOW_S / EVERY_S) + 1)
        self._event_bytes: float | None = None

    async def serve(self) -> None:
        """One sample in ten seconds, until cancelled; none while the store does not answer."""
        while True:
            try:
                await self.sample()
            except TransientError:
                self._samples.clear()  # the outage itself is told by who needs the store
            await self._clock.sleep(EVERY_S)

    async def sample(self) -> None:
        """Look now."""
        use = await self._store.use()
        events = self._store.events
        stored = sum(events.last(lane) for lane in Lane)
        pending = stored - sum(events.cursor(lane) for lane in Lane)
        self._samples.append(_Sample(self._clock.monotonic_s(), use, stored, pending))
        first, last = self._samples[0], self._samples[-1]
        grown, added = last.use.used_bytes - first.use.used_bytes, last.stored - first.stored
        if grown > 0 and added > 0:
            self._event_bytes = grown / added

    def status(self) -> dict[str, Any]:
        """`hours_left` until the limit is reached, None while the store does not grow; `drain_s` until nothing waits,
        None while what waits does not become less. `event_bytes`: what an event takes, its history included.
        """
        if not self._samples:
            return {
                "used_bytes": None,
                "limit_bytes": None,
                "event_bytes": None,
                "fill_bytes_per_s": None,
                "hours_left": None,
                "drain_s": None,
            }
        last = self._samples[-1]
        fill = self._rate(FILL_WINDOW_S, [one.use.used_bytes for one in self._samples])
        drain = -self._rate(DRAIN_WINDOW_S, [one.pending for one in self._samples])
        left = max(0, last.use.limit_bytes - last.use.used_bytes)
        return {
            "used_bytes": last.use.used_bytes,
            "limit_bytes": last.use.limit_bytes,
            "event_bytes": None if self._event_bytes is None else round(self._event_bytes),
            "fill_bytes_per_s": round(fill, 1),
            "hours_left": round(left / fill / 3_600, 2) if fill > 0 else None,
            "drain_s": round(last.pending / drain) if drain > 0 else 0 if last.pending == 0 else None,
        }

    def gauges(self) -> dict[str, float]:
        """What is known of `status`, named as metrics."""
        return {f"store.{name}": value for name, value in self.status().items() if value is not None}

    def _rate(self, window_s: float, values: list[int]) -> float:
        last = self._samples[-1]
        for sample, value in zip(self._samples, values, strict=True):
            span_s = last.at_s - sample.at_s
            if span_s <= 0:
                break
            if span_s <= window_s:
                return (values[-1] - value) / span_s
        return 0.0
