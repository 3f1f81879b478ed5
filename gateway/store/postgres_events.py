"""The queue's reading side on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from gateway.domain.cloud_event import EventStatus, Lane, ParkedChoice, ParkedEvent, StoredEvent
from gateway.ports import QueueDepth
from gateway.store.lanes import Lanes
from gateway.store.postgres_text import escape, unescape
from gateway.store.tables import chosen

PEEK_BYTES: Final = 8 << 20
"""Bodies of one peek, all together; at least one event is given whatever its size."""
_COLUMNS: Final = (
    "e.lane, e.seq_id, e.id, e.cloud_event_type, e.cloud_event_action, e.entity_id, e.created_time, e.entity_body"
)
PEEK_SQL: Final = f"""
SELECT {_COLUMNS} FROM (
    SELECT *, sum(coalesce(octet_length(entity_body), 0)) OVER (ORDER BY seq_id) AS total
    FROM (SELECT * FROM cloud_event WHERE lane = %s AND seq_id > %s ORDER BY seq_id LIMIT %s) taken
) e WHERE e.total <= {PEEK_BYTES} OR e.total = coalesce(octet_length(e.entity_body), 0) ORDER BY e.seq_id
"""
_FIND: Final = f"""
SELECT {_COLUMNS}, p.seq_id IS NOT NULL FROM cloud_event e
LEFT JOIN cloud_event_parked p ON p.lane = e.lane AND p.seq_id = e.seq_id
WHERE e.lane = %s AND e.seq_id >= %s AND e.seq_id <= %s AND (%s OR p.seq_id IS NULL)
ORDER BY e.seq_id DESC LIMIT %s
"""
_ADDED: Final = f"""
SELECT {_COLUMNS} FROM cloud_event e
WHERE e.cloud_event_action = 'ADDED' AND e.lane = %s AND e.seq_id > %s ORDER BY e.seq_id LIMIT %s
"""
_PARKED: Final = f"SELECT {_COLUMNS}, e.reason, e.tries, e.parked_time FROM cloud_event_parked e"
_OLDEST: Final = "SELECT created_time FROM cloud_event WHERE lane = %s AND seq_id > %s ORDER BY seq_id LIMIT 1"


class _Reader(Protocol):
    lanes: Lanes

    async def fetch(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]: ...

    async def purge_some(self, lane: int, up_to: int) -> int: ...


class PostgresEvents:
    """Port `CloudEvents`."""

    def __init__(self, store: _Reader) -> None:
        self._store = store

    async def peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """At most `limit`, and at most about 8 MB of bodies."""
        if self._store.lanes.now.last[lane] <= after_seq or limit < 1:
            return []
        return [_event(row) for row in await self._store.fetch(PEEK_SQL, (int(lane), after_seq, limit))]

    async def peek_added(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Bodies of these are small, or none."""
        if self._store.lanes.now.last[lane] <= after_seq or limit < 1:
            return []
        return [_event(row) for row in await self._store.fetch(_ADDED, (int(lane), after_seq, limit))]

    def cursor(self, lane: Lane) -> int:
        """Highest confirmed."""
        return self._store.lanes.now.cursor[lane]

    def last(self, lane: Lane) -> int:
        """Highest stored."""
        return self._store.lanes.now.last[lane]

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Woken by commits."""
        await self._store.lanes.wait_beyond(lane, seq_id)

    async def depth(self) -> QueueDepth:
        """From memory, and one row of each lane."""
        now = self._store.lanes.now
        oldest: list[int] = []
        for lane in Lane:
            if now.last[lane] > now.cursor[lane]:
                oldest += [row[0] for row in await self._store.fetch(_OLDEST, (int(lane), now.cursor[lane]))]
        return QueueDepth(
            pending={lane: now.last[lane] - now.cursor[lane] for lane in Lane},
            deployed={lane: now.deployed(lane) for lane in Lane},
            parked=now.parked,
            oldest_ms=min(oldest, default=None),
        )

    async def find(
        self, status: EventStatus | None, limit: int, before_seq: int | None = None
    ) -> Sequence[tuple[StoredEvent, EventStatus]]:
        """Newest first, by creation; `before_seq` pages through both lanes alike."""
        if status is EventStatus.PARKED:
            return [(parked.event, EventStatus.PARKED) for parked in await self._parked(limit, before_seq)]
        found: list[tuple[StoredEvent, EventStatus]] = []
        for lane in Lane:
            cursor = self._store.lanes.now.cursor[lane]
            low, high = 0, (1 << 62) if before_seq is None else before_seq - 1
            if status is EventStatus.PENDING:
                low = cursor + 1
            elif status is EventStatus.DEPLOYED:
                high = min(high, cursor)
            for row in await self._store.fetch(_FIND, (int(lane), low, high, status is None, limit)):
                event = _event(row)
                state = EventStatus.DEPLOYED if event.seq_id <= cursor else EventStatus.PENDING
                found.append((event, EventStatus.PARKED if row[8] else state))
        found.sort(key=lambda pair: (pair[0].created_ms, pair[0].seq_id), reverse=True)
        return found[:limit]

    async def parked(self, limit: int) -> Sequence[ParkedEvent]:
        """Newest first."""
        return await self._parked(limit, None)

    async def choose_parked(
        self, lane: Lane, after_seq: int, limit: int, choice: ParkedChoice
    ) -> Sequence[ParkedEvent]:
        """Oldest number first."""
        where, values = chosen(choice, "%s", lambda id_: id_, "strpos(e.reason, %s) > 0", escape)
        statement = f"{_PARKED} WHERE e.lane = %s AND e.seq_id > %s{where} ORDER BY e.seq_id LIMIT %s"
        rows = await self._store.fetch(statement, (int(lane), after_seq, *values, limit))
        return [_parked_event(row) for row in rows]

    async def purge(self, keep: int) -> int:
        """In ranges, so that commits go in between."""
        total = 0
        for lane in Lane:
            up_to = self._store.lanes.now.cursor[lane] - keep
            while self._store.lanes.now.first[lane] <= min(up_to, self._store.lanes.now.cursor[lane]):
                total += await self._store.purge_some(lane, up_to)
        return total

    async def _parked(self, limit: int, before_seq: int | None) -> list[ParkedEvent]:
        rows = await self._store.fetch(
            f"{_PARKED} WHERE e.seq_id < %s ORDER BY e.parked_time DESC, e.seq_id DESC LIMIT %s",
            ((1 << 62) if before_seq is None else before_seq, limit),
        )
        return [_parked_event(row) for row in rows]


def _parked_event(row: tuple[Any, ...]) -> ParkedEvent:
    return ParkedEvent(event=_event(row), reason=unescape(row[8]), tries=row[9], parked_ms=row[10])


def _event(row: tuple[Any, ...]) -> StoredEvent:
    lane, seq_id, id_, type_, action, entity_id, created_ms, body = row[:8]
    return StoredEvent(
        seq_id=seq_id,
        lane=Lane(lane),
        id=id_,
        type=type_,
        action=action,
        entity_id=entity_id,
        created_ms=created_ms,
        body=None if body is None else unescape(body).encode(),
    )
