"""Calls that wait for one bus: few, each with a deadline."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import RejectedError, TransientError
from gateway.fieldbus.channel import CallExpired
from gateway.ports import Clock, Query, RawRequest, Write, WriteTogether

Command = Write | WriteTogether | Query | RawRequest

MAX_CALLS: Final = 100
"""Calls that may wait for one bus; more are refused at once, with a text that says so."""

CALL_S: Final = 30.0
"""The deadline of a call that came without one (a shared attribute): later nobody expects it to act."""


@dataclass(slots=True)
class Call:
    """One command. `deadline_s`: monotonic, so that a clock that is set neither kills nor revives it."""

    command: Command
    deadline_s: float
    future: asyncio.Future[Any]


class Inbox:
    """First in, first out. A call is answered when its deadline has passed, also while the bus is busy; it is then
    never handed out.
    """

    def __init__(self, bus: str, clock: Clock, wake: Callable[[], None]) -> None:
        self._bus, self._clock, self._wake = bus, clock, wake
        self._calls: deque[Call] = deque()
        self._watch: asyncio.Task[None] | None = None
        self._watch_until_s = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, command: Command, deadline_s: float | None) -> asyncio.Future[Any]:
        """Done with the value, or with the answer's PDU.

        Raises:
            RejectedError: Too many wait already.
        """
        if len(self._calls) >= MAX_CALLS:
            raise RejectedError(f"{self._bus}: the bus is busy, {MAX_CALLS} calls wait already")
        if deadline_s is None:
            deadline_s = self._clock.monotonic_s() + CALL_S
        call = Call(command, deadline_s, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        if deadline_s < self._watch_until_s:
            self._stop_watching()
            self._watch_until_s = deadline_s
            self._watch = asyncio.create_task(self._watching(), name=f"bus {self._bus}: deadlines")
        self._wake()
        return call.future

    def take(self, may_go: Callable[[Call], bool] | None = None) -> Call | None:
        """The next call that still has time and somebody who waits for it; `may_go` is asked in the order of arrival,
        and those that it holds back keep their place.
        """
        kept: list[Call] = []
        taken = None
        while self._calls and taken is None:
            call = self._calls.popleft()
            if not self.is_in_time(call):
                continue
            if may_go is None or may_go(call):
                taken = call
            else:
                kept.append(call)
        self._calls.extendleft(reversed(kept))
        return taken

    def is_in_time(self, call: Call) -> bool:
        """Somebody waits for it, and still has time; else it has been answered."""
        if not call.future.done() and self._clock.monotonic_s() >= call.deadline_s:
            self._expire(call)
        return not call.future.done()

    def close(self) -> None:
        """Nobody is left waiting."""
        self._stop_watching()
        while self._calls:
            call = self._calls.popleft()
            if not call.future.done():
                call.future.set_exception(TransientError(f"{self._bus}: the bus was closed"))

    def _expire(self, call: Call) -> None:
        call.future.set_exception(CallExpired(f"{self._bus}: the deadline passed before the bus was free"))

    async def _watching(self) -> None:
        while self._calls:
            now_s = self._clock.monotonic_s()
            for call in self._calls:
                if now_s >= call.deadline_s and not call.future.done():
                    self._expire(call)
            self._calls = deque(call for call in self._calls if not call.future.done())
            if self._calls:
                self._watch_until_s = min(call.deadline_s for call in self._calls)
                await self._clock.sleep(max(0.0, self._watch_until_s - now_s))
        self._watch, self._watch_until_s = None, math.inf

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch, self._watch_until_s = None, math.inf
