"""A queue in a list, and an uplink around it."""

import asyncio
import contextlib
from uuid import UUID

from gateway.config import CloudConfig
from gateway.domain.changes import MoveCursor, ParkEvent
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.supervise import Counters
from gateway.uplink.drain import Uplink
from tests.fakes.clock import FakeClock
from tests.fakes.committer import FakeCommitter
from tests.fakes.link import FakeLink


def entity(number: int) -> UUID:
    return UUID(int=1 << 76 | number)


class ListEvents:
    """The reading side of `CloudEvents`."""

    def __init__(self) -> None:
        self.stored: dict[Lane, list[StoredEvent]] = {lane: [] for lane in Lane}
        self.cursors = dict.fromkeys(Lane, 0)
        self._changed = asyncio.Event()

    def append(
        self, who: int | None, action: str = "TIMESERIES_UPDATED", *, type_="DEVICE", lane=Lane.MAIN, body=b"{}"
    ):
        rows = self.stored[lane]
        seq_id = rows[-1].seq_id + 1 if rows else 1
        id_ = None if who is None else entity(who)
        rows.append(
            StoredEvent(
                seq_id=seq_id,
                lane=lane,
                id=entity(0),
                type=type_,
                action=action,
                entity_id=id_,
                created_ms=1,
                body=body,
            )
        )
        self._changed.set()
        self._changed = asyncio.Event()
        return seq_id

    async def peek(self, lane, after_seq, limit):
        await asyncio.sleep(0)
        return [row for row in self.stored[lane] if row.seq_id > after_seq][:limit]

    async def peek_added(self, lane, after_seq, limit):
        await asyncio.sleep(0)
        return [row for row in self.stored[lane] if row.seq_id > after_seq and row.action == "ADDED"][:limit]

    def cursor(self, lane):
        return self.cursors[lane]

    def last(self, lane):
        return self.stored[lane][-1].seq_id if self.stored[lane] else 0

    async def wait_beyond(self, lane, seq_id):
        while self.last(lane) <= seq_id:
            await self._changed.wait()


class Bench:
    """Everything around one `Uplink`, and the uplink running."""

    def __init__(self, *, is_up: bool = True, max_message_bytes: int = 4_000_000, **settings) -> None:
        self.clock = FakeClock()
        self.events = ListEvents()
        self.link = FakeLink(is_up=is_up, max_message_bytes=max_message_bytes)
        self.committer = FakeCommitter()
        self.counters = Counters()
        self.config = CloudConfig(**settings)
        self.uplink = Uplink(self.config, self.events, self.link, self.committer, self.clock, self.counters)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.uplink.serve())
        await self.settle()
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    @property
    def waiting(self) -> list[list[int]]:
        return [message.seq_ids for message in self.link.waiting]

    async def answer(self, *numbers: int, error: str | None = None) -> None:
        """Answer messages by their places in `waiting`."""
        for message in [self.link.waiting[number] for number in numbers]:
            self.link.answer(message, error)
        await self.settle()

    @property
    def cursor(self) -> int:
        moves = [c.seq_id for c in self.committer.changes() if isinstance(c, MoveCursor) and c.lane is Lane.MAIN]
        return moves[-1] if moves else 0

    @property
    def parked(self) -> list[ParkEvent]:
        return [change for change in self.committer.changes() if isinstance(change, ParkEvent)]
