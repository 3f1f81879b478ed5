"""The queue's reading side on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.cloud_event import EventStatus, Lane, ParkedChoice, ParkedEvent, StoredEvent
from gateway.ports import QueueDepth
from gateway.store.lanes import Lanes, Positions
from gateway.store.sqlite_file import translated
from gateway.store.tables import chosen
from gateway.store.worker import Worker

PEEK_CHARS: Final = 8 << 20
"""Bodies of one peek, all together; at least one event is given whatever its size."""
PEEK_SQL: Final = """
SELECT json_group_array(json_array(seq_id, hex(id), cloud_event_type, cloud_event_action, hex(entity_id),
       created_time, entity_body))
FROM (SELECT * FROM cloud_event WHERE lane = ? AND seq_id > ? ORDER BY seq_id LIMIT ?)
"""
_WEIGHT: Final = """
SELECT sum(length(entity_body)) FROM
(SELECT entity_body FROM cloud_event WHERE lane = ? AND seq_id > ? ORDER BY seq_id LIMIT ?)
"""
_COLUMNS: Final = (
    "e.lane, e.seq_id, e.id, e.cloud_event_type, e.cloud_event_action, e.entity_id, e.created_time, e.entity_body"
)
_FIND: Final = f"""
SELECT {_COLUMNS}, p.seq_id IS NOT NULL FROM cloud_event e
LEFT JOIN cloud_event_parked p ON p.lane = e.lane AND p.seq_id = e.seq_id
WHERE e.lane = ? AND e.seq_id >= ? AND e.seq_id <= ? AND (? OR p.seq_id IS NULL)
ORDER BY e.seq_id DESC LIMIT ?
"""
_ADDED: Final = f"""
SELECT {_COLUMNS} FROM cloud_event e INDEXED BY cloud_event_added
WHERE e.cloud_event_action = 'ADDED' AND e.lane = ? AND e.seq_id > ? ORDER BY e.seq_id LIMIT ?
"""
_PARKED: Final = f"SELECT {_COLUMNS}, e.reason, e.tries, e.parked_time FROM cloud_event_parked e"


class SqliteEvents:
    """Port `CloudEvents`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        reader: Worker,
        writer: Worker,
        lanes: Lanes,
        path: Path,
        purge_some: Callable[[Lane, int], tuple[int, Positions]],
    ) -> None:
        self._read = connection.execute
        self._reader, self._writer, self._lanes, self._path = reader, writer, lanes, path
        self._purge_some = purge_some

    async def peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """At most `limit`, and at most about 8 MB of bodies."""
        if self._lanes.now.last[lane] <= after_seq or limit < 1:
            return []
        return await self._reader.call(lambda: self._peek(lane, after_seq, limit))

    async def peek_added(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Bodies of these are small, or none."""
        if self._lanes.now.last[lane] <= after_seq or limit < 1:
            return []
        return await self._reader.call(lambda: self._rows(_ADDED, (int(lane), after_seq, limit)))

    def cursor(self, lane: Lane) -> int:
        """Highest confirmed."""
        return self._lanes.now.cursor[lane]

    def last(self, lane: Lane) -> int:
        """Highest stored."""
        return self._lanes.now.last[lane]

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Woken by commits."""
        await self._lanes.wait_beyond(lane, seq_id)

    async def depth(self) -> QueueDepth:
        """From memory, and one row of each lane."""
        now = self._lanes.now
        oldest_ms = await self._reader.call(lambda: self._oldest_ms(now.cursor))
        return QueueDepth(
            pending={lane: now.last[lane] - now.cursor[lane] for lane in Lane},
            deployed={lane: now.deployed(lane) for lane in Lane},
            parked=now.parked,
            oldest_ms=oldest_ms,
        )

    async def find(
        self, status: EventStatus | None, limit: int, before_seq: int | None = None
    ) -> Sequence[tuple[StoredEvent, EventStatus]]:
        """Newest first, by creation; `before_seq` pages through both lanes alike."""
        cursor = self._lanes.now.cursor[:]
        return await self._reader.call(lambda: self._find(status, limit, before_seq, cursor))

    async def parked(self, limit: int) -> Sequence[ParkedEvent]:
        """Newest first."""
        return await self._reader.call(lambda: self._parked(limit, None))

    async def choose_parked(
        self, lane: Lane, after_seq: int, limit: int, choice: ParkedChoice
    ) -> Sequence[ParkedEvent]:
        """Oldest number first."""
        where, values = chosen(choice, "?", lambda id_: id_.bytes, "instr(e.reason, ?) > 0")
        statement = f"{_PARKED} WHERE e.lane = ? AND e.seq_id > ?{where} ORDER BY e.seq_id LIMIT ?"
        return await self._reader.call(lambda: self._parked_rows(statement, (int(lane), after_seq, *values, limit)))

    async def purge(self, keep: int) -> int:
        """In ranges, so that commits go in between."""
        total = 0
        for lane in Lane:
            up_to = self._lanes.now.cursor[lane] - keep
            while (count := await self._purge_range(lane, up_to)) is not None:
                total += count
        return total

    async def _purge_range(self, lane: Lane, up_to: int) -> int | None:
        if self._lanes.now.first[lane] > min(up_to, self._lanes.now.cursor[lane]):
            return None
        count, _ = await self._writer.call(
            lambda: self._purge_some(lane, up_to), lambda done: self._lanes.publish(done[1])
        )
        return count

    # ── in the reading thread ──

    def _peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        with translated(self._path):
            place = (int(lane), after_seq)
            while limit > 1 and (self._read(_WEIGHT, (*place, limit)).fetchone()[0] or 0) > PEEK_CHARS:
                limit = max(1, limit // 2)
            (text,) = self._read(PEEK_SQL, (*place, limit)).fetchone()
        return [
            StoredEvent(
                seq_id=seq_id,
                lane=lane,
                id=UUID(hex=id_),
                type=type_,
                action=action,
                entity_id=UUID(hex=entity_id) if entity_id else None,
                created_ms=created_ms,
                body=None if body is None else body.encode(),
            )
            for seq_id, id_, type_, action, entity_id, created_ms, body in orjson.loads(text)
        ]

    def _rows(self, statement: str, values: Sequence[Any]) -> list[StoredEvent]:
        with translated(self._path):
            return [_event(row) for row in self._read(statement, values)]

    def _oldest_ms(self, cursor: Sequence[int]) -> int | None:
        with translated(self._path):
            found = [
                self._read(
                    "SELECT created_time FROM cloud_event WHERE lane = ? AND seq_id > ? ORDER BY seq_id LIMIT 1",
                    (lane, cursor[lane]),
                ).fetchone()
                for lane in (0, 1)
            ]
        return min((row[0] for row in found if row), default=None)

    def _find(
        self, status: EventStatus | None, limit: int, before_seq: int | None, cursor: Sequence[int]
    ) -> list[tuple[StoredEvent, EventStatus]]:
        if status is EventStatus.PARKED:
            return [(parked.event, EventStatus.PARKED) for parked in self._parked(limit, before_seq)]
        found: list[tuple[StoredEvent, EventStatus]] = []
        highest = (1 << 62) if before_seq is None else before_seq - 1
        with translated(self._path):
            for lane in Lane:
                low, high = 0, highest
                if status is EventStatus.PENDING:
                    low = cursor[lane] + 1
                elif status is EventStatus.DEPLOYED:
                    high = min(high, cursor[lane])
                for row in self._read(_FIND, (int(lane), low, high, status is None, limit)):
                    event = _event(row)
                    if row[8]:
                        found.append((event, EventStatus.PARKED))
                    else:
                        is_done = event.seq_id <= cursor[lane]
                        found.append((event, EventStatus.DEPLOYED if is_done else EventStatus.PENDING))
        found.sort(key=lambda pair: (pair[0].created_ms, pair[0].seq_id), reverse=True)
        return found[:limit]

    def _parked(self, limit: int, before_seq: int | None) -> list[ParkedEvent]:
        return self._parked_rows(
            f"{_PARKED} WHERE e.seq_id < ? ORDER BY e.parked_time DESC, e.seq_id DESC LIMIT ?",
            ((1 << 62) if before_seq is None else before_seq, limit),
        )

    def _parked_rows(self, statement: str, values: Sequence[Any]) -> list[ParkedEvent]:
        with translated(self._path):
            rows = self._read(statement, values).fetchall()
        return [ParkedEvent(event=_event(row), reason=row[8], tries=row[9], parked_ms=row[10]) for row in rows]


def _event(row: tuple[Any, ...]) -> StoredEvent:
    lane, seq_id, id_, type_, action, entity_id, created_ms, body = row[:8]
    return StoredEvent(
        seq_id=seq_id,
        lane=Lane(lane),
        id=UUID(bytes=id_),
        type=type_,
        action=action,
        entity_id=None if entity_id is None else UUID(bytes=entity_id),
        created_ms=created_ms,
        body=None if body is None else body.encode(),
    )
