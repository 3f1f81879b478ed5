"""What only a file can do: be killed, damaged, locked, full; and how it is read."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from gateway.config import SqliteStore
from gateway.domain.changes import AppendEvent, MoveCursor, SaveSetting
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import time_uuid
from gateway.errors import ConfigError, RefusedError
from gateway.store import GroupCommitter, open_store
from gateway.store.sqlite import SqliteStore as Store
from gateway.store.sqlite_events import PEEK_SQL
from gateway.store.sqlite_room import ROUND_ROWS
from gateway.supervise import Counters, SystemClock
from tests.fakes.clock import FakeClock

CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.config import SqliteStore
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import CloudEvent
from gateway.store import GroupCommitter, open_store
from gateway.supervise import Counters, SystemClock

async def main(folder, start):
    async with open_store(SqliteStore(), folder, SystemClock(), Counters()) as store:
        committer = GroupCommitter(store, SystemClock(), Counters())
        serving = asyncio.create_task(committer.serve())
        async def one(lane):
            n = lane
            while True:
                event = CloudEvent(type="DEVICE", action="ADDED", entity_id=None, created_ms=start + n, body=b"%d" % n)
                await committer.submit([AppendEvent(event)])
                sys.stdout.write(f"{start + n}\\n"); sys.stdout.flush()
                n += 20
        await asyncio.gather(*(one(lane) for lane in range(20)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def event(number: int) -> AppendEvent:
    return AppendEvent(CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=None, created_ms=number))


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path):
    rng = random.Random(7)
    acknowledged: list[int] = []
    for turn in range(10):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(tmp_path), str(turn * 1_000_000), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        lines = [await asyncio.wait_for(child.stdout.readline(), 20)]
        killing = asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.15), child.send_signal, signal.SIGKILL)
        lines += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        killing.cancel()
        assert child.returncode == -signal.SIGKILL
        acknowledged += [int(line) for line in lines if line.endswith(b"\n")]
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        found: list[int] = []
        seq_ids: list[int] = []
        while portion := await store.events.peek(Lane.MAIN, len(found), 5_000):
            found += [one.created_ms for one in portion]
            seq_ids += [one.seq_id for one in portion]
    assert seq_ids == list(range(1, len(found) + 1))
    assert len(set(found)) == len(found)
    assert len(acknowledged) > 100
    assert not set(acknowledged) - set(found)


async def test_a_full_disk_waits_and_recovers(tmp_path: Path):
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        assert isinstance(store, Store)
        clock, counters = FakeClock(), Counters()
        committer = GroupCommitter(store, clock, counters)
        serving = asyncio.create_task(committer.serve())
        await committer.submit([event(0)])
        store._write.execute("PRAGMA max_page_count = 40")
        receipts = [committer.submit([event(n), SaveSetting(str(n), "x" * 500)]) for n in range(1, 1_000)]
        async with asyncio.timeout(10):
            while not counters.get("committer.outages"):
                await asyncio.sleep(0.001)
        assert not receipts[0].done()
        store._write.execute("PRAGMA max_page_count = 1000000")
        async with asyncio.timeout(20):
            while not receipts[-1].done():
                await clock.advance(1)
                await asyncio.sleep(0.005)
        serving.cancel()
        await asyncio.wait([serving])
        seen = await store.events.peek(Lane.MAIN, 0, 5_000)
        assert [one.created_ms for one in seen] == list(range(1_000))


@pytest.mark.parametrize("damage", ["text", "page"])
async def test_a_damaged_file_is_put_aside_and_said_so(tmp_path: Path, caplog, damage: str):
    path = tmp_path / "gateway.db"
    if damage == "text":
        path.write_text("this is no database, it is a text of some length " * 100)
    else:
        async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
            await store.commit([[event(n)] for n in range(5_000)])
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(20_000))
    before = path.read_bytes()
    counters = Counters()
    with caplog.at_level(logging.ERROR):
        async with open_store(SqliteStore(), tmp_path, FakeClock(), counters) as store:
            await store.commit([[event(1)]])
            last = store.events.last(Lane.MAIN)
            assert last == (1 if damage == "text" else 5_001)
    (kept,) = tmp_path.glob("gateway.db.damaged-*Z")
    assert kept.read_bytes() == before
    assert counters.get("store.quarantined") == 1
    assert "is damaged" in caplog.text


async def test_damage_found_while_running_is_put_aside_at_the_next_start(tmp_path: Path):
    path = tmp_path / "gateway.db"
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        await store.commit([[event(n)] for n in range(20_000)])
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        size = path.stat().st_size
        with path.open("r+b") as file:
            for place in range(40_960, size - 8_192, 4_096):
                file.seek(place)
                file.write(b"\xff" * 4_096)
        with pytest.raises(sqlite3.DatabaseError):
            await store.events.peek(Lane.MAIN, 0, 20_000)
    counters = Counters()
    async with open_store(SqliteStore(), tmp_path, FakeClock(), counters) as store:
        assert store.events.last(Lane.MAIN) == 0
    assert counters.get("store.quarantined") == 1


async def test_one_gateway_per_file(tmp_path: Path):
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
        with pytest.raises(RefusedError, match="another gateway"):
            async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
                pass
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
        pass


async def test_files_are_for_the_gateway_alone(tmp_path: Path):
    folder = tmp_path / "state"
    async with open_store(SqliteStore(), folder, FakeClock(), Counters()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes["gateway.db"] == modes["gateway.db-wal"] == modes["gateway.db.lock"] == 0o600


async def test_a_path_that_is_no_file_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "gateway.db").mkdir()
    with pytest.raises(ConfigError, match=r"store\.path"):
        async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"store\.path"):
        async with open_store(SqliteStore(), tmp_path / "file", FakeClock(), Counters()):
            pass


async def test_a_newer_schema_is_refused(tmp_path: Path):
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="newer"):
        async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()):
            pass


async def test_a_database_locked_by_somebody_else_is_an_outage_only(tmp_path: Path):
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        assert isinstance(store, Store)
        store._write.execute("PRAGMA busy_timeout = 20")
        committer = GroupCommitter(store, SystemClock(), Counters())
        serving = asyncio.create_task(committer.serve())
        with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            receipt = committer.submit([event(1)])
            done, _ = await asyncio.wait([receipt], timeout=0.15)
            assert not done
            other.execute("ROLLBACK")
            await asyncio.wait_for(receipt, 10)
        serving.cancel()
        await asyncio.wait([serving])
        assert store.events.last(Lane.MAIN) == 1


async def test_reading_and_purging_use_the_primary_key(durable):
    if durable.kind != "sqlite":
        plan = "EXPLAIN SELECT * FROM cloud_event WHERE lane = 0 AND seq_id > 40000 ORDER BY seq_id LIMIT 100"
        async with durable.open() as store:
            await store.commit([[event(n)] for n in range(20_000)])
            durable.sql("SELECT 1")
            text = str(durable.sql(plan))
        assert "cloud_event_pkey" in text
        return
    async with durable.open() as store:
        await store.commit([[event(n)] for n in range(10)])
        with contextlib.closing(sqlite3.connect(durable.folder / "gateway.db")) as connection:
            peek = str(connection.execute(f"EXPLAIN QUERY PLAN {PEEK_SQL}", (0, 5, 10)).fetchall())
            purge = str(
                connection.execute(
                    "EXPLAIN QUERY PLAN DELETE FROM cloud_event WHERE lane = 0 AND seq_id BETWEEN 1 AND 9"
                ).fetchall()
            )
            old = str(
                connection.execute(
                    "EXPLAIN QUERY PLAN DELETE FROM ts_kv WHERE (slot, series_id, ts) < (1, 2, 3)"
                ).fetchall()
            )
    assert "SEARCH cloud_event USING PRIMARY KEY (lane=? AND seq_id>?)" in peek
    assert "TEMP B-TREE" not in peek
    assert "USING PRIMARY KEY (lane=? AND seq_id>? AND seq_id<?)" in purge
    assert "USING PRIMARY KEY" in old


async def test_a_purge_of_many_lets_commits_in_between(tmp_path: Path):
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        await store.commit([[event(n)] for n in range(3 * ROUND_ROWS)])
        await store.commit([[MoveCursor(Lane.MAIN, 3 * ROUND_ROWS)]])
        purging = asyncio.create_task(store.events.purge(0))
        await asyncio.sleep(0)
        await store.commit([[event(1)]])
        assert not purging.done()
        assert await purging == 3 * ROUND_ROWS
        assert [one.seq_id for one in await store.events.peek(Lane.MAIN, 0, 9)] == [3 * ROUND_ROWS + 1]


async def test_time_uuid_of_an_event_is_kept(tmp_path: Path):
    one = CloudEvent(type="EDGE", action="ADDED", entity_id=None, created_ms=1, id=time_uuid())
    async with open_store(SqliteStore(), tmp_path, FakeClock(), Counters()) as store:
        await store.commit([[AppendEvent(one)]])
        ((found, _),) = await store.events.find(None, 1)
    assert found.id == one.id
