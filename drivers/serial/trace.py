"""What passes on a line, for a person who looks on. Costs nothing while nobody does."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.domain.entity import Json
from gateway.ports import Clock

MAX_ROWS: Final = 500
"""The oldest goes when there are more; its number is then missing."""

WATCHED_S: Final = 10.0
"""Whoever looks on asks again before so long, or is gone."""

_TOGETHER_S: Final = 0.05
_MAX_BYTES: Final = 64
_MAX_TEXT: Final = 500


class Trace:
    """Rows with a number: `sent` and `came` (bytes), `read` (values), `unknown` and `bad` (why)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: deque[dict[str, Json]] = deque(maxlen=MAX_ROWS)
        self._number = 0
        self._watched_until_s = 0.0
        self._came = bytearray()
        self._came_ms = 0
        self._last_s = 0.0

    @property
    def is_on(self) -> bool:
        """Somebody looks on."""
        return self._clock.monotonic_s() < self._watched_until_s

    def rows(self, after: int) -> Sequence[Mapping[str, Json]]:
        """Those with a higher number; from the first call on there are some."""
        if not self.is_on:
            self._rows.clear()
            self._came.clear()
        now_s = self._clock.monotonic_s()
        self._watched_until_s = now_s + WATCHED_S
        if now_s - self._last_s >= _TOGETHER_S:
            self._end_bytes()
        return [row for row in self._rows if int(str(row["n"])) > after]

    def came(self, data: bytes) -> None:
        """Bytes without a pause between them are one row."""
        now_s = self._clock.monotonic_s()
        if now_s - self._last_s >= _TOGETHER_S:
            self._end_bytes()
        self._last_s = now_s
        for start in range(0, len(data), _MAX_BYTES):
            if not self._came:
                self._came_ms = self._clock.now_ms()
            self._came += data[start : start + _MAX_BYTES]
            if len(self._came) >= _MAX_BYTES:
                self._end_bytes()

    def sent(self, data: bytes) -> None:
        """By us."""
        self._end_bytes()
        self._add("sent", self._clock.now_ms(), data.hex(), "")

    def said(self, what: str, text: str) -> None:
        """What became of the bytes."""
        self._end_bytes()
        self._add(what, self._clock.now_ms(), "", text[:_MAX_TEXT])

    def _end_bytes(self) -> None:
        if self._came:
            self._add("came", self._came_ms, self._came.hex(), "")
            self._came.clear()

    def _add(self, what: str, ts_ms: int, data: str, text: str) -> None:
        self._number += 1
        self._rows.append({"n": self._number, "ts_ms": ts_ms, "what": what, "data": data, "text": text})
