"""A look at a store from outside, for `doctor`: never writes, never waits for the gateway that has it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config import SqliteStore, StoreConfig

_ANSWER_S: Final = 5.0
_PENDING: Final = """
SELECT coalesce(sum(CASE WHEN last > seen THEN last - seen ELSE 0 END), 0) FROM (
    SELECT (SELECT max(seq_id) FROM cloud_event WHERE lane = lanes.lane) AS last,
           coalesce((SELECT seq_id FROM cloud_event_cursor c WHERE c.lane = lanes.lane), 0) AS seen
    FROM (SELECT 0 AS lane UNION ALL SELECT 1) AS lanes
) AS depth
"""
_HELD: Final = """
SELECT count(*) > 0 FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND ((classid::bigint << 32) | objid::bigint) = hashtextextended(%s, 7406)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLook:
    """What can be seen. `pending` and `parked` are None when there is no store yet, or it cannot be read now."""

    where: str
    is_there: bool
    is_held: bool | None  # by a running gateway; None: cannot be known
    size_bytes: int = 0
    pending: int | None = None
    parked: int | None = None
    problem: str = ""


async def look(config: StoreConfig, state_dir: Path) -> StoreLook:
    """Never raises; what is wrong stands in `problem`."""
    if isinstance(config, SqliteStore):
        return await asyncio.to_thread(_look_at_file, config.path or state_dir / "gateway.db")
    return await _look_at_server(config.url.get_secret_value(), config.schema_name)


def _look_at_file(path: Path) -> StoreLook:
    try:
        if not path.exists():
            return StoreLook(where=str(path), is_there=False, is_held=False)
        size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    except OSError as error:
        return StoreLook(where=str(path), is_there=True, is_held=None, problem=error.strerror or str(error))
    is_held = _is_locked(Path(f"{path}.lock"))
    pending = parked = None
    problem = ""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2)) as connection:
            pending = int(connection.execute(_PENDING).fetchone()[0])
            parked = int(connection.execute("SELECT count(*) FROM cloud_event_parked").fetchone()[0])
    except sqlite3.Error as error:
        problem = " ".join(str(error).split())
    return StoreLook(
        where=str(path),
        is_there=True,
        is_held=is_held,
        size_bytes=size,
        pending=pending,
        parked=parked,
        problem=problem,
    )


def _is_locked(path: Path) -> bool | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _look_at_server(url: str, schema: str) -> StoreLook:
    try:
        import psycopg
    except ImportError:
        problem = "the driver is not installed: pip install 'edge-gateway[postgres]'"
        return StoreLook(where="PostgreSQL", is_there=False, is_held=None, problem=problem)
    try:
        async with (
            asyncio.timeout(_ANSWER_S),
            await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=3, options=f"-c search_path={schema}"
            ) as connection,
        ):
            held = await (await connection.execute(_HELD, (schema,))).fetchone()
            there = await (await connection.execute("SELECT to_regclass('cloud_event_cursor') IS NOT NULL")).fetchone()
            pending = parked = None
            if there and there[0]:
                row = await (await connection.execute(_PENDING)).fetchone()
                pending = int(row[0]) if row else None
                row = await (await connection.execute("SELECT count(*) FROM cloud_event_parked")).fetchone()
                parked = int(row[0]) if row else None
    except (psycopg.Error, OSError, TimeoutError) as error:
        text = " ".join(str(error).split()) or f"no answer within {_ANSWER_S:g} s"
        return StoreLook(where="PostgreSQL", is_there=False, is_held=None, problem=text)
    return StoreLook(
        where=f"PostgreSQL, schema {schema}",
        is_there=pending is not None,
        is_held=bool(held and held[0]),
        pending=pending,
        parked=parked,
    )
