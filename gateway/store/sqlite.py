"""SQLite: one file, one writing thread, one reading thread.

Rows go in through one statement for each table, and come out as one JSON text: the driver gives up the
interpreter's lock at every step of a statement, and beside a busy event loop it gets it back milliseconds later.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from gateway.config import SqliteStore as SqliteConfig
from gateway.domain.changes import UnitOfWork
from gateway.domain.cloud_event import Lane
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Attribute, Summary, Value
from gateway.errors import TransientError
from gateway.ports import FINISHED_RPCS, Clock, CloudEvents, Snapshot, StoreUse
from gateway.store import sqlite_file, tables
from gateway.store.lanes import Lanes, Positions
from gateway.store.plan import SLOT_MS, SQLITE, Owner, Plan, identity_of
from gateway.store.series import Series
from gateway.store.sqlite_events import SqliteEvents
from gateway.store.sqlite_room import SqliteRoom, used_bytes
from gateway.store.tables import (
    DOCUMENTS,
    Table,
    delete_sql,
    forget_sql,
    insert_sql,
    padded_insert_sql,
    park_sql,
    parked_away_sql,
)
from gateway.store.values import decode_json, decode_value, device_of, profile_of, summary_of
from gateway.store.worker import Worker
from gateway.supervise import Counters

log = logging.getLogger(__name__)
T = TypeVar("T")

SIZES: Final = tuple(sorted({rows << shift for rows in (2, 3) for shift in range(11)} - {3_072}))
"""Rows of one statement: few sizes, so that they stay prepared; 2,048 rows stay below SQLite's 32,766 parameters."""
_ALL: Final = {
    "device": f"SELECT {','.join(tables.DEVICE.columns)} FROM device",
    "profile": f"SELECT {','.join(tables.PROFILE.columns)} FROM profile",
    "attribute": "SELECT entity_type, entity_id, scope, key, ts, kind, value FROM attribute",
}
_HISTORY: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT min(slot) FROM ts_kv WHERE slot >= :first
    UNION ALL
    SELECT (SELECT min(slot) FROM ts_kv WHERE slot > slots.slot) FROM slots WHERE slots.slot < :last
)
SELECT h.ts, h.kind, h.value FROM slots CROSS JOIN ts_kv h
ON h.slot = slots.slot AND h.series_id = :series AND h.ts >= :from_ms AND h.ts < :to_ms
ORDER BY h.slot, h.ts LIMIT :limit
"""
_NEWEST: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT max(slot) FROM ts_kv WHERE slot <= :last
    UNION ALL
    SELECT (SELECT max(slot) FROM ts_kv WHERE slot < slots.slot) FROM slots WHERE slots.slot > :first
)
SELECT h.ts, h.kind, h.value FROM slots CROSS JOIN ts_kv h
ON h.slot = slots.slot AND h.series_id = :series AND h.ts >= :from_ms AND h.ts < :to_ms
ORDER BY h.slot DESC, h.ts DESC LIMIT :limit
"""
# sum() of integers fails when it leaves 64 bits: the halves of each cannot.
_SUMMARY: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT min(slot) FROM ts_kv WHERE slot >= :first
    UNION ALL
    SELECT (SELECT min(slot) FROM ts_kv WHERE slot > slots.slot) FROM slots WHERE slots.slot < :last
)
SELECT count(*), count(whole), sum(whole >> 32), sum(whole & 4294967295), min(whole), max(whole),
    count(real), total(real), min(real), max(real)
FROM (
    SELECT CASE WHEN h.kind = 1 THEN h.value END AS whole,
        CASE WHEN h.kind = 2 AND typeof(h.value) = 'real' THEN h.value END AS real
    FROM slots CROSS JOIN ts_kv h
    ON h.slot = slots.slot AND h.series_id = :series AND h.ts >= :from_ms AND h.ts < :to_ms
)
"""
_WIPE: Final = (
    "DELETE FROM cloud_event_gap WHERE entity_type=? AND entity_id=?",
    "DELETE FROM attribute WHERE entity_type=? AND entity_id=?",
    "DELETE FROM ts_kv_latest WHERE series_id IN"
    " (SELECT series_id FROM ts_kv_dictionary WHERE entity_type=? AND entity_id=?)",
    "DELETE FROM ts_kv_dictionary WHERE entity_type=? AND entity_id=?",
)


class SqliteStore:
    """Port `Store` on one file. Opened by `open_sqlite`."""

    def __init__(
        self,
        config: SqliteConfig,
        path: Path,
        clock: Clock,
        counters: Counters,
        connections: tuple[sqlite3.Connection, sqlite3.Connection],
    ) -> None:
        self._config, self._path, self._clock, self._counters = config, path, clock, counters
        self._write, self._read = connections
        self._writer, self._reader = Worker("store writer"), Worker("store reader")
        self._series = Series()
        self._owner = Owner(None, SQLITE)
        self._positions = Positions()
        self._read_positions()
        self._read_series()
        self._lanes = Lanes(self._positions)
        budget = sqlite_file.budget_bytes(config, path)
        self._room = SqliteRoom(config, path, self._write, counters, budget)
        self._events = SqliteEvents(self._read, self._reader, self._writer, self._lanes, path, self._purge_some)
        self._has_complained = False

    # ── port ──

    @property
    def events(self) -> CloudEvents:
        """The queue's reading side."""
        return self._events

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        """One transaction, one fsync."""
        await self._writer.call(lambda: self._commit(units), self._lanes.publish)

    async def load(self) -> Snapshot:
        """Everything that is kept in memory."""
        return await self._reader.call(self._load)

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Latest telemetry of one entity."""
        return await self._reader.call(lambda: self._latest(entity))

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """See `Store`."""
        named = self._interval(entity, key, from_ms, to_ms)
        if named is None:
            return []
        named["limit"] = limit
        return await self._reader.call(lambda: self._history(_NEWEST if newest_first else _HISTORY, named))

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """See `Store`."""
        named = self._interval(entity, key, from_ms, to_ms)
        return Summary() if named is None else await self._reader.call(lambda: self._summary(named))

    def _interval(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> dict[str, int] | None:
        series_id = self._series.by_entity.get(entity, {}).get(key)
        if series_id is None:
            return None
        slots = {"first": from_ms // SLOT_MS, "last": to_ms // SLOT_MS}
        return {"series": series_id, "from_ms": from_ms, "to_ms": to_ms, **slots}

    async def use(self) -> StoreUse:
        """Pages in use."""
        used = await self._reader.call(lambda: self._quietly(lambda: used_bytes(self._read)))
        return StoreUse(used_bytes=used, limit_bytes=self._room.limit_bytes)

    async def maintain(self) -> None:
        """Old history, old confirmed events, finished calls; gives space back and shortens the log."""
        await self._events.purge(self._config.keep_deployed)
        now_ms = self._clock.now_ms()
        oldest_slot = (now_ms - self._config.history_days * 86_400_000) // SLOT_MS
        gone = 1
        while gone:
            gone = await self._writer.call(lambda: self._quietly(lambda: self._room.drop_history(oldest_slot)))
        await self._writer.call(lambda: self._quietly(lambda: self._tidy(now_ms)))
        while await self._writer.call(lambda: self._quietly(self._room.shrink)):
            pass  # in rounds, so that commits go in between
        await self._writer.call(lambda: self._quietly(self._write_back))

    async def close(self) -> None:
        """Ends both threads and closes the file."""
        await self._reader.close()
        await self._writer.close()
        self._read.close()
        with contextlib.suppress(sqlite3.Error):
            self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._write.close()
        self._room.close()

    # ── in the writing thread ──

    def _commit(self, units: Sequence[UnitOfWork]) -> Positions:
        plan = Plan(SQLITE, self._positions, self._series, self._owner)
        plan.add(units)
        with sqlite_file.translated(self._path):
            moved = self._room.admit(plan, self._positions)
        if moved is not None:  # room was made: the plan's positions are its own
            plan.positions.first = moved.first[:]
            plan.positions.cursor = [max(pair) for pair in zip(plan.positions.cursor, moved.cursor, strict=True)]
        adds, now_ms = plan.is_bulk or bool(plan.events), self._clock.now_ms()
        try:
            with sqlite_file.translated(self._path):
                announced = self._room.announce(plan, now_ms)
                self._transact(plan, announced)
        except TransientError as error:
            self._read_positions()
            full = self._room.disk_full(error, adds)
            raise full from error
        if announced:
            self._room.gaps.announced(len(announced), now_ms)
        plan.follow()
        self._owner, self._positions = plan.owner, plan.positions
        self._room.written(plan.size_bytes)
        if plan.refused_series:
            self._complain(plan.refused_series)
        return self._positions.copy()

    def _transact(self, plan: Plan, announced: list[tuple[str, bytes]]) -> None:
        write = self._write.execute
        write("BEGIN IMMEDIATE")
        try:
            for entity in plan.wiped:
                for statement in _WIPE:
                    write(statement, (str(entity.type), entity.id.bytes))
            for table, key in plan.deletions():
                write(delete_sql(table, "?"), key)
            for place in plan.replaced:
                plan.positions.parked -= write(delete_sql(tables.PARKED, "?"), place).rowcount
            for table, rows in plan.rows():
                self._insert(table, rows)
                if table is tables.PARKED:
                    plan.positions.parked += len(rows)
            self._park(plan)
            self._room.close_gaps(announced)
            write("COMMIT")
        except BaseException:
            if self._write.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    write("ROLLBACK")
            raise

    def _park(self, plan: Plan) -> None:
        """Moves in the queue that are no rows of the plan."""
        write = self._write.execute
        for one in plan.parkings:
            span = (one.lane, one.low, one.high)
            plan.positions.parked += write(park_sql("?"), (one.reason, one.parked_ms, *span)).rowcount
            write(parked_away_sql("?"), span)
        for place in plan.dropped:
            plan.positions.parked -= write(delete_sql(tables.PARKED, "?"), place).rowcount
        for place in plan.forgotten:
            write(forget_sql("?"), place)

    def _insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """In one statement if possible: of the next prepared size, filled up with empty rows that it leaves out."""
        if len(rows) == 1:
            self._write.execute(insert_sql(table, 1, "?"), rows[0])
            return
        for start in range(0, len(rows), SIZES[-1]):
            part = rows[start : start + SIZES[-1]]
            size = SIZES[bisect.bisect_left(SIZES, len(part))]
            parameters = [column for row in part for column in row]
            parameters += (None, *[0] * (len(table.columns) - 1)) * (size - len(part))
            self._write.execute(padded_insert_sql(table, size), parameters)

    def _purge_some(self, lane: Lane, up_to: int) -> tuple[int, Positions]:
        """One range of confirmed events, up to `up_to` itself."""
        with sqlite_file.translated(self._path):
            count = self._room.drop_deployed(self._positions, lane, up_to)
        return count, self._positions.copy()

    def _quietly(self, work: Callable[[], T]) -> T:
        with sqlite_file.translated(self._path):
            return work()

    def _tidy(self, now_ms: int) -> None:
        self._write.execute("DELETE FROM rpc WHERE state = 'DONE' AND expires_time < ?", (now_ms - 86_400_000,))

    def _write_back(self) -> None:
        """Out of the log into the file, which is then as short as its pages."""
        self._write.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _read_positions(self) -> None:
        """From the file: at start, and when the fate of a transaction is not known."""
        read = self._write.execute
        found = Positions()
        try:
            for lane, seq_id in read("SELECT lane, seq_id FROM cloud_event_cursor"):
                found.cursor[lane] = seq_id
            for lane in (0, 1):
                low, high = read(
                    "SELECT (SELECT min(seq_id) FROM cloud_event WHERE lane = ?1),"
                    " (SELECT max(seq_id) FROM cloud_event WHERE lane = ?1)",
                    (lane,),
                ).fetchone()
                found.last[lane] = max(high or 0, found.cursor[lane])
                found.first[lane] = found.last[lane] + 1 if low is None else low
            (found.parked,) = read("SELECT count(*) FROM cloud_event_parked").fetchone()
            setting = read("SELECT json FROM setting WHERE name = 'edge_identity'").fetchone()
        except sqlite3.OperationalError as error:
            log.debug("store: positions not read again: %s", error)
            return
        self._owner = identity_of(setting[0] if setting else None, SQLITE)
        self._positions = found

    def _read_series(self) -> None:
        read = self._write.execute
        for number, kind, entity_id, key in read("SELECT series_id, entity_type, entity_id, key FROM ts_kv_dictionary"):
            self._series.put(EntityId(kind, UUID(bytes=entity_id)), key, number)
        highest = read("SELECT value FROM sequence WHERE name = 'series'").fetchone()
        self._series.last_id = max(self._series.last_id, highest[0] if highest else 0)

    def _complain(self, count: int) -> None:
        self._counters.add("store.series_refused", count)
        if not self._has_complained:
            self._has_complained = True
            log.warning("store: too many telemetry keys: new ones are not kept locally (store.series_refused)")

    # ── in the reading thread ──

    def _load(self) -> Snapshot:
        with sqlite_file.translated(self._path):
            read = self._read.execute
            snapshot = Snapshot()
            for row in read(_ALL["device"]):
                snapshot.devices.append(device_of((UUID(bytes=row[0]), *row[1:3], _uuid(row[3]), *row[4:])))
            for row in read(_ALL["profile"]):
                snapshot.profiles.append(profile_of((UUID(bytes=row[0]), *row[1:4], _uuid(row[4]), row[5])))
            for kind, entity_id, scope, key, ts_ms, value_kind, value in read(_ALL["attribute"]):
                attribute = Attribute(ts_ms, decode_value(value_kind, value))
                snapshot.attributes.append((EntityId(kind, UUID(bytes=entity_id)), scope, key, attribute))
            for kind, key, text in read(f"SELECT type, key, json FROM entity WHERE type NOT IN ({DOCUMENTS})"):
                snapshot.entities.append((kind, key, decode_json(text)))
            statement = f"SELECT type, key, length(json) FROM entity WHERE type IN ({DOCUMENTS})"
            snapshot.documents = read(statement).fetchall()
            snapshot.local = read("SELECT kind, key, body FROM local_item").fetchall()
            for name, text in read("SELECT name, json FROM setting"):
                snapshot.settings[name] = decode_json(text)
            statement = f"SELECT {','.join(tables.RPC.columns)} FROM rpc WHERE state != 'DONE' ORDER BY expires_time"
            for request_uuid, device_id, state, expires_ms, text in read(statement):
                call = (UUID(bytes=request_uuid), UUID(bytes=device_id), state, expires_ms, decode_json(text))
                snapshot.open_rpcs.append(call)
            statement = "SELECT request_uuid FROM rpc WHERE state = 'DONE' ORDER BY expires_time DESC LIMIT ?"
            snapshot.finished_rpcs = [UUID(bytes=row[0]) for row in read(statement, (FINISHED_RPCS,))]
            return snapshot

    def _latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        with sqlite_file.translated(self._path):
            rows = self._read.execute(
                "SELECT d.key, l.ts, l.kind, l.value FROM ts_kv_dictionary d JOIN ts_kv_latest l USING (series_id)"
                " WHERE d.entity_type = ? AND d.entity_id = ?",
                (str(entity.type), entity.id.bytes),
            )
            return {key: (ts_ms, decode_value(kind, value)) for key, ts_ms, kind, value in rows}

    def _history(self, sql: str, named: dict[str, int]) -> list[tuple[int, Value]]:
        with sqlite_file.translated(self._path):
            return [(ts_ms, decode_value(kind, value)) for ts_ms, kind, value in self._read.execute(sql, named)]

    def _summary(self, named: dict[str, int]) -> Summary:
        with sqlite_file.translated(self._path):
            count, wholes, upper, lower, *rest = self._read.execute(_SUMMARY, named).fetchone()
        total = ((upper << 32) + lower) if wholes else 0
        return summary_of(count, wholes, total, *rest)


@contextlib.asynccontextmanager
async def open_sqlite(
    config: SqliteConfig, state_dir: Path, clock: Clock, counters: Counters
) -> AsyncIterator[SqliteStore]:
    """The store on its file; closed at the end of the block.

    Raises:
        ConfigError: No rights; RefusedError: another gateway uses the file.
    """
    path = config.path or state_dir / "gateway.db"
    descriptor = sqlite_file.lock(path)
    try:
        connection = sqlite_file.open_writer(config, path, counters)
        store = SqliteStore(config, path, clock, counters, (connection, sqlite_file.open_reader(path)))
        try:
            yield store
        finally:
            await store.close()
    finally:
        os.close(descriptor)


def _uuid(value: bytes | None) -> UUID | None:
    return None if value is None else UUID(bytes=value)
