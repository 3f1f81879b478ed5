"""Windowed aggregation: a node of our own, because stock rule chains have none (reference rule-engine §8.6).

What is folded is durable before its receipt is given (`gateway.rules.window`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.folding import FUNCTIONS, MOST
from gateway.rules.node import SUCCESS, Answer, NodeConfig, NodeEnv, Recent, Routed, Run, node
from gateway.rules.nodes.telemetry import value_sets
from gateway.rules.spans import LATEST_MS, Spans
from gateway.rules.window import Window, restored

RAW: Final = "raw"
MAX_WINDOWS: Final = 16
"""Open windows of one originator; with one more the earliest ends."""
LOOK_AGAIN_S: Final = 60.0
"""The wall clock may be set while a window is open: its end is looked at so often."""
AT_ONCE: Final = 100
"""Windows that end in one step, and share a unit of work."""
_METADATA_CHARS: Final = 2_000
_NOT_KEPT: Final = frozenset({"ts", "source"})  # what came from the cloud would not be pushed (§9, 7)


class AggregateConfig(NodeConfig):
    """`keys` may have `*` and `?`; none means every key with a number."""

    window_seconds: float = Field(60, ge=1, le=86_400)
    time_zone: str | None = None
    functions: tuple[str, ...] = ("min", "max", "avg", "count")
    keys: tuple[str, ...] = ()
    late: Literal["DROP", "OWN_WINDOW"] = "OWN_WINDOW"
    keep_open_seconds: float = Field(0, ge=0, le=86_400)
    result_time: Literal["START", "END"] = "START"
    result_key: str = "{key}_{function}"
    max_open_windows: int = Field(50_000, ge=1, le=1_000_000)

    @field_validator("functions")
    @classmethod
    def _known(cls, functions: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.lower() for name in functions))
        for name in found:
            if name not in FUNCTIONS:
                raise ValueError(f"{name!r} is not known; there are {', '.join(FUNCTIONS)}")
        if not found:
            raise ValueError(f"at least one is needed of {', '.join(FUNCTIONS)}")
        return found


@node("edge.gateway.rules.AggregateNode", "aggregate", AggregateConfig)
def aggregate(config: AggregateConfig, env: NodeEnv) -> Run:
    """Numbers of each originator and key over a window by the clock; each message goes on by `Raw` as it came."""
    if "{key}" not in config.result_key or ("{function}" not in config.result_key and len(config.functions) > 1):
        raise RejectedError("resultKey needs {key}, and with several functions {function}")
    zone = None
    if config.time_zone and config.time_zone != "UTC":
        try:
            zone = ZoneInfo(config.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise RejectedError(
                f"timeZone: {config.time_zone!r} is not known here; names are like Europe/Berlin"
            ) from None
    return _Aggregate(config, env, Spans(round(config.window_seconds * 1000), zone)).take


class _Aggregate:
    def __init__(self, config: AggregateConfig, env: NodeEnv, spans: Spans) -> None:
        self._config, self._env, self._spans = config, env, spans
        self._keep_open_ms = round(config.keep_open_seconds * 1000)
        self._count = env.shared.counters.add
        self._exact = frozenset(key for key in config.keys if "*" not in key and "?" not in key)
        self._patterns = [key for key in config.keys if key not in self._exact]
        self._wanted = Recent(10_000)
        self._windows: dict[EntityId, list[Window]] = {}
        self._due: list[tuple[int, int, Window]] = []
        self._order = itertools.count()
        self._series = 0  # those of hasty windows included
        self._hasty: deque[Window] = deque()
        self._hasty_series = 0
        self._timer = env.timer(self._fire)
        for window in restored(env.kept.items):
            self._series += len(window.series)
            self._windows.setdefault(window.originator, []).append(window)
            self._schedule(window)
        heads = [int(name) for name in env.kept.items if "." not in name]
        self._names = itertools.count(1 + max(heads, default=0))
        self._arm()

    def take(self, msg: Message, out: Outcome) -> Answer:
        """Folded, and on by `Raw`; `Failure` for what is no telemetry, or has a time before 1970 or after 9999."""
        if msg.type != "POST_TELEMETRY_REQUEST":
            raise RejectedError(f"messages of type {msg.type!r} are no telemetry")
        data, ts_ms = msg.data, msg.data_ts_ms
        sets: Sequence[tuple[int, dict[str, Json]]]
        sets = ((ts_ms, data),) if type(data) is dict and data and "values" not in data else value_sets(data, ts_ms)
        for at_ms, _ in sets:
            if not 0 <= at_ms <= LATEST_MS:
                raise RejectedError(f"its time {at_ms} is none of the years 1970 to 9999, in milliseconds")
        changed: dict[Window, set[int]] = {}
        for at_ms, values in sets:
            self._fold(msg, at_ms, values, changed)
        for window, rows in changed.items():
            window.write(self._env.kept, rows, out)
        return RAW

    def _fold(self, msg: Message, at_ms: int, values: dict[str, Json], changed: dict[Window, set[int]]) -> None:
        window = None
        for open_window in self._windows.get(msg.originator, ()):
            if open_window.begin_ms <= at_ms < open_window.end_ms:
                window = open_window
                break
        takes_all = not self._config.keys
        for key, value in values.items():
            series = None if window is None else window.series.get(key)
            if series is None and not (takes_all or self._wants(key)):
                continue
            kind = type(value)
            if (kind is not float and kind is not int) or not -MOST < value < MOST:
                self._count("rules.aggregate_not_numbers")
                continue
            if window is None:
                window = self._open(msg, at_ms)
                if window is None:
                    return
            if series is None:
                if not self._has_room(window):
                    continue
                series = window.add(key)
                self._series += 1
                self._hasty_series += window.is_hasty
            series.add(at_ms, value)
            rows = changed.get(window)
            if rows is None:
                rows = changed[window] = set()
            rows.add(series.row)

    def _wants(self, key: str) -> bool:
        if key in self._exact:
            return True
        if not self._patterns:
            return False
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = any(fnmatchcase(key, pattern) for pattern in self._patterns)
            self._wanted.put(key, wanted)
        return bool(wanted)

    def _open(self, msg: Message, at_ms: int) -> Window | None:
        """None: it is too late for its window, or there is no room; both are counted."""
        now_ms = self._env.clock.now_ms()
        begin_ms, end_ms = self._spans.of(at_ms)
        due_ms = end_ms + self._keep_open_ms
        is_late = now_ms >= due_ms
        if is_late:
            self._count("rules.aggregate_late")
            if self._config.late == "DROP":
                return None
            # Who sends what is old sends more of it: a device whose clock is behind fills this window as it goes.
            due_ms = now_ms + self._spans.size_ms + self._keep_open_ms
        windows = self._windows.get(msg.originator, [])
        if self._series >= 2 * self._config.max_open_windows or len(windows) >= 2 * MAX_WINDOWS:
            self._count("rules.aggregate_no_room")
            return None
        if len(windows) >= MAX_WINDOWS:
            patient = [window for window in windows if not window.is_hasty]
            if len(patient) >= MAX_WINDOWS:
                self._hasten(min(patient, key=lambda window: window.due_ms))
        metadata = {key: text for key, text in msg.metadata.items() if key not in _NOT_KEPT}
        if sum(map(len, (*metadata, *metadata.values()))) > _METADATA_CHARS:
            metadata = {key: metadata[key][:255] for key in ("deviceName", "deviceType") if key in metadata}
        head: dict[str, Any] = {
            "of": [msg.originator.type, str(msg.originator.id)],
            "span": [begin_ms, end_ms],
            "due": due_ms,
            "late": is_late,
            "functions": list(self._config.functions),
            "metadata": metadata,
        }
        window = Window(str(next(self._names)), head)
        self._windows.setdefault(msg.originator, []).append(window)
        self._schedule(window)
        self._arm()
        return window

    def _has_room(self, window: Window) -> bool:
        limit = self._config.max_open_windows
        if self._series - self._hasty_series >= limit and not window.is_hasty:
            while self._due and not self._is_current(self._due[0]):
                heapq.heappop(self._due)
            if self._due and self._due[0][2] is not window:
                self._hasten(self._due[0][2])
            else:
                self._count("rules.aggregate_no_room")
                return False
        if self._series >= 2 * limit:
            self._count("rules.aggregate_no_room")
            return False
        return True

    def _hasten(self, window: Window) -> None:
        """It ends now, with what it has."""
        self._count("rules.aggregate_ended_early")
        window.is_hasty = True
        self._hasty.append(window)
        self._hasty_series += len(window.series)
        self._arm()

    def _forget(self, window: Window, out: Outcome) -> None:
        window.drop(self._env.kept, out)
        self._series -= len(window.series)
        if window.is_hasty:
            self._hasty_series -= len(window.series)
        window.is_open = False
        windows = self._windows[window.originator]
        windows.remove(window)
        if not windows:
            del self._windows[window.originator]

    # ── the end of a window ──

    def _schedule(self, window: Window) -> None:
        heapq.heappush(self._due, (window.due_ms, next(self._order), window))

    @staticmethod
    def _is_current(entry: tuple[int, int, Window]) -> bool:
        return entry[2].is_open and not entry[2].is_hasty

    def _arm(self) -> None:
        if self._due or self._hasty:
            wait_ms = 0 if self._hasty else self._due[0][0] - self._env.clock.now_ms()
            due_s = self._env.clock.monotonic_s() + min(max(0.0, wait_ms / 1000), LOOK_AGAIN_S) + 0.001
            if due_s < self._timer.due_s:
                self._timer.arm(due_s)

    def _fire(self, out: Outcome) -> Routed | None:
        now_ms = self._env.clock.now_ms()
        results: list[Message] = []
        for _ in range(AT_ONCE):
            window = self._next_ended(now_ms)
            if window is None:
                break
            if window.series:
                results.append(self._result(window))
            self._forget(window, out)
        self._arm()
        return Routed((SUCCESS,), results) if results else None

    def _next_ended(self, now_ms: int) -> Window | None:
        if self._hasty:
            return self._hasty.popleft()
        while self._due and (self._due[0][0] <= now_ms or not self._is_current(self._due[0])):
            entry = heapq.heappop(self._due)
            if self._is_current(entry):
                return entry[2]
        return None

    def _result(self, window: Window) -> Message:
        form = self._config.result_key
        values: dict[str, Json] = {}
        for series in window.series.values():
            for function, value in series.results(window.functions).items():
                if math.isfinite(value):
                    values[form.replace("{key}", series.key).replace("{function}", function)] = value
        ts_ms = window.begin_ms if self._config.result_time == "START" else window.end_ms
        metadata = {
            **window.metadata,
            "ts": str(ts_ms),
            "windowStart": str(window.begin_ms),
            "windowEnd": str(window.end_ms),
        }
        if window.is_late:
            metadata["isLate"] = "true"
        return Message(
            type="POST_TELEMETRY_REQUEST", originator=window.originator, data=values, metadata=metadata, ts_ms=ts_ms
        )
