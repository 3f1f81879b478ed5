"""`drain: live_first` as the sender sees it: the second reader, who may go ahead, and whose turn it is. See `live`.

Of three messages one belongs to the backlog while both streams have something to send. Without `live_first`, and
in the express lane, there is one stream and nothing here waits or remembers anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.ports import CloudEvents, CloudLink
from gateway.supervise import Counters
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import Batch, is_creation, keys_of, order_key
from gateway.uplink.live import Live

PAGE: Final = 1000
_LONG_BACKLOG: Final = 1000  # shorter ones are not worth two readers
_BACKLOG_TURN: Final = 3  # so many messages, one of them the backlog's


class Overtaking:
    """What goes ahead of one lane's backlog. Belongs to the event loop of its sender."""

    def __init__(
        self,
        lane: Lane,
        backlog: Backlog,
        events: CloudEvents,
        link: CloudLink,
        counters: Counters,
        *,
        is_on: bool,
        capacity: int,
        arrived: Callable[[], None],
    ) -> None:
        """`arrived`: there is something to send, or the first reader may go on."""
        self.is_on = is_on
        self._lane, self._backlog, self._events, self._link = lane, backlog, events, link
        self._counters, self._capacity, self._on_arrived = counters, capacity, arrived
        self._live: Live | None = None
        self._creating: dict[Hashable, int] = {}  # entities that the cloud does not know yet: the event that tells it
        self._seen = backlog.cursor  # up to here `_creating` is complete
        self._ahead = asyncio.Event()
        self._turn = 0

    @property
    def live(self) -> Live | None:
        """The stream that goes ahead; None while there is none."""
        return self._live

    @property
    def looked_through(self) -> int | None:
        """Up to this event it is known who may go ahead; None without `live_first`."""
        return max(self._seen, self._backlog.read) if self.is_on else None

    # ── whose turn it is ─────────────────────────────────────────────────────────────────────

    def streams(self) -> tuple[Backlog, ...]:
        """Who may send, in the order of this turn."""
        if self._live is None:
            return (self._backlog,)
        if self._turn % _BACKLOG_TURN == 0:
            return (self._backlog, self._live.backlog)
        return (self._live.backlog, self._backlog)

    def sent(self) -> None:
        """A turn was used."""
        self._turn += 1

    # ── beginning and end ────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """The link is ready: with a long backlog what comes from now on goes ahead of it."""
        last, live = self._events.last(self._lane), self._live
        if not self.is_on or last <= self._backlog.read or last - self._backlog.cursor <= _LONG_BACKLOG:
            return
        if live is None:
            self._live = Live(last, capacity=self._capacity)
        elif not live.is_open or last - live.read > _LONG_BACKLOG:
            self._backlog.unblock()
            live.restart(last)
        self._counters.add("uplink.overtakings")
        self._ahead.set()

    def _close(self, live: Live) -> None:
        """The backlog is gone. Who still has something on its way there waits for it, others go on here."""
        live.is_open = False
        if live.backlog.is_idle:
            self._live = None
        else:
            self._backlog.block(live.backlog.keys())

    # ── the first reader ─────────────────────────────────────────────────────────────────────

    @property
    def reach(self) -> int | None:
        """The first reader goes no further than the second one has come; None: as far as it likes."""
        live = self._live
        return live.read if live is not None and live.is_open else None

    def take_in(self, page: Sequence[StoredEvent]) -> None:
        """The first reader's next page, in order."""
        backlog, live = self._backlog, self._live
        if self.is_on:
            self._note_creations(page)
        if live is None:
            backlog.add(page)
            return
        for event in page:
            if live.has(event.seq_id):
                backlog.skip(event.seq_id, is_done=live.is_done(event.seq_id))
            else:
                backlog.add((event,))

    def reached(self) -> None:
        """The first reader has moved; when it is where the second one is, nothing more goes ahead."""
        live = self._live
        if live is not None and live.is_open and self._backlog.read >= live.read:
            self._close(live)

    # ── the second reader ────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """The link has changed."""
        self._ahead.set()

    def look_if_room(self) -> None:
        """Something has been sent or confirmed."""
        if self._live is not None and self._live.room > 0:
            self._ahead.set()

    async def look_ahead(self) -> None:
        """Until cancelled: look for creations while the link is down, so that it is known who may go ahead; then
        read ahead.
        """
        while True:
            live = self._live if self._live is not None and self._live.is_open else None
            if not self._link.is_ready or (live is not None and self._seen < live.read):
                await self._scout()
            elif live is not None and live.room > 0:
                await self._read(live)
            else:
                self._ahead.clear()
                await self._ahead.wait()

    async def _scout(self) -> None:
        self._seen = max(self._seen, self._backlog.read)
        await self._events.wait_beyond(self._lane, self._seen)
        last = self._events.last(self._lane)
        page = await self._events.peek_added(self._lane, self._seen, PAGE)
        self._note_creations([event for event in page if event.seq_id > self._backlog.read])
        self._seen = page[-1].seq_id if len(page) == PAGE else max(last, page[-1].seq_id if page else 0)

    async def _read(self, live: Live) -> None:
        start = live.read
        await self._events.wait_beyond(self._lane, start)
        last = self._events.last(self._lane)
        page = await self._events.peek(self._lane, start, max(1, min(PAGE, live.room)))
        if self._live is not live or not live.is_open or live.read != start or not self._link.is_ready:
            return
        self._note_creations(page)
        live.take(page, self._creating)
        if not page:
            live.read = last
        self._seen = live.read
        self._on_arrived()

    def _note_creations(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            if is_creation(event):
                self._creating[order_key(event)] = event.seq_id

    # ── answers ──────────────────────────────────────────────────────────────────────────────

    def confirmed(self, stream: Backlog, batch: Batch, done: Batch) -> None:
        """A message of this stream is answered, and `done` of it are confirmed or parked."""
        live = self._live
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
