"""Room on the server: an estimate of what is kept, what goes when it is full, and in which order."""

from __future__ import annotations

import logging
from typing import Any, Final

import psycopg

from gateway.config import PostgresStore as PostgresConfig
from gateway.domain.cloud_event import Lane, WhenFull
from gateway.store.full import HARD_LIMIT, ROOM, ROUND_ROWS, StoreFullError
from gateway.store.gaps import CLOSE_POSTGRES, DROP_POSTGRES, NOTE_POSTGRES, OPEN, Gaps, announcements
from gateway.store.lanes import Positions
from gateway.store.plan import Plan
from gateway.supervise import Counters

log = logging.getLogger(__name__)
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

MOST_ROUNDS: Final = 8
EVENT_BYTES, HISTORY_BYTES = 250, 110
"""What a row costs beside its body, its part of the index included. Deleted rows are not counted: their space
is used again, though the files do not shrink."""


class PostgresRoom:
    """Counts rows and bytes itself: the size of the files says nothing about what is kept in them.

    What goes, in this order: confirmed events, oldest first; local history, oldest first; and only with
    `drop_oldest`, pending telemetry events, oldest first.
    """

    def __init__(self, config: PostgresConfig, counters: Counters) -> None:
        self._config, self._counters = config, counters
        self._body_bytes = 100.0
        self._history_rows = self._event_rows = 0
        self._drop_from = 0
        self._is_dropping = False
        self.gaps = Gaps()

    def used_bytes(self) -> int:
        """About; from memory."""
        events = max(0, self._event_rows) * (EVENT_BYTES + self._body_bytes)
        return int(events) + max(0, self._history_rows) * HISTORY_BYTES

    def written(self, plan: Plan) -> None:
        """A plan is committed. A parked event counts as one in the queue."""
        self._history_rows += len(plan.history)
        self._event_rows += len(plan.events) + plan.other_rows
        if plan.events:
            mean = sum(len(row[9] or "") for row in plan.events) / len(plan.events)
            weight = min(0.5, len(plan.events) / 5_000)
            self._body_bytes += (mean - self._body_bytes) * weight

    async def count(self, connection: Connection) -> None:
        """Once for each connection: dropped events leave gaps, so positions do not tell how many there are."""
        statement = "SELECT (SELECT count(*) FROM cloud_event) + (SELECT count(*) FROM cloud_event_parked)"
        (self._event_rows,) = await _one(connection, statement)
        self.gaps.is_open = (await _one(connection, OPEN))[0] is not None
        await self.measure(connection)

    async def measure(self, connection: Connection) -> None:
        """Ask the server: the mean of the newest bodies, and its estimate of the rows of history."""
        row = await _one(
            connection,
            "SELECT coalesce(avg(octet_length(entity_body)), 100)::float8 FROM"
            " (SELECT entity_body FROM cloud_event WHERE lane = 0 ORDER BY seq_id DESC LIMIT 1000) e",
        )
        self._body_bytes = row[0]
        row = await _one(connection, "SELECT reltuples::bigint FROM pg_class WHERE oid = 'ts_kv'::regclass")
        if row[0] > self._history_rows:
            self._history_rows = row[0]

    def is_wanted(self, plan: Plan) -> bool:
        """The limit is reached and the plan adds."""
        return bool(plan.is_bulk or plan.events) and self.used_bytes() >= self._config.max_bytes

    def admit(self, plan: Plan) -> None:
        """After `make`.

        Raises:
            StoreFullError: There is no room.
        """
        used, limit = self.used_bytes(), self._config.max_bytes
        if used >= limit * HARD_LIMIT:
            raise StoreFullError(f"store is full (about {used} of {limit} bytes)", is_hard=True)
        if used >= limit and plan.is_bulk:
            raise StoreFullError(f"store is full (about {used} of {limit} bytes); telemetry waits")

    async def make(self, connection: Connection, positions: Positions) -> Positions:
        """Delete in ranges; the positions, as they are then."""
        goal = self._config.max_bytes * ROOM
        for _ in range(MOST_ROUNDS):
            if self.used_bytes() < goal:
                break
            gone = await self.drop_deployed(connection, positions, Lane.MAIN, positions.cursor[Lane.MAIN])
            gone = gone or await self.drop_deployed(connection, positions, Lane.EXPRESS, positions.cursor[Lane.EXPRESS])
            if not gone:
                gone = await self.drop_history(connection, None)
                self._counters.add("store.dropped_history", gone)
            if not gone and self._config.when_full is WhenFull.DROP_OLDEST:
                gone = await self._drop_pending(connection, positions)
            if not gone:
                break
        return positions

    async def drop_deployed(self, connection: Connection, positions: Positions, lane: int, up_to: int) -> int:
        """One range of confirmed events, up to and including `up_to`; how many went."""
        first = positions.first[lane]
        end = min(up_to, positions.cursor[lane], first + ROUND_ROWS - 1)
        if end < first:
            return 0
        cursor = await connection.execute(
            "DELETE FROM cloud_event WHERE lane = %s AND seq_id BETWEEN %s AND %s", (int(lane), first, end)
        )
        positions.first[lane] = end + 1
        self._event_rows -= cursor.rowcount
        return cursor.rowcount

    async def drop_history(self, connection: Connection, before_slot: int | None) -> int:
        """One range of the oldest history, of slots before the given one; how many rows went."""
        cursor = await connection.execute(
            "SELECT slot, series_id, ts FROM ts_kv ORDER BY slot, series_id, ts LIMIT 1 OFFSET %s", (ROUND_ROWS,)
        )
        row = await cursor.fetchone()
        if row is None or (before_slot is not None and row[0] >= before_slot):
            bound = (1 << 62) if before_slot is None else before_slot
            cursor = await connection.execute("DELETE FROM ts_kv WHERE slot < %s", (bound,))
        else:
            cursor = await connection.execute("DELETE FROM ts_kv WHERE (slot, series_id, ts) < (%s, %s, %s)", row)
        self._history_rows = max(0, self._history_rows - cursor.rowcount)
        if cursor.rowcount == 0:
            self._history_rows = 0 if before_slot is None else self._history_rows
        return cursor.rowcount

    async def _drop_pending(self, connection: Connection, positions: Positions) -> int:
        if not self._is_dropping:
            self._is_dropping = True
            log.warning("store: full, the oldest telemetry is dropped (counted in store.dropped_events)")
        start = max(self._drop_from, positions.cursor[Lane.MAIN] + 1)
        gone = 0
        async with connection.transaction():
            while not gone and start < positions.last[Lane.MAIN]:
                span = (start, min(start + ROUND_ROWS, positions.last[Lane.MAIN]))
                await connection.execute(NOTE_POSTGRES, span)
                gone = (await connection.execute(DROP_POSTGRES, span)).rowcount
                start = span[1]
            (lowest,) = await _one(
                connection,
                "SELECT min(seq_id) FROM cloud_event WHERE lane = 0 AND seq_id > %s",
                (positions.cursor[Lane.MAIN],),
            )
            is_behind = lowest is not None and lowest - 1 > positions.cursor[Lane.MAIN]
            if is_behind:
                # Everything up to here is gone: the cursor need not count it as waiting.
                await connection.execute(
                    "INSERT INTO cloud_event_cursor (lane, seq_id) VALUES (0, %s)"
                    " ON CONFLICT (lane) DO UPDATE SET seq_id = excluded.seq_id",
                    (lowest - 1,),
                )
        self._drop_from = start
        if is_behind:
            positions.cursor[Lane.MAIN] = lowest - 1
            positions.first[Lane.MAIN] = max(positions.first[Lane.MAIN], lowest)
        if gone:
            self._event_rows -= gone
            self.gaps.is_open = True
            self._counters.add("store.dropped_events", gone)
        return gone

    async def announce(self, connection: Connection, plan: Plan, now_ms: int) -> list[tuple[Any, ...]]:
        """What was dropped, as events at the end of an admitted plan that moves the cursor; for `close_gaps`."""
        if not (plan.moved and self.gaps.is_due(now_ms)) or self.used_bytes() > self._config.max_bytes * ROOM:
            return []
        rows = await (await connection.execute(OPEN)).fetchall()
        plan.add([announcements(rows, now_ms)])
        return [row[:2] for row in rows]

    async def close_gaps(self, cursor: psycopg.AsyncCursor[tuple[Any, ...]], announced: list[tuple[Any, ...]]) -> None:
        """In the transaction of the plan that announces them."""
        for entity in announced:
            await cursor.execute(CLOSE_POSTGRES, entity)


async def _one(connection: Connection, statement: Any, values: Any = ()) -> tuple[Any, ...]:
    row = await (await connection.execute(statement, values)).fetchone()
    return row or (None,)
