"""Originator telemetry: what the store has kept. Source: reference rule-engine §4.2."""

from __future__ import annotations

from typing import Final, Literal

import orjson
from pydantic import Field

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.domain.telemetry import Summary
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.enrich import series_of
from gateway.rules.node import LAST_MS, SUCCESS, Answer, Later, NodeConfig, NodeEnv, Routed, Run, as_text, changed, node
from gateway.rules.template import template

MAX_LIMIT: Final = 1000
_UNITS_MS: Final = {
    "NANOSECONDS": 1e-6, "MICROSECONDS": 1e-3, "MILLISECONDS": 1, "SECONDS": 1000, "MINUTES": 60_000,
    "HOURS": 3_600_000, "DAYS": 86_400_000,
}  # fmt: skip
Unit = Literal["NANOSECONDS", "MICROSECONDS", "MILLISECONDS", "SECONDS", "MINUTES", "HOURS", "DAYS"]


class GetTelemetryConfig(NodeConfig):
    """Keys and patterns may be templates; intervals lie before now."""

    latest_ts_key_names: tuple[str, ...] = ()
    fetch_mode: Literal["FIRST", "LAST", "ALL"] = "FIRST"
    start_interval: int = 2
    start_interval_time_unit: Unit = "MINUTES"
    end_interval: int = 1
    end_interval_time_unit: Unit = "MINUTES"
    use_metadata_interval_patterns: bool = False
    start_interval_pattern: str = ""
    end_interval_pattern: str = ""
    order_by: Literal["ASC", "DESC"] = "ASC"
    aggregation: Literal["NONE", "MIN", "MAX", "AVG", "SUM", "COUNT"] = "NONE"
    limit: int = Field(1000)


@node("metadata.TbGetTelemetryNode", "originator telemetry", GetTelemetryConfig)
def get_telemetry(config: GetTelemetryConfig, env: NodeEnv) -> Run:
    """Adds to metadata, by key: the first or last value of an interval, or all of them, or one that sums them up."""
    if not config.latest_ts_key_names:
        raise RejectedError("latestTsKeyNames needs at least one key")
    if config.fetch_mode == "ALL" and not 2 <= config.limit <= MAX_LIMIT:
        raise RejectedError(f"limit must be 2 to {MAX_LIMIT}")
    return _GetTelemetry(config, env).run


class _GetTelemetry:
    def __init__(self, config: GetTelemetryConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._keys = [template(key) for key in config.latest_ts_key_names]
        self._patterns = [template(text) for text in (config.start_interval_pattern, config.end_interval_pattern)]

    def run(self, msg: Message, out: Outcome) -> Answer:
        """The interval is that of the moment in which the message comes."""
        from_ms, to_ms = self._interval(msg)
        if from_ms > to_ms:
            raise RejectedError("the interval begins after its end")
        keys = list(dict.fromkeys(key(msg) for key in self._keys))

        async def ask(out: Outcome) -> Answer:
            found = {}
            for key in keys:
                text = await self._text(msg, key, from_ms, to_ms)
                if text is not None:
                    found[key] = text
            return Routed((SUCCESS,), (changed(msg, metadata={**msg.metadata, **found}),))

        return Later(ask)

    def _interval(self, msg: Message) -> tuple[int, int]:
        config = self._config
        if config.use_metadata_interval_patterns:
            start, end = (_moment(pattern(msg)) for pattern in self._patterns)
            return start, end
        now_ms = self._env.clock.now_ms()
        start_ms = config.start_interval * _UNITS_MS[config.start_interval_time_unit]
        end_ms = config.end_interval * _UNITS_MS[config.end_interval_time_unit]
        return _bounded(now_ms - int(start_ms)), _bounded(now_ms - int(end_ms))

    async def _text(self, msg: Message, key: str, from_ms: int, to_ms: int) -> str | None:
        series, config = series_of(self._env), self._config
        if config.fetch_mode != "ALL":
            is_last = config.fetch_mode == "LAST"
            one = await series.history(msg.originator, key, from_ms, to_ms, 1, newest_first=is_last)
            # ThingsBoard writes the value as a JSON text, quotes included, and chains rely on it (§9, 9).
            return orjson.dumps(as_text(one[0][1])).decode() if one else None
        if config.aggregation != "NONE":
            value = _aggregated(await series.summary(msg.originator, key, from_ms, to_ms), config.aggregation)
            found = [] if value is None else [(from_ms + (to_ms - from_ms) // 2, value)]
        else:
            is_newest = config.order_by == "DESC"
            found = list(
                await series.history(msg.originator, key, from_ms, to_ms, config.limit, newest_first=is_newest)
            )
        return orjson.dumps([{"ts": ts_ms, "value": value} for ts_ms, value in found]).decode() if found else None


def _aggregated(summary: Summary, how: str) -> Json:
    """None: there is nothing; of what is no number only the count is known."""
    if how == "COUNT":
        return summary.values or None
    if not summary.numbers:
        return None
    return {
        "MIN": summary.low,
        "MAX": summary.high,
        "SUM": summary.total if abs(summary.total) < 1 << 63 else float(summary.total),
        "AVG": summary.total / summary.numbers,
    }[how]


def _moment(text: str) -> int:
    try:
        return _bounded(int(text))
    except ValueError:
        raise RejectedError(f"the interval {text[:50]!r} is no number of milliseconds") from None


def _bounded(ms: int) -> int:
    return max(-LAST_MS, min(LAST_MS, ms))
