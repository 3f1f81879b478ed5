"""Room in the file: how much is used, what goes when it is full, and in which order."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Final

from gateway.config import SqliteStore as SqliteConfig
from gateway.domain.cloud_event import Lane, WhenFull
from gateway.errors import TransientError
from gateway.store.full import HARD_LIMIT, ROOM, ROUND_ROWS, StoreFullError
from gateway.store.gaps import CLOSE_SQLITE, DROP_SQLITE, NOTE_SQLITE, OPEN, Gaps, announcements
from gateway.store.lanes import Positions
from gateway.store.plan import Plan
from gateway.store.reserve import RESERVE_BYTES, Reserve, free_bytes
from gateway.store.sqlite_file import wal_bytes
from gateway.supervise import Counters

log = logging.getLogger(__name__)

MOST_ROUNDS: Final = 8
"""Rounds of deletions in front of one commit; what is still missing is left to the next try."""

_NO_ROOM: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_NEARLY_FULL: Final = 1 << 20
_KEPT_PAGES: Final = 64
_SHRINK_PAGES: Final = 1_000


def used_bytes(connection: sqlite3.Connection) -> int:
    """Pages in use, those still in the write-ahead log included."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


class SqliteRoom:
    """Everything here runs in the writing thread, outside of a transaction.

    What goes, in this order: confirmed events, oldest first; local history, oldest first; and only with
    `drop_oldest`, pending telemetry events, oldest first.
    """

    def __init__(
        self, config: SqliteConfig, path: Path, connection: sqlite3.Connection, counters: Counters, budget_bytes: int
    ) -> None:
        self._config, self._path, self._counters = config, path, counters
        self.limit_bytes = budget_bytes - wal_bytes(budget_bytes)
        self._reserve = Reserve(path, min(RESERVE_BYTES, budget_bytes // 16))
        self._reserve.take()
        self._connection, self._execute = connection, connection.execute
        self._measure_every = min(1 << 20, max(4096, budget_bytes // 256))
        self._unmeasured = self._measure_every
        self._used = 0
        self._drop_from = 0
        self._is_dropping = self._is_shrinking = False
        self.gaps = Gaps()
        self.gaps.is_open = self._execute(OPEN).fetchone() is not None

    def used_bytes(self) -> int:
        """Pages in use, those still in the write-ahead log included."""
        self._used = used_bytes(self._connection)
        self._unmeasured = 0
        return self._used

    def written(self, size_bytes: int) -> None:
        """About so much was added."""
        self._unmeasured += size_bytes

    def admit(self, plan: Plan, positions: Positions) -> Positions | None:
        """Make room for a plan that adds. Returns the positions when they moved.

        Raises:
            StoreFullError: There is none.
        """
        limit = self.limit_bytes
        if not (plan.is_bulk or plan.events):
            return None
        if plan.is_bulk and not self._reserve.is_held and not self._reserve.take():
            raise StoreFullError(f"{self._path}: the disk is full; telemetry waits")
        if self._used < limit and self._unmeasured < self._measure_every:
            return None
        if self.used_bytes() < limit:
            return None
        self._make_room(positions)
        if self._used >= limit * HARD_LIMIT:
            raise StoreFullError(f"store is full ({self._used} of {limit} bytes)", is_hard=True)
        if self._used >= limit and plan.is_bulk:
            raise StoreFullError(f"store is full ({self._used} of {limit} bytes); telemetry waits")
        return positions

    def disk_full(self, error: TransientError, adds: bool) -> TransientError:
        """The disk itself is full. The reserve goes first: telemetry waits, calls and cursor moves have room again.

        With nothing left in reserve it is as if the hard limit were reached, for plans that add.
        """
        code = getattr(error.__cause__, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in _NO_ROOM:
            return error
        if code & 0xFF == sqlite3.SQLITE_IOERR and free_bytes(self._path.parent) > _NEARLY_FULL:
            return error
        has_room = self._reserve.release()
        return StoreFullError(f"disk is full: {error}", is_hard=not has_room) if adds else error

    def close(self) -> None:
        """The reserve is given back."""
        self._reserve.release()

    def shrink(self) -> bool:
        """One round of giving free pages back, from the end of the file; whether there is more to do.

        Begins when the file is 15 % larger than what is in it, and ends at 5 %: pages that a busy queue frees and
        takes again stay.
        """
        (pages,) = self._execute("PRAGMA page_count").fetchone()
        (free,) = self._execute("PRAGMA freelist_count").fetchone()
        part = 0.05 if self._is_shrinking else 0.15
        self._is_shrinking = free > max(_KEPT_PAGES, (pages - free) * part)
        if self._is_shrinking:
            self._execute(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})").fetchall()
            (left,) = self._execute("PRAGMA freelist_count").fetchone()
            self._is_shrinking = left < free  # a file that was made without it gives nothing back
        return self._is_shrinking

    def announce(self, plan: Plan, now_ms: int) -> list[tuple[str, bytes]]:
        """What was dropped, as events at the end of an admitted plan that moves the cursor; for `close_gaps`."""
        if not (plan.moved and self.gaps.is_due(now_ms)) or self._used > self.limit_bytes * ROOM:
            return []
        rows = self._execute(OPEN).fetchall()
        plan.add([announcements(rows, now_ms)])
        return [row[:2] for row in rows]

    def close_gaps(self, announced: list[tuple[str, bytes]]) -> None:
        """In the transaction of the plan that announces them."""
        for entity in announced:
            self._execute(CLOSE_SQLITE, entity)

    def drop_deployed(self, positions: Positions, lane: int, up_to: int) -> int:
        """One range of confirmed events, up to and including `up_to`; how many went."""
        first = positions.first[lane]
        end = min(up_to, positions.cursor[lane], first + ROUND_ROWS - 1)
        if end < first:
            return 0
        count = self._execute(
            "DELETE FROM cloud_event WHERE lane = ? AND seq_id BETWEEN ? AND ?", (lane, first, end)
        ).rowcount
        positions.first[lane] = end + 1
        return count

    def drop_history(self, before_slot: int | None) -> int:
        """One range of the oldest history, of slots before the given one; how many rows went."""
        row = self._execute(
            "SELECT slot, series_id, ts FROM ts_kv ORDER BY slot, series_id, ts LIMIT 1 OFFSET ?", (ROUND_ROWS,)
        ).fetchone()
        if row is None or (before_slot is not None and row[0] >= before_slot):
            bound = (1 << 62) if before_slot is None else before_slot
            return self._execute("DELETE FROM ts_kv WHERE slot < ?", (bound,)).rowcount
        return self._execute("DELETE FROM ts_kv WHERE (slot, series_id, ts) < (?, ?, ?)", row).rowcount

    def _make_room(self, positions: Positions) -> None:
        goal = self.limit_bytes * ROOM
        for _ in range(MOST_ROUNDS):
            if self.used_bytes() < goal:
                return
            count = self.drop_deployed(positions, Lane.MAIN, positions.cursor[Lane.MAIN])
            count = count or self.drop_deployed(positions, Lane.EXPRESS, positions.cursor[Lane.EXPRESS])
            if not count:
                count = self.drop_history(None)
                self._counters.add("store.dropped_history", count)
            if not count and self._config.when_full is WhenFull.DROP_OLDEST:
                count = self._drop_pending(positions)
            if not count:
                break
        self.used_bytes()

    def _drop_pending(self, positions: Positions) -> int:
        """One range of pending telemetry of the main lane, noted as gaps in the same transaction; the last event
        stays, it holds the place of its number.
        """
        if not self._is_dropping:
            self._is_dropping = True
            log.warning("store: full, the oldest telemetry is dropped (counted in store.dropped_events)")
        start = max(self._drop_from, positions.cursor[Lane.MAIN] + 1)
        count = 0
        self._execute("BEGIN IMMEDIATE")
        try:
            while not count and start < positions.last[Lane.MAIN]:
                span = (start, min(start + ROUND_ROWS, positions.last[Lane.MAIN]))
                self._execute(NOTE_SQLITE, span)
                count = self._execute(DROP_SQLITE, span).rowcount
                start = span[1]
            (lowest,) = self._execute(
                "SELECT min(seq_id) FROM cloud_event WHERE lane = 0 AND seq_id > ?", (positions.cursor[Lane.MAIN],)
            ).fetchone()
            is_behind = lowest is not None and lowest - 1 > positions.cursor[Lane.MAIN]
            if is_behind:
                # Everything up to here is gone: the cursor need not count it as waiting.
                self._execute(
                    "INSERT INTO cloud_event_cursor (lane, seq_id) VALUES (0, ?1)"
                    " ON CONFLICT (lane) DO UPDATE SET seq_id = ?1",
                    (lowest - 1,),
                )
            self._execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._execute("ROLLBACK")
            raise
        self._drop_from = start
        if is_behind:
            positions.cursor[Lane.MAIN] = lowest - 1
            positions.first[Lane.MAIN] = max(positions.first[Lane.MAIN], lowest)
        if count:
            self.gaps.is_open = True
            self._counters.add("store.dropped_events", count)
        return count
