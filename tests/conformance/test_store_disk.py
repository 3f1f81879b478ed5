"""Bytes of the disk: a full one stops data of devices only, and what was needed for a backlog is given back."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from gateway.config import SqliteStore
from gateway.domain.changes import AppendEvent, MoveCursor, SaveSetting
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.store import open_store
from gateway.store.full import StoreFullError
from gateway.store.sqlite import SqliteStore as Store
from gateway.store.sqlite_file import LARGEST_BUDGET, budget_bytes
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock


def event(number: int, action: str = "TIMESERIES_UPDATED", lane: Lane = Lane.MAIN) -> AppendEvent:
    body = b'{"ts":%d,"data":{"x":"%s"}}' % (number, b"x" * 300)
    return AppendEvent(
        CloudEvent(type="DEVICE", action=action, entity_id=None, created_ms=number, body=body, lane=lane)
    )


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("gateway.db*") if file.suffix != ".reserve")


async def fill(store, portion: int) -> tuple[int, StoreFullError]:
    """Until it is full: how many events it has taken, and what it said."""
    for start in range(0, 100_000, portion):
        try:
            await store.commit([[event(n)] for n in range(start, start + portion)])
        except StoreFullError as full:
            return start, full
    raise AssertionError("never full")


async def test_the_file_is_short_again_after_a_drain(tmp_path: Path):
    async with open_store(SqliteStore(keep_deployed=1_000), tmp_path, FakeClock(), Counters()) as store:
        for start in range(0, 30_000, 2_000):
            await store.commit([[event(n)] for n in range(start, start + 2_000)])
        full = on_disk(tmp_path)
        await store.commit([[MoveCursor(Lane.MAIN, 30_000)]])
        for _ in range(2):  # minutes
            await store.maintain()
        size = (tmp_path / "gateway.db").stat().st_size
        await store.commit([[event(1)]])
        assert [one.created_ms for one in await store.events.peek(Lane.MAIN, 30_000, 9)] == [1]
    live = 1_000 * 440
    assert full > 12_000_000
    assert size < 1.2 * live + 64 * 4_096 + 100_000


async def test_the_budget_counts_the_log_and_is_a_part_of_what_is_free(tmp_path: Path):
    assert budget_bytes(SqliteStore(max_bytes=5_000_000), tmp_path / "gateway.db") == 5_000_000
    assert 0 < budget_bytes(SqliteStore(), tmp_path / "gateway.db") <= LARGEST_BUDGET
    async with open_store(SqliteStore(max_bytes=4_000_000), tmp_path, FakeClock(), Counters()) as store:
        await fill(store, 100)
        assert 2_500_000 < on_disk(tmp_path) - (tmp_path / "gateway.db-shm").stat().st_size <= 4_000_000


async def test_on_a_full_disk_calls_and_the_cursor_go_on_and_telemetry_waits(tmp_path: Path, monkeypatch):
    config = SqliteStore(max_bytes=16_000_000, keep_deployed=0)  # the disk is full long before
    reserve = tmp_path / "gateway.db.reserve"
    async with open_store(config, tmp_path, FakeClock(), Counters()) as store:
        assert isinstance(store, Store)
        assert reserve.stat().st_blocks * 512 >= 1_000_000
        monkeypatch.setattr("gateway.store.reserve.free_bytes", lambda folder: 0)
        store._write.execute("PRAGMA max_page_count = 300")
        count, full = await fill(store, 50)
        assert not full.is_hard
        assert not reserve.exists()
        store._write.execute("PRAGMA max_page_count = 500")  # what the reserve has freed
        for number in range(200):
            await store.commit([[event(number, "RPC_CALL", Lane.EXPRESS)], [SaveSetting("s", number)]])
        await store.commit([[MoveCursor(Lane.MAIN, count - 10)]])
        with pytest.raises(StoreFullError, match="disk is full"):
            await store.commit([[event(count)]])
        waiting = await store.events.peek(Lane.MAIN, count - 10, 1_000)
        assert [one.created_ms for one in waiting] == list(range(count - 10, count))
        monkeypatch.undo()
        store._write.execute("PRAGMA max_page_count = 100000")
        await store.commit([[event(count)]])
        assert reserve.exists()
        assert store.events.last(Lane.MAIN) == count + 1
    assert not reserve.exists()


async def test_without_anything_left_in_reserve_every_event_waits(tmp_path: Path, monkeypatch):
    async with open_store(SqliteStore(max_bytes=16_000_000), tmp_path, FakeClock(), Counters()) as store:
        assert isinstance(store, Store)
        monkeypatch.setattr("gateway.store.reserve.free_bytes", lambda folder: 0)
        store._write.execute("PRAGMA max_page_count = 300")
        await fill(store, 50)
        with pytest.raises(StoreFullError) as full:
            await store.commit([[event(n, "RPC_CALL", Lane.EXPRESS) for n in range(500)]])
        assert full.value.is_hard
        await store.commit([[MoveCursor(Lane.MAIN, 10)]])


async def test_a_file_that_cannot_shrink_does_not_stop_the_maintenance(tmp_path: Path):
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("CREATE TABLE before (x)")
    async with open_store(SqliteStore(keep_deployed=0), tmp_path, FakeClock(), Counters()) as store:
        await store.commit([[event(n)] for n in range(5_000)])
        await store.commit([[MoveCursor(Lane.MAIN, 5_000)]])
        async with asyncio.timeout(10):
            await store.maintain()
