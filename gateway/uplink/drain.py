"""Drains `cloud_event` to the cloud: read ahead → batch → send → answers → cursor. One loop per lane.

A refused event is tried again after `retry_interval_ms`, `max_retries` times, then parked. Neither a lost
link nor a rate limit counts as a try, and the clock of the retries stands still while the link is down.
An event that cannot be encoded, or that alone is larger than the cloud takes, is parked at once: it would
be refused for ever (a telemetry event is not cut into several).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gateway.config import CloudConfig
from gateway.domain.changes import Change, MoveCursor, ParkEvent
from gateway.domain.cloud_event import Lane
from gateway.errors import GatewayError, LinkLost, RejectedError
from gateway.ports import Clock, CloudEvents, CloudLink, Committer, Receipt, UplinkAnswer
from gateway.supervise import Counters
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import MAX_SHARED_BYTES, Batch

log = logging.getLogger(__name__)

_RATE_LIMIT_TEXT: Final = "Rate limit reached"  # ThingsBoard's own words
_RATE_LIMIT_S: Final = 60.0
_PAGE: Final = 1000
_EXPRESS_WINDOW: Final = 8
_REASON_CHARS: Final = 500  # the cloud appends a stack trace


class Uplink:
    """The sender."""

    name = "uplink"

    def __init__(
        self,
        config: CloudConfig,
        events: CloudEvents,
        link: CloudLink,
        committer: Committer,
        clock: Clock,
        counters: Counters,
    ) -> None:
        main = max(2 * _PAGE, 2 * config.window * config.batch_size)
        self._lanes = [
            LaneDrain(Lane.MAIN, config.window, main, config, events, link, committer, clock, counters),
            LaneDrain(Lane.EXPRESS, _EXPRESS_WINDOW, 256, config, events, link, committer, clock, counters),
        ]

    async def serve(self) -> None:
        """Until cancelled.

        Raises:
            TransientError: The store cannot be read now.
        """
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.serve(), name=f"uplink.{lane.lane.name.lower()}")

    def status(self) -> dict[str, Any]:
        """Per lane: what is on its way, what is held, where the cursor stands."""
        return {lane.lane.name.lower(): lane.status() for lane in self._lanes}


class LaneDrain:
    """One lane. All of its state belongs to one event loop; callbacks and both tasks run on it."""

    def __init__(
        self,
        lane: Lane,
        window: int,
        capacity: int,
        config: CloudConfig,
        events: CloudEvents,
        link: CloudLink,
        committer: Committer,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self.lane = lane
        self._window, self._capacity, self._config = window, capacity, config
        self._events, self._link, self._committer = events, link, committer
        self._clock, self._counters = clock, counters
        self._backlog = Backlog(0, capacity=capacity)
        self._reset()

    def _reset(self) -> None:
        self._backlog = Backlog(self._events.cursor(self.lane), capacity=self._capacity)
        self._moved = self._backlog.cursor
        self._moving: Receipt | None = None
        self._in_flight: set[asyncio.Future[UplinkAnswer]] = set()
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._is_lost = False
        self._bug: BaseException | None = None
        self._paused_until_s = 0.0
        self._partial_since_s: float | None = None

    def status(self) -> dict[str, Any]:
        """For the page and the command line."""
        return {
            "cursor": self._backlog.cursor,
            "read": self._backlog.read,
            "in_flight": len(self._in_flight),
            "is_paused": self._clock.monotonic_s() < self._paused_until_s,
        }

    async def serve(self) -> None:
        """Read ahead and send, until cancelled."""
        self._reset()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(), name=f"uplink.{self.lane.name.lower()}.read")
                tasks.create_task(self._send(), name=f"uplink.{self.lane.name.lower()}.send")
        finally:
            self._in_flight = set()  # answers still to come belong to nobody

    # ── reading ahead ────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        while True:
            backlog = self._backlog
            while backlog.room <= 0:
                self._room.clear()
                await self._room.wait()
            await self._events.wait_beyond(self.lane, backlog.read)
            last = self._events.last(self.lane)
            page = await self._events.peek(self.lane, backlog.read, min(_PAGE, backlog.room))
            if page:
                backlog.add(page)
                self._wake.set()
            else:
                backlog.read = last  # dropped by the store's limit meanwhile

    # ── sending ──────────────────────────────────────────────────────────────────────────────

    async def _send(self) -> None:
        while True:
            if self._bug is not None:
                raise self._bug
            if self._is_lost or not self._link.is_ready:
                await self._reconnected()
            self._wake.clear()
            delay_s = self._fill_window()
            self._move_cursor()
            if self._backlog.room > 0:
                self._room.set()
            if self._is_lost:
                continue
            await self._sleep(delay_s)

    async def _reconnected(self) -> None:
        """Wait for the link; what was on its way has come back to its place."""
        down_s = self._clock.monotonic_s()
        while self._in_flight:  # their futures are failing now
            self._wake.clear()
            await self._wake.wait()
        await self._link.wait_ready()
        self._is_lost = False
        self._backlog.shift(self._clock.monotonic_s() - down_s)

    async def _sleep(self, delay_s: float | None) -> None:
        if delay_s is None:
            await self._wake.wait()
            return
        timer = asyncio.ensure_future(self._clock.sleep(delay_s))
        timer.add_done_callback(lambda _: self._wake.set())
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            with suppress(asyncio.CancelledError):
                await timer

    def _fill_window(self) -> float | None:
        """Send what may be sent; seconds until there may be more without an answer or a new event."""
        backlog, config = self._backlog, self._config
        now_s = self._clock.monotonic_s()
        if now_s < self._paused_until_s:
            return self._paused_until_s - now_s
        delays = []
        while len(self._in_flight) < self._window and not self._is_lost:
            batch = backlog.take_alone(now_s)
            if batch is None:
                wait_s = self._wait_for_company_s(now_s)
                if wait_s > 0:
                    delays.append(wait_s)
                    break
                max_bytes = min(self._link.max_message_bytes, MAX_SHARED_BYTES)
                batch = backlog.take_shared(config.batch_size, self._window - len(self._in_flight), max_bytes)
                if batch is None:
                    break
                self._partial_since_s = None
            self._give(batch)
        due_s = backlog.next_due_s
        if due_s is not None and len(self._in_flight) < self._window:
            delays.append(max(0.0, due_s - now_s))
        return min(delays, default=None)

    def _wait_for_company_s(self, now_s: float) -> float:
        """An idle link sends at once; a busy one lets a small batch grow for a while."""
        count = self._backlog.shared_count
        if not self._in_flight or count >= self._config.batch_size or not count:
            return 0.0
        if self._partial_since_s is None:
            self._partial_since_s = now_s
        return max(0.0, self._partial_since_s + self._config.batch_timeout_ms / 1000 - now_s)

    def _give(self, batch: Batch) -> None:
        try:
            future = self._link.send(batch)
        except LinkLost:
            self._is_lost = True
            self._backlog.returned(batch)
            return
        self._counters.add("uplink.sent", len(batch))
        self._in_flight.add(future)
        future.add_done_callback(partial(self._answered, batch))

    # ── answers ──────────────────────────────────────────────────────────────────────────────

    def _answered(self, batch: Batch, future: asyncio.Future[UplinkAnswer]) -> None:
        error = None if future.cancelled() else future.exception()
        if future not in self._in_flight:
            return  # of a drain that has ended
        self._in_flight.discard(future)
        self._wake.set()
        if future.cancelled() or isinstance(error, LinkLost):
            self._is_lost = True
            self._again(batch)
        elif isinstance(error, RejectedError):
            self._rejected(batch, str(error))
        elif error is not None:
            self._bug = error  # the sending task raises it: a callback cannot
        else:
            self._judged(batch, future.result())

    def _judged(self, batch: Batch, answer: UplinkAnswer) -> None:
        if answer.is_success:
            self._counters.add("uplink.acked", len(batch))
            self._backlog.confirmed(batch)
        elif _RATE_LIMIT_TEXT in answer.error:
            self._counters.add("uplink.rate_limited")
            self._paused_until_s = self._clock.monotonic_s() + _RATE_LIMIT_S
            self._again(batch)
        elif len(batch) > 1:
            self._counters.add("uplink.resent", len(batch))
            self._backlog.divide(batch)
        else:
            self._counters.add("uplink.failed")
            if self._backlog.tries(batch[0]) + 1 >= self._config.max_retries:
                self._park(batch, answer.error, self._config.max_retries)
            else:
                self._counters.add("uplink.resent")
                due_s = self._clock.monotonic_s() + self._config.retry_interval_ms / 1000
                self._backlog.refused(batch[0], due_s)

    def _again(self, batch: Batch) -> None:
        self._counters.add("uplink.resent", len(batch))
        self._backlog.returned(batch)

    def _rejected(self, batch: Batch, reason: str) -> None:
        """The link cannot make a message of it; whose fault it is shows when each event is alone."""
        if len(batch) > 1:
            self._backlog.divide(batch)
        else:
            self._park(batch, reason, self._backlog.tries(batch[0]) + 1)

    def _park(self, batch: Batch, reason: str, tries: int) -> None:
        event = batch[0]
        log.warning(
            "event %d (%s %s) is parked after %d tries: %s",
            event.seq_id,
            event.type,
            event.action,
            tries,
            reason.partition("\n")[0][:_REASON_CHARS],
        )
        self._counters.add("uplink.parked")
        parked = ParkEvent(event, reason[:_REASON_CHARS], tries, self._clock.now_ms())
        self._submit([parked])  # before any cursor beyond it: units are written in order
        self._backlog.confirmed(batch)

    # ── the cursor ───────────────────────────────────────────────────────────────────────────

    def _move_cursor(self) -> None:
        """Not awaited, and one at a time: the next one says everything that the ones between would."""
        if self._moving is not None or self._backlog.cursor <= self._moved:
            return
        self._moved = self._backlog.cursor
        self._moving = self._submit([MoveCursor(self.lane, self._moved)])
        self._moving.add_done_callback(self._cursor_moved)

    def _cursor_moved(self, receipt: Receipt) -> None:
        if receipt is self._moving:
            self._moving = None
            self._wake.set()

    def _submit(self, unit: Sequence[Change]) -> Receipt:
        receipt = self._committer.submit(unit)
        receipt.add_done_callback(self._written)
        return receipt

    def _written(self, receipt: Receipt) -> None:
        error = None if receipt.cancelled() else receipt.exception()
        if isinstance(error, GatewayError):
            log.error("the place in the queue could not be stored: %s", error)  # events come again after a restart
        elif error is not None:
            self._bug = error
            self._wake.set()
