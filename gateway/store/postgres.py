"""PostgreSQL: one schema, one writing connection, one reading connection.

The writer holds an advisory lock, so that a schema has one gateway. Whenever the writing connection is made
anew, positions and series are read from the database again: the fate of the last transaction may be unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from gateway.config import PostgresStore as PostgresConfig
from gateway.domain.changes import UnitOfWork
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Attribute, Summary, Value
from gateway.errors import ConfigError, RefusedError, RejectedError, TransientError
from gateway.ports import FINISHED_RPCS, Clock, CloudEvents, Snapshot, StoreUse
from gateway.store import tables
from gateway.store.lanes import Lanes, Positions
from gateway.store.plan import SLOT_MS, Dialect, Owner, Plan, identity_of
from gateway.store.postgres_events import PostgresEvents
from gateway.store.postgres_room import PostgresRoom
from gateway.store.postgres_text import decode_columns, encode_columns, escape, unescape
from gateway.store.series import Series
from gateway.store.sqlite_file import migrations
from gateway.store.tables import DOCUMENTS, Table, delete_sql, forget_sql, insert_sql, park_sql, parked_away_sql
from gateway.store.values import decode_json, device_of, profile_of, summary_of, uuid_or_none
from gateway.supervise import Counters

log = logging.getLogger(__name__)
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_VALUE: Final = ("long_v", "dbl_v", "str_v")
POSTGRES: Final = Dialect(
    uuid=uuid_or_none,
    blob=uuid_or_none,
    text=escape,
    value=encode_columns,
    attribute=tables.attribute_table(_VALUE),
    latest=tables.latest_table(_VALUE),
    history=tables.history_table(_VALUE),
    is_plain=False,
)
COPY_FROM: Final = 24
"""From so many rows on, COPY is faster than parameters (measured)."""
LARGEST_STATEMENT: Final = 64
LOCK_WAIT_S: Final = 5.0
"""A gateway that was killed holds its lock until the server notices."""
_HISTORY: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT min(slot) FROM ts_kv WHERE slot >= %(first)s
    UNION ALL
    SELECT (SELECT min(slot) FROM ts_kv WHERE slot > slots.slot) FROM slots WHERE slots.slot < %(last)s
)
SELECT h.ts, h.kind, h.long_v, h.dbl_v, h.str_v FROM slots JOIN ts_kv h
ON h.slot = slots.slot AND h.series_id = %(series)s AND h.ts >= %(from_ms)s AND h.ts < %(to_ms)s
ORDER BY h.slot, h.ts LIMIT %(limit)s
"""
_NEWEST: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT max(slot) FROM ts_kv WHERE slot <= %(last)s
    UNION ALL
    SELECT (SELECT max(slot) FROM ts_kv WHERE slot < slots.slot) FROM slots WHERE slots.slot > %(first)s
)
SELECT h.ts, h.kind, h.long_v, h.dbl_v, h.str_v FROM slots JOIN ts_kv h
ON h.slot = slots.slot AND h.series_id = %(series)s AND h.ts >= %(from_ms)s AND h.ts < %(to_ms)s
ORDER BY h.slot DESC, h.ts DESC LIMIT %(limit)s
"""
_SUMMARY: Final = """
WITH RECURSIVE slots(slot) AS (
    SELECT min(slot) FROM ts_kv WHERE slot >= %(first)s
    UNION ALL
    SELECT (SELECT min(slot) FROM ts_kv WHERE slot > slots.slot) FROM slots WHERE slots.slot < %(last)s
)
SELECT count(*), count(whole), sum(whole), min(whole), max(whole), count(real), sum(real), min(real), max(real)
FROM (
    SELECT CASE WHEN h.kind = 1 THEN h.long_v END AS whole,
        CASE WHEN h.kind = 2 AND h.dbl_v <> 'NaN' THEN h.dbl_v END AS real
    FROM slots JOIN ts_kv h
    ON h.slot = slots.slot AND h.series_id = %(series)s AND h.ts >= %(from_ms)s AND h.ts < %(to_ms)s
) AS found
"""
_WIPE: Final = (
    "DELETE FROM cloud_event_gap WHERE entity_type=%s AND entity_id=%s",
    "DELETE FROM attribute WHERE entity_type=%s AND entity_id=%s",
    "DELETE FROM ts_kv_latest WHERE series_id IN"
    " (SELECT series_id FROM ts_kv_dictionary WHERE entity_type=%s AND entity_id=%s)",
    "DELETE FROM ts_kv_dictionary WHERE entity_type=%s AND entity_id=%s",
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver as errors of the house; a programming error goes through."""
    try:
        yield
    except (
        psycopg.DataError,
        psycopg.IntegrityError,
        psycopg.NotSupportedError,
        psycopg.errors.ProgramLimitExceeded,  # a kind of OperationalError, and yet it never passes
        UnicodeEncodeError,
    ) as error:
        raise RejectedError(f"the database does not take it: {_said(error)}") from error
    except psycopg.ProgrammingError as error:
        if error.sqlstate not in (None, psycopg.errors.DatatypeMismatch.sqlstate):
            raise
        # A value of a type that the column does not take: no other unit may fall with it.
        raise RejectedError(f"the database does not take it: {_said(error)}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
        text = " ".join(str(error).split())  # the driver's own has several lines
        raise TransientError(f"PostgreSQL: {text or type(error).__name__}") from error


class PostgresStore:
    """Port `Store` on one schema. Opened by `open_postgres`."""

    def __init__(self, config: PostgresConfig, clock: Clock, counters: Counters) -> None:
        self._config, self._clock, self._counters = config, clock, counters
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._write_lock, self._read_lock = asyncio.Lock(), asyncio.Lock()
        self._series = Series()
        self._owner = Owner(None, POSTGRES)
        self.positions = Positions()
        self.lanes = Lanes(self.positions)
        self.room = PostgresRoom(config, counters)
        self._events = PostgresEvents(self)
        self._has_complained = False

    # ── port ──

    @property
    def events(self) -> CloudEvents:
        """The queue's reading side."""
        return self._events

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        """One transaction."""
        async with self._write_lock:
            writer = await self._writing()
            plan = Plan(POSTGRES, self.positions, self._series, self._owner)
            plan.add(units)
            if self.room.is_wanted(plan):
                async with self._careful(writer):
                    moved = await self.room.make(writer, self.positions)
                plan.positions.first = moved.first[:]
                plan.positions.cursor = [max(pair) for pair in zip(plan.positions.cursor, moved.cursor, strict=True)]
                self.room.admit(plan)
            now_ms = self._clock.now_ms()
            async with self._careful(writer):
                announced = await self.room.announce(writer, plan, now_ms)
                await self._transact(writer, plan, announced)
            if announced:
                self.room.gaps.announced(len(announced), now_ms)
            plan.follow()
            self._owner, self.positions = plan.owner, plan.positions
            self.room.written(plan)
            self.lanes.publish(self.positions.copy())
            if plan.refused_series:
                self._complain(plan.refused_series)

    async def load(self) -> Snapshot:
        """Everything that is kept in memory."""
        snapshot = Snapshot()
        for row in await self.fetch(f"SELECT {','.join(tables.DEVICE.columns)} FROM device"):
            snapshot.devices.append(device_of(_unescaped(row)))
        for row in await self.fetch(f"SELECT {','.join(tables.PROFILE.columns)} FROM profile"):
            snapshot.profiles.append(profile_of(_unescaped(row)))
        for kind, entity_id, scope, key, ts_ms, *value in await self.fetch(
            "SELECT entity_type, entity_id, scope, key, ts, kind, long_v, dbl_v, str_v FROM attribute"
        ):
            attribute = Attribute(ts_ms, decode_columns(*value))
            snapshot.attributes.append((EntityId(kind, entity_id), scope, unescape(key), attribute))
        for kind, key, text in await self.fetch(f"SELECT type, key, json FROM entity WHERE type NOT IN ({DOCUMENTS})"):
            snapshot.entities.append((kind, unescape(key), decode_json(text)))
        statement = f"SELECT type, key, length(json) FROM entity WHERE type IN ({DOCUMENTS})"
        snapshot.documents = [(row[0], unescape(row[1]), row[2]) for row in await self.fetch(statement)]
        snapshot.local = [
            (unescape(kind), unescape(key), bytes(body))
            for kind, key, body in await self.fetch("SELECT kind, key, body FROM local_item")
        ]
        for name, text in await self.fetch("SELECT name, json FROM setting"):
            snapshot.settings[unescape(name)] = decode_json(text)
        for *call, text in await self.fetch(
            f"SELECT {','.join(tables.RPC.columns)} FROM rpc WHERE state <> 'DONE' ORDER BY expires_time"
        ):
            snapshot.open_rpcs.append((call[0], call[1], call[2], call[3], decode_json(text)))
        statement = "SELECT request_uuid FROM rpc WHERE state = 'DONE' ORDER BY expires_time DESC LIMIT %s"
        snapshot.finished_rpcs = [row[0] for row in await self.fetch(statement, (FINISHED_RPCS,))]
        return snapshot

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Latest telemetry of one entity."""
        rows = await self.fetch(
            "SELECT d.key, l.ts, l.kind, l.long_v, l.dbl_v, l.str_v FROM ts_kv_dictionary d"
            " JOIN ts_kv_latest l USING (series_id) WHERE d.entity_type = %s AND d.entity_id = %s",
            (str(entity.type), entity.id),
        )
        return {unescape(key): (ts_ms, decode_columns(*value)) for key, ts_ms, *value in rows}

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """See `Store`."""
        named = self._interval(entity, key, from_ms, to_ms)
        if named is None:
            return []
        rows = await self.fetch(_NEWEST if newest_first else _HISTORY, {**named, "limit": limit})
        return [(ts_ms, decode_columns(*value)) for ts_ms, *value in rows]

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """See `Store`."""
        named = self._interval(entity, key, from_ms, to_ms)
        if named is None:
            return Summary()
        ((count, wholes, total, *rest),) = await self.fetch(_SUMMARY, named)
        return summary_of(count, wholes, int(total or 0), *rest)

    def _interval(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> dict[str, int] | None:
        series_id = self._series.by_entity.get(entity, {}).get(key)
        if series_id is None:
            return None
        slots = {"first": from_ms // SLOT_MS, "last": to_ms // SLOT_MS}
        return {"series": series_id, "from_ms": from_ms, "to_ms": to_ms, **slots}

    async def use(self) -> StoreUse:
        """About; from memory."""
        return StoreUse(used_bytes=self.room.used_bytes(), limit_bytes=self._config.max_bytes)

    async def maintain(self) -> None:
        """Old history, old confirmed events, finished calls; the server's own vacuum gives space back."""
        await self._events.purge(self._config.keep_deployed)
        now_ms = self._clock.now_ms()
        oldest_slot = (now_ms - self._config.history_days * 86_400_000) // SLOT_MS
        while await self._drop_history(oldest_slot):
            pass
        async with self._write_lock:
            writer = await self._writing()
            async with self._careful(writer):
                await writer.execute(
                    "DELETE FROM rpc WHERE state = 'DONE' AND expires_time < %s", (now_ms - 86_400_000,)
                )
                await self.room.measure(writer)

    async def close(self) -> None:
        """Closes both connections."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                await connection.close()

    # ── for the queue's reading side ──

    async def fetch(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """Rows, by the reading connection; a lost one is made anew once."""
        async with self._read_lock:
            for is_last in (False, True):
                try:
                    with translated():
                        if self._reader is None or self._reader.closed:
                            self._reader = await self._connect()
                        cursor = await self._reader.execute(statement, values)
                        return await cursor.fetchall()
                except TransientError:
                    if self._reader is not None:
                        await self._reader.close()
                        self._reader = None
                    if is_last:
                        raise
            return []

    async def purge_some(self, lane: int, up_to: int) -> int:
        """One range of confirmed events; how many went."""
        async with self._write_lock:
            writer = await self._writing()
            async with self._careful(writer):
                count = await self.room.drop_deployed(writer, self.positions, lane, up_to)
            self.lanes.publish(self.positions.copy())
            return count

    # ── writing ──

    async def open(self) -> None:
        """Connect both ways.

        Raises:
            RefusedError: Another gateway uses the schema; TransientError: the server does not answer.
        """
        is_in_use = False
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                while True:
                    try:
                        await self._writing()
                        break
                    except _SchemaInUse:
                        is_in_use = True
                        await asyncio.sleep(0.2)
        except TimeoutError:
            if not is_in_use:
                raise TransientError(f"PostgreSQL: no answer within {LOCK_WAIT_S:g} s") from None
            raise RefusedError(
                f"schema {self._config.schema_name!r} is in use by another gateway; give this one its own"
                " store.schema_name"
            ) from None
        with translated():
            self._reader = await self._connect()

    async def _drop_history(self, before_slot: int) -> int:
        async with self._write_lock:
            writer = await self._writing()
            async with self._careful(writer):
                return await self.room.drop_history(writer, before_slot)

    async def _writing(self) -> Connection:
        """The writing connection; a new one takes the lock, brings the schema up to date, reads positions."""
        if self._writer is not None and not self._writer.closed:
            return self._writer
        with translated():
            writer = await self._connect()
            try:
                cursor = await writer.execute(
                    "SELECT pg_try_advisory_lock(hashtextextended(%s, 7406))", (self._config.schema_name,)
                )
                row = await cursor.fetchone()
                if row is None or not row[0]:
                    raise _SchemaInUse(f"schema {self._config.schema_name!r} is in use by another gateway")
                await self._migrate(writer)
                await self._read_state(writer)
                await self.room.count(writer)
            except BaseException:
                await writer.close()
                raise
        self._writer = writer
        self.lanes.publish(self.positions.copy())
        return writer

    async def _connect(self) -> Connection:
        schema = self._config.schema_name
        connection = await psycopg.AsyncConnection.connect(
            self._config.url.get_secret_value(),
            autocommit=True,
            prepare_threshold=2,
            connect_timeout=5,
            options=f"-c search_path={schema} -c synchronous_commit=on -c client_min_messages=warning",
            application_name="edge-gateway",
        )
        connection.prepared_max = 200
        return connection

    @contextlib.asynccontextmanager
    async def _careful(self, writer: Connection) -> AsyncIterator[None]:
        """When anything but a refusal ends the block, the connection goes, and with it every assumption."""
        try:
            with translated():
                yield
        except RejectedError:
            raise
        except BaseException:
            self._writer = None
            with contextlib.suppress(psycopg.Error, OSError):
                await writer.close()
            raise

    async def _transact(self, writer: Connection, plan: Plan, announced: list[tuple[Any, ...]]) -> None:
        async with writer.transaction(), writer.cursor() as cursor:
            for entity in plan.wiped:
                for statement in _WIPE:
                    await cursor.execute(statement, (str(entity.type), entity.id))
            for table, key in plan.deletions():
                await cursor.execute(delete_sql(table, "%s"), key)
            await self._unpark(cursor, plan, plan.replaced)
            for table, rows in plan.rows():
                if table is POSTGRES.history and len(rows) > 1:
                    rows = list({row[:3]: row for row in rows}.values())
                await self._insert(cursor, table, rows)
                if table is tables.PARKED:
                    plan.positions.parked += len(rows)
                    plan.other_rows += len(rows)
            for one in plan.parkings:
                span = (one.lane, one.low, one.high)
                await cursor.execute(park_sql("%s"), (one.reason, one.parked_ms, *span))
                plan.positions.parked += cursor.rowcount
                await cursor.execute(parked_away_sql("%s"), span)
            await self._unpark(cursor, plan, plan.dropped)
            for place in plan.forgotten:
                await cursor.execute(forget_sql("%s"), place)
                plan.other_rows -= cursor.rowcount
            await self.room.close_gaps(cursor, announced)

    async def _unpark(
        self, cursor: psycopg.AsyncCursor[tuple[Any, ...]], plan: Plan, places: Mapping[tuple[Any, ...], None]
    ) -> None:
        for place in places:
            await cursor.execute(delete_sql(tables.PARKED, "%s"), place)
            plan.positions.parked -= cursor.rowcount
            plan.other_rows -= cursor.rowcount

    async def _insert(
        self, cursor: psycopg.AsyncCursor[tuple[Any, ...]], table: Table, rows: Sequence[tuple[Any, ...]]
    ) -> None:
        if len(rows) >= COPY_FROM and table in _TYPES:
            await self._copy(cursor, table, rows)
            return
        done, size = 0, LARGEST_STATEMENT
        while done < len(rows):
            while size > len(rows) - done:
                size >>= 1
            parameters = [column for row in rows[done : done + size] for column in row]
            await cursor.execute(insert_sql(table, size, "%s"), parameters)
            done += size

    async def _copy(
        self, cursor: psycopg.AsyncCursor[tuple[Any, ...]], table: Table, rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Straight in when rows are only appended, else by way of a temporary table."""
        into, columns = table.name, ",".join(table.columns)
        if table.key:
            into = f"incoming_{table.name}"
            await cursor.execute(
                f"CREATE TEMPORARY TABLE IF NOT EXISTS {into} ON COMMIT DELETE ROWS AS"
                f" SELECT {columns} FROM {table.name} WITH NO DATA"
            )
        async with cursor.copy(f"COPY {into} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_TYPES[table])
            for row in rows:
                await copy.write_row(row)
        if table.key:
            await cursor.execute(
                f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {into}{tables.on_conflict(table)}"
            )

    async def _migrate(self, writer: Connection) -> None:
        schema = sql.Identifier(self._config.schema_name)
        cursor = await writer.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self._config.schema_name,))
        if await cursor.fetchone() is None:
            await writer.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        await writer.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY)")
        found = await (await writer.execute("SELECT coalesce(max(version), 0) FROM schema_version")).fetchone()
        version = found[0] if found else 0
        known = migrations("postgres")
        if version > known[-1][0]:
            raise ConfigError("store.url", f"schema written by a newer gateway ({version}, known here: {known[-1][0]})")
        for number, text in known:
            if number > version:
                async with writer.transaction():
                    await writer.execute(text)
                    await writer.execute("INSERT INTO schema_version VALUES (%s)", (number,))

    async def _read_state(self, writer: Connection) -> None:
        async def fetch(statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
            return await (await writer.execute(statement, values)).fetchall()

        found = Positions()
        for lane, seq_id in await fetch("SELECT lane, seq_id FROM cloud_event_cursor"):
            found.cursor[lane] = seq_id
        for lane in (0, 1):
            ((low, high),) = await fetch("SELECT min(seq_id), max(seq_id) FROM cloud_event WHERE lane = %s", (lane,))
            found.last[lane] = max(high or 0, found.cursor[lane])
            found.first[lane] = found.last[lane] + 1 if low is None else low
        ((found.parked,),) = await fetch("SELECT count(*) FROM cloud_event_parked")
        setting = await fetch("SELECT json FROM setting WHERE name = 'edge_identity'")
        series = Series()
        for number, kind, entity_id, key in await fetch(
            "SELECT series_id, entity_type, entity_id, key FROM ts_kv_dictionary"
        ):
            series.put(EntityId(kind, entity_id), unescape(key), number)
        highest = await fetch("SELECT value FROM sequence WHERE name = 'series'")
        series.last_id = max(series.last_id, highest[0][0] if highest else 0)
        self._owner = identity_of(setting[0][0] if setting else None, POSTGRES)
        self.positions, self._series = found, series

    def _complain(self, count: int) -> None:
        self._counters.add("store.series_refused", count)
        if not self._has_complained:
            self._has_complained = True
            log.warning("store: too many telemetry keys: new ones are not kept locally (store.series_refused)")


class _SchemaInUse(TransientError):
    """The advisory lock is held."""


_TYPED: Final = ("int2", "int8", "float8", "text")
_TYPES: Final[Mapping[Table, Sequence[str]]] = {
    tables.EVENT: ("int2", "int8", "uuid", "int8", "uuid", "uuid", "text", "uuid", "text", "text"),
    POSTGRES.history: ("int8", "int8", "int8", *_TYPED),
    POSTGRES.latest: ("int8", "int8", *_TYPED),
}


def _unescaped(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(unescape(column) if isinstance(column, str) else column for column in row)


@contextlib.asynccontextmanager
async def open_postgres(config: PostgresConfig, clock: Clock, counters: Counters) -> AsyncIterator[PostgresStore]:
    """The store on its schema; closed at the end of the block.

    Raises:
        ConfigError: Made by a newer gateway; RefusedError: in use; TransientError: no answer.
    """
    store = PostgresStore(config, clock, counters)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def _said(error: Exception) -> str:
    """The server's own sentence. Its detail and context are left out: they repeat the row, tokens included."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or type(error).__name__
