"""Drains `cloud_event` to the cloud: read ahead → batch → send → answers → cursor. One loop per lane.

Here is who reads, what may be on its way at once, and what the loss of the link does: it is no try of an event,
and the clock of the retries stands still while the link is down. What an answer means: `answers`; the stored
place: `cursor`; `live_first`: `overtaking`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from gateway.config import CloudConfig
from gateway.domain.cloud_event import Lane
from gateway.errors import LinkLost, RejectedError
from gateway.ports import Clock, CloudEvents, CloudLink, Committer, StateReader, UplinkAnswer
from gateway.supervise import Counters
from gateway.uplink.answers import Answers
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import MAX_SHARED_BYTES, Batch
from gateway.uplink.calls import Calls
from gateway.uplink.cursor import Cursor
from gateway.uplink.overtaking import PAGE, Overtaking

_EXPRESS_WINDOW: Final = 8
_BURST: Final = 2  # messages made without a pause: a call has to wait for no more


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
        state: StateReader | None = None,
    ) -> None:
        """`state` gives the names of devices to the reasons of parked events."""
        main = max(2 * PAGE, 2 * config.window * config.batch_size)
        calls = Calls()
        self._lanes = [
            LaneDrain(Lane.MAIN, config.window, main, config, events, link, committer, clock, counters, calls, state),
            LaneDrain(
                Lane.EXPRESS, _EXPRESS_WINDOW, 256, config, events, link, committer, clock, counters, calls, state
            ),
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


class _MovedElsewhere(Exception):
    """What is held here does not wait any more."""


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
        calls: Calls,
        state: StateReader | None = None,
    ) -> None:
        self.lane = lane
        self._calls = calls
        self._window, self._capacity, self._config = window, capacity, config
        self._events, self._link, self._committer = events, link, committer
        self._clock, self._counters, self._state = clock, counters, state
        self._backlog = Backlog(0, capacity=capacity)
        self._reset()

    def _reset(self) -> None:
        self._backlog = Backlog(self._events.cursor(self.lane), capacity=self._capacity)
        self._in_flight: set[asyncio.Future[UplinkAnswer]] = set()
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._is_lost = False
        self._lost_s: float | None = None
        self._session = 0
        self._bug: BaseException | None = None
        self._overtaking = Overtaking(
            self.lane,
            self._backlog,
            self._events,
            self._link,
            self._counters,
            is_on=self._config.drain == "live_first" and self.lane is Lane.MAIN,
            capacity=self._capacity,
            arrived=self._arrived,
        )
        self._cursor = Cursor(
            self.lane, self._backlog.cursor, self._committer, moved=self._wake.set, failed=self._failed
        )
        self._answers = Answers(
            self._config, self._link, self._clock, self._counters, self._state, self._overtaking, self._cursor
        )

    def status(self) -> dict[str, Any]:
        """For the page and the command line."""
        live = self._overtaking.live
        return {
            "cursor": self._backlog.cursor,
            "read": self._backlog.read,
            "in_flight": len(self._in_flight),
            "is_paused": self._clock.monotonic_s() < self._answers.paused_until_s,
            "live_read": live.read if live is not None else None,
            "looked_through": self._overtaking.looked_through,
        }

    async def serve(self) -> None:
        """Read ahead and send, until cancelled; from the start when the stored cursor was moved by someone else."""
        while True:
            life = asyncio.ensure_future(self._serve())  # a task, so that its end is told from a stop for certain
            try:
                await asyncio.wait([life])
            finally:
                life.cancel()
                await asyncio.wait([life])
            try:
                life.result()
            except* _MovedElsewhere:
                pass

    async def _serve(self) -> None:
        self._reset()
        if self._link.is_ready:
            self._overtaking.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(), name=f"uplink.{self.lane.name.lower()}.read")
                tasks.create_task(self._send(), name=f"uplink.{self.lane.name.lower()}.send")
                tasks.create_task(self._watch_link(), name=f"uplink.{self.lane.name.lower()}.link")
                if self._overtaking.is_on:
                    tasks.create_task(self._overtaking.look_ahead(), name=f"uplink.{self.lane.name.lower()}.ahead")
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
            page = await self._events.peek(self.lane, backlog.read, min(PAGE, backlog.room))
            reach = self._overtaking.reach
            if reach is not None:
                last = min(last, reach)
                page = [event for event in page if event.seq_id <= last]
            if page:
                self._overtaking.take_in(page)
                self._wake.set()
            else:
                backlog.read = max(backlog.read, last)  # dropped by the store's limit meanwhile
            self._overtaking.reached()

    def _arrived(self) -> None:
        self._room.set()
        self._wake.set()

    # ── sending ──────────────────────────────────────────────────────────────────────────────

    async def _send(self) -> None:
        while True:
            if self._bug is not None:
                raise self._bug
            if self._is_lost or not self._link.is_ready:
                await self._reconnected()
            self._wake.clear()
            delay_s = self._fill_window()
            self._cursor.move(self._backlog.cursor)
            if self._backlog.room > 0:
                self._room.set()
            self._overtaking.look_if_room()
            if self._is_lost:
                continue
            if delay_s == 0:
                await asyncio.sleep(0)  # the others' turn
            else:
                await self._sleep(delay_s)

    async def _reconnected(self) -> None:
        """Wait for the link; what was on its way has come back to its place."""
        self._lose()
        while self._in_flight:  # their futures are failing now
            self._wake.clear()
            await self._wake.wait()
        self._session = await self._link.wait_ready()
        if self._events.cursor(self.lane) > self._backlog.cursor:
            raise _MovedElsewhere  # what was read ahead is parked by now, or dropped: it must not be sent
        now_s = self._clock.monotonic_s()
        for stream in self._overtaking.streams():
            stream.shift(now_s - (now_s if self._lost_s is None else self._lost_s))
        self._is_lost, self._lost_s = False, None
        self._overtaking.begin()

    def _lose(self) -> None:
        """From this moment the clock of the retries stands still."""
        self._is_lost = True
        if self._lost_s is None:
            self._lost_s = self._clock.monotonic_s()
        self._wake.set()
        self._overtaking.look()

    async def _watch_link(self) -> None:
        """Notice the end of a session also when nothing is on its way."""
        while True:
            session = await self._link.wait_ready()
            await self._link.wait_lost()
            if self._session in (0, session):
                self._lose()

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
            await asyncio.wait([timer])  # its cancellation, not ours, which may come in this very moment

    def _fill_window(self) -> float | None:
        """Send what may be sent; seconds until there may be more without an answer or a new event.

        0 after a burst: encoding a whole window takes longer than a call should wait for the loop.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._answers.paused_until_s:
            return self._answers.paused_until_s - now_s
        delays: list[float] = []
        burst = _BURST
        window = self._window if self.lane is Lane.EXPRESS else self._calls.window(self._window, now_s)
        while len(self._in_flight) < window and not self._is_lost:
            for stream in self._overtaking.streams():
                batch = self._take(stream, now_s, delays, window)
                if batch is not None:
                    self._overtaking.sent()
                    self._give(stream, batch)
                    burst -= 1
                    break
            else:
                break
            if not burst:
                return 0.0
        if len(self._in_flight) < window:
            due = [stream.next_due_s for stream in self._overtaking.streams()]
            delays += [max(0.0, due_s - now_s) for due_s in due if due_s is not None]
        return min(delays, default=None)

    def _take(self, stream: Backlog, now_s: float, delays: list[float], window: int) -> Batch | None:
        batch = stream.take_alone(now_s)
        if batch is not None:
            return batch
        wait_s = self._wait_for_company_s(stream, now_s)
        if wait_s > 0:
            delays.append(wait_s)
            return None
        max_bytes = min(self._link.max_message_bytes, MAX_SHARED_BYTES)
        batch = stream.take_shared(self._config.batch_size, window - len(self._in_flight), max_bytes)
        if batch is not None:
            stream.partial_since_s = None
        return batch

    def _wait_for_company_s(self, stream: Backlog, now_s: float) -> float:
        """An idle stream sends at once; a busy one lets a small batch grow for a while."""
        count = stream.shared_count
        if not stream.in_flight or count >= self._config.batch_size or not count:
            return 0.0
        if stream.partial_since_s is None:
            stream.partial_since_s = now_s
        return max(0.0, stream.partial_since_s + self._config.batch_timeout_ms / 1000 - now_s)

    def _give(self, stream: Backlog, batch: Batch) -> None:
        try:
            future = self._link.send(batch)
        except LinkLost:
            self._lose()
            stream.returned(batch)
            return
        if self.lane is Lane.EXPRESS:
            self._calls.answered(self._clock.monotonic_s())
        self._counters.add("uplink.sent", len(batch))
        self._in_flight.add(future)
        stream.in_flight += 1
        future.add_done_callback(partial(self._answered, stream, batch))

    # ── answers ──────────────────────────────────────────────────────────────────────────────

    def _answered(self, stream: Backlog, batch: Batch, future: asyncio.Future[UplinkAnswer]) -> None:
        error = None if future.cancelled() else future.exception()
        if future not in self._in_flight:
            return  # of a drain that has ended
        self._in_flight.discard(future)
        stream.in_flight -= 1
        self._wake.set()
        if future.cancelled() or isinstance(error, LinkLost):
            self._lose()
            self._counters.add("uplink.resent", len(batch))
            stream.returned(batch)
        elif isinstance(error, RejectedError):
            self._answers.rejected(stream, batch, str(error))
        elif error is not None:
            self._failed(error)
        else:
            self._answers.answered(stream, batch, future.result())

    def _failed(self, error: BaseException) -> None:
        """A bug: the sending task raises it, a callback cannot."""
        self._bug = error
        self._wake.set()
