"""How long readings take inside a gateway and on their way here: `gatewayMetrics`, telemetry of the gateway.

Source: ThingsBoard 4.3 gateway API: latency metadata, names of the figures, every 60 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.broker.gateway_payloads import Latency
from gateway.domain.telemetry import TsKv, Value
from gateway.ports import DeviceSession

if TYPE_CHECKING:
    from gateway.broker.desk import Desk

EVERY_S: Final = 60.0
MAX_CONNECTORS: Final = 200
"""Of one gateway in one interval; more are counted and left out."""


@dataclass(slots=True)
class _Span:
    """Milliseconds: how many, their sum, and the extremes."""

    count: int = 0
    total: int = 0
    least: int = 0
    most: int = 0

    def add(self, span_ms: int) -> None:
        """One more."""
        self.least = span_ms if not self.count else min(self.least, span_ms)
        self.most = span_ms if not self.count else max(self.most, span_ms)
        self.count += 1
        self.total += span_ms


class Latencies:
    """Collected from the first one on for `EVERY_S`, then posted."""

    def __init__(self, desk: Desk, session: DeviceSession) -> None:
        self._desk, self._session = desk, session
        self._connectors: dict[str, tuple[_Span, _Span]] = {}
        self._is_collecting = False

    def add(self, latencies: Iterable[Latency], now_ms: int) -> None:
        """Of one packet, which came now."""
        for latency in latencies:
            spans = self._connectors.get(latency.connector)
            if spans is None:
                if len(self._connectors) >= MAX_CONNECTORS:
                    self._desk.counters.add("broker.gateway_metrics_left_out")
                    continue
                spans = self._connectors[latency.connector] = (_Span(), _Span())
            spans[0].add(latency.published_ms - latency.received_ms)
            spans[1].add(now_ms - latency.published_ms)
        if not self._is_collecting:
            self._is_collecting = True
            self._desk.spawn(self._post(), f"metrics of {self._session.device.id}")

    async def _post(self) -> None:
        await self._desk.clock.sleep(EVERY_S)
        self._is_collecting = False
        connectors, self._connectors = self._connectors, {}
        metrics: Value = {
            connector: _figures("Gw", inside) | _figures("Transport", way)
            for connector, (inside, way) in connectors.items()
        }
        self._session.post_telemetry([TsKv(self._desk.clock.now_ms(), {"gatewayMetrics": metrics})])


def _figures(name: str, span: _Span) -> dict[str, int]:
    return {
        f"avg{name}Latency": round(span.total / span.count),
        f"min{name}Latency": span.least,
        f"max{name}Latency": span.most,
    }
