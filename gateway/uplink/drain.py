"""Drains `cloud_event` to the cloud: read ahead → batch → send → answers → cursor. One loop per lane.

A refused event is tried again after `retry_interval_ms`, `max_retries` times, then parked. Neither a lost
link nor a rate limit counts as a try, and the clock of the retries stands still while the link is down.
An event that is larger than the cloud takes is cut between its keys, and confirmed when all parts are. What
cannot be encoded, and a single value that is too large, is parked at once: it would be refused for ever.

`live_first`: see `live`. Of three messages one belongs to the backlog while both streams have something to send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gateway.config import CloudConfig
from gateway.domain.changes import Change, MoveCursor, ParkEvent
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.errors import GatewayError, LinkLost, RejectedError
from gateway.ports import Clock, CloudEvents, CloudLink, Committer, Receipt, StateReader, UplinkAnswer
from gateway.supervise import Counters
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import MAX_SHARED_BYTES, Batch, cut, is_creation, join, keys_of, only_key, order_key
from gateway.uplink.live import Live

log = logging.getLogger(__name__)

_RATE_LIMIT_TEXT: Final = "Rate limit reached"  # ThingsBoard's own words
_RATE_LIMIT_S: Final = 60.0
_PAGE: Final = 1000
_EXPRESS_WINDOW: Final = 8
_REASON_CHARS: Final = 500  # the cloud appends a stack trace
_LONG_BACKLOG: Final = 1000  # shorter ones are not worth two readers
_BACKLOG_TURN: Final = 3  # so many messages, one of them the backlog's


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
        main = max(2 * _PAGE, 2 * config.window * config.batch_size)
        self._lanes = [
            LaneDrain(Lane.MAIN, config.window, main, config, events, link, committer, clock, counters, state),
            LaneDrain(Lane.EXPRESS, _EXPRESS_WINDOW, 256, config, events, link, committer, clock, counters, state),
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
        state: StateReader | None = None,
    ) -> None:
        self.lane = lane
        self._window, self._capacity, self._config = window, capacity, config
        self._events, self._link, self._committer = events, link, committer
        self._clock, self._counters, self._state = clock, counters, state
        self._is_live_first = config.drain == "live_first" and lane is Lane.MAIN
        self._backlog = Backlog(0, capacity=capacity)
        self._reset()

    def _reset(self) -> None:
        self._backlog = Backlog(self._events.cursor(self.lane), capacity=self._capacity)
        self._moved = self._backlog.cursor
        self._moving: Receipt | None = None
        self._in_flight: set[asyncio.Future[UplinkAnswer]] = set()
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._is_lost = False
        self._lost_s: float | None = None
        self._session = 0
        self._bug: BaseException | None = None
        self._paused_until_s = 0.0
        self._parked_parts: dict[int, tuple[StoredEvent, str]] = {}
        self._live: Live | None = None
        self._creating: dict[Hashable, int] = {}  # entities that the cloud does not know yet: the event that tells it
        self._seen = self._backlog.cursor  # up to here `_creating` is complete
        self._ahead = asyncio.Event()
        self._turn = 0

    def status(self) -> dict[str, Any]:
        """For the page and the command line."""
        live = self._live
        return {
            "cursor": self._backlog.cursor,
            "read": self._backlog.read,
            "in_flight": len(self._in_flight),
            "is_paused": self._clock.monotonic_s() < self._paused_until_s,
            "live_read": live.read if live is not None else None,
        }

    async def serve(self) -> None:
        """Read ahead and send, until cancelled."""
        self._reset()
        if self._link.is_ready:
            self._begin_live()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(), name=f"uplink.{self.lane.name.lower()}.read")
                tasks.create_task(self._send(), name=f"uplink.{self.lane.name.lower()}.send")
                tasks.create_task(self._watch_link(), name=f"uplink.{self.lane.name.lower()}.link")
                if self._is_live_first:
                    tasks.create_task(self._look_ahead(), name=f"uplink.{self.lane.name.lower()}.ahead")
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
            live = self._live
            if live is not None and live.is_open:
                last = min(last, live.read)
                page = [event for event in page if event.seq_id <= last]
            if page:
                self._take_in(page)
                self._wake.set()
            else:
                backlog.read = max(backlog.read, last)  # dropped by the store's limit meanwhile
            if live is not None and live.is_open and backlog.read >= live.read:
                self._close_live(live)

    def _take_in(self, page: Sequence[StoredEvent]) -> None:
        backlog, live = self._backlog, self._live
        if self._is_live_first:
            self._note_creations(page)
        if live is None:
            backlog.add(page)
            return
        for event in page:
            if live.has(event.seq_id):
                backlog.skip(event.seq_id, is_done=live.is_done(event.seq_id))
            else:
                backlog.add((event,))

    # ── live_first ───────────────────────────────────────────────────────────────────────────

    def _begin_live(self) -> None:
        """The link is ready: with a long backlog what comes from now on goes ahead of it."""
        last, live = self._events.last(self.lane), self._live
        if not self._is_live_first or last <= self._backlog.read or last - self._backlog.cursor <= _LONG_BACKLOG:
            return
        if live is None:
            self._live = Live(last, capacity=self._capacity)
        elif not live.is_open or last - live.read > _LONG_BACKLOG:
            self._backlog.unblock()
            live.restart(last)
        self._counters.add("uplink.overtakings")
        self._ahead.set()

    def _close_live(self, live: Live) -> None:
        """The backlog is gone. Who still has something on its way there waits for it, others go on here."""
        live.is_open = False
        if live.backlog.is_idle:
            self._live = None
        else:
            self._backlog.block(live.backlog.keys())

    async def _look_ahead(self) -> None:
        """Look for creations while the link is down, so that it is known who may go ahead; then read ahead."""
        while True:
            live = self._live if self._live is not None and self._live.is_open else None
            if not self._link.is_ready or (live is not None and self._seen < live.read):
                await self._scout()
            elif live is not None and live.room > 0:
                await self._read_live(live)
            else:
                await self._wait_ahead()

    async def _wait_ahead(self) -> None:
        self._ahead.clear()
        await self._ahead.wait()

    async def _scout(self) -> None:
        self._seen = max(self._seen, self._backlog.read)
        await self._events.wait_beyond(self.lane, self._seen)
        last = self._events.last(self.lane)
        page = await self._events.peek(self.lane, self._seen, _PAGE)
        self._note_creations([event for event in page if event.seq_id > self._backlog.read])
        self._seen = page[-1].seq_id if page else last

    async def _read_live(self, live: Live) -> None:
        start = live.read
        await self._events.wait_beyond(self.lane, start)
        last = self._events.last(self.lane)
        page = await self._events.peek(self.lane, start, max(1, min(_PAGE, live.room)))
        if self._live is not live or not live.is_open or live.read != start or not self._link.is_ready:
            return
        self._note_creations(page)
        live.take(page, self._creating)
        if not page:
            live.read = last
        self._seen = live.read
        self._room.set()
        self._wake.set()

    def _note_creations(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            if is_creation(event):
                self._creating[order_key(event)] = event.seq_id

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
            if self._live is not None and self._live.room > 0:
                self._ahead.set()
            if self._is_lost:
                continue
            await self._sleep(delay_s)

    async def _reconnected(self) -> None:
        """Wait for the link; what was on its way has come back to its place."""
        self._lose()
        while self._in_flight:  # their futures are failing now
            self._wake.clear()
            await self._wake.wait()
        self._session = await self._link.wait_ready()
        now_s = self._clock.monotonic_s()
        for stream in self._streams():
            stream.shift(now_s - (now_s if self._lost_s is None else self._lost_s))
        self._is_lost, self._lost_s = False, None
        self._begin_live()

    def _lose(self) -> None:
        """From this moment the clock of the retries stands still."""
        self._is_lost = True
        if self._lost_s is None:
            self._lost_s = self._clock.monotonic_s()
        self._wake.set()
        self._ahead.set()

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
            with suppress(asyncio.CancelledError):
                await timer

    def _streams(self) -> tuple[Backlog, ...]:
        """Who may send, in the order of this turn."""
        if self._live is None:
            return (self._backlog,)
        if self._turn % _BACKLOG_TURN == 0:
            return (self._backlog, self._live.backlog)
        return (self._live.backlog, self._backlog)

    def _fill_window(self) -> float | None:
        """Send what may be sent; seconds until there may be more without an answer or a new event."""
        now_s = self._clock.monotonic_s()
        if now_s < self._paused_until_s:
            return self._paused_until_s - now_s
        delays: list[float] = []
        while len(self._in_flight) < self._window and not self._is_lost:
            for stream in self._streams():
                batch = self._take(stream, now_s, delays)
                if batch is not None:
                    self._turn += 1
                    self._give(stream, batch)
                    break
            else:
                break
        if len(self._in_flight) < self._window:
            due = [stream.next_due_s for stream in self._streams()]
            delays += [max(0.0, due_s - now_s) for due_s in due if due_s is not None]
        return min(delays, default=None)

    def _take(self, stream: Backlog, now_s: float, delays: list[float]) -> Batch | None:
        batch = stream.take_alone(now_s)
        if batch is not None:
            return batch
        wait_s = self._wait_for_company_s(stream, now_s)
        if wait_s > 0:
            delays.append(wait_s)
            return None
        max_bytes = min(self._link.max_message_bytes, MAX_SHARED_BYTES)
        batch = stream.take_shared(self._config.batch_size, self._window - len(self._in_flight), max_bytes)
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
            self._rejected(stream, batch, str(error))
        elif error is not None:
            self._bug = error  # the sending task raises it: a callback cannot
        else:
            self._judged(stream, batch, future.result())

    def _judged(self, stream: Backlog, batch: Batch, answer: UplinkAnswer) -> None:
        if answer.is_success:
            self._counters.add("uplink.acked", self._confirmed(stream, batch))
        elif _RATE_LIMIT_TEXT in answer.error:
            self._counters.add("uplink.rate_limited")
            self._counters.add("uplink.resent", len(batch))
            self._paused_until_s = self._clock.monotonic_s() + _RATE_LIMIT_S
            stream.postponed(batch)
        elif len(batch) > 1:
            self._counters.add("uplink.resent", len(batch))
            stream.divide(batch)
        else:
            self._counters.add("uplink.failed")
            if stream.tries(batch[0]) + 1 >= self._config.max_retries:
                self._park(stream, batch[0], answer.error, self._config.max_retries)
            else:
                self._counters.add("uplink.resent")
                due_s = self._clock.monotonic_s() + self._config.retry_interval_ms / 1000
                stream.refused(batch[0], due_s)

    def _confirmed(self, stream: Backlog, batch: Batch) -> int:
        """The cloud has it, or it is parked; how many events are done by it."""
        done, live = stream.confirmed(batch), self._live
        for event in done if self._parked_parts else ():
            self._parked_parts.pop(event.seq_id, None)
        if live is not None and stream is live.backlog:
            for seq_id in live.done(done, self._backlog.read):
                self._backlog.settle(seq_id)
            if not live.is_open:
                self._backlog.unblock(keys_of(batch) - stream.keys())
                if stream.is_idle:
                    self._live = None
        elif self._creating:
            for event in done:
                if is_creation(event) and self._creating.get(order_key(event)) == event.seq_id:
                    del self._creating[order_key(event)]
        return len(done)

    def _rejected(self, stream: Backlog, batch: Batch, reason: str) -> None:
        """The link cannot make a message of it; whose fault it is shows when each event is alone."""
        if len(batch) > 1:
            stream.divide(batch)
            return
        event, limit = batch[0], self._link.max_message_bytes
        size = self._size_bytes(event)
        if size > limit:
            parts = cut(event, min(limit, MAX_SHARED_BYTES))
            if parts:
                self._counters.add("uplink.cut")
                stream.replace(event, parts)
                return
            key = only_key(event)
            what = f"{event.action} has" if key is None else f"the value of {key!r} alone makes a message of"
            reason = f"{self._name(event)}: {what} {size} bytes, the cloud takes {limit}"
        self._park(stream, event, reason, stream.tries(event) + 1)

    def _size_bytes(self, event: StoredEvent) -> int:
        try:
            return self._link.size_bytes([event])
        except RejectedError:
            return 0

    def _name(self, event: StoredEvent) -> str:
        device = None
        if self._state is not None and event.type == "DEVICE" and event.entity_id is not None:
            device = self._state.device(event.entity_id)
        return f"{event.type} {event.entity_id}" if device is None else f"{event.type} {device.name!r}"

    def _park(self, stream: Backlog, event: StoredEvent, reason: str, tries: int) -> None:
        log.warning(
            "event %d (%s %s) is parked after %d tries: %s",
            event.seq_id,
            event.type,
            event.action,
            tries,
            reason.partition("\n")[0][:_REASON_CHARS],
        )
        self._counters.add("uplink.parked")
        copy, text = event, reason[:_REASON_CHARS]
        if stream.is_part(event):  # all parts of one event that are parked make one copy
            earlier = self._parked_parts.get(event.seq_id)
            if earlier is not None:
                copy, text = join(earlier[0], event), f"{earlier[1]}; {text}"[: 2 * _REASON_CHARS]
            self._parked_parts[event.seq_id] = copy, text
        self._submit([ParkEvent(copy, text, tries, self._clock.now_ms())])  # before any cursor beyond it
        self._confirmed(stream, [event])

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
