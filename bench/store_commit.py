"""How many units a second reach the disk, by the size of their group, beside the raw database.

A unit is what one telemetry message causes: two values (latest and history) and one event. The raw peer writes
the same rows (event, two of history, two of latest) with `executemany` in one transaction, nothing else.
Limits to stand beside: 60,000 units/s at 1,000 a group on SQLite, 20,000 at 100.

    python -m bench.store_commit [sqlite] [postgres] [busy] [--profile]

`busy` runs a second thread that computes without a pause, as a loaded event loop does: it shows what sharing the
interpreter costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import pstats
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.config import PostgresStore, SqliteStore, StoreConfig
from gateway.domain.changes import AppendEvent, Change, SaveTelemetry
from gateway.domain.cloud_event import CloudEvent
from gateway.domain.entity import EntityId, time_uuid
from gateway.ports import Store
from gateway.store import GroupCommitter, open_store
from gateway.store.lanes import Positions
from gateway.store.plan import SQLITE, Owner, Plan
from gateway.store.series import Series
from gateway.store.tables import insert_sql
from gateway.supervise import Counters, SystemClock
from tests.conftest import new_server

DEVICES = [EntityId("DEVICE", time_uuid()) for _ in range(100)]
BODY = b'{"ts":1700000000000,"data":{"temperature":23.5,"humidity":41}}'
GROUPS = {1: 300, 10: 200, 100: 120, 1000: 40}


def unit(number: int) -> list[Change]:
    device, ts_ms = DEVICES[number % len(DEVICES)], 1_700_000_000_000 + number
    event = CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=device.id, created_ms=ts_ms, body=BODY)
    return [SaveTelemetry(device, ts_ms, {"temperature": 23.5, "humidity": 41}), AppendEvent(event)]


async def through_store(store: Store, size: int, count: int, first: int) -> float:
    groups = [[unit(first + n * size + k) for k in range(size)] for n in range(count)]
    started = time.perf_counter()
    for group in groups:
        await store.commit(group)
    return size * count / (time.perf_counter() - started)


def raw(folder: Path, size: int, count: int) -> float:
    """The same rows by `executemany`, prepared beforehand: what the database alone needs."""
    connection = sqlite3.connect(folder / f"raw-{size}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    schema = (Path(__file__).parent.parent / "gateway/store/sql/sqlite/001_schema.sql").read_text()
    connection.executescript(schema)
    prepared = []
    positions, series = Positions(), Series()
    for n in range(count):
        plan = Plan(SQLITE, positions, series, Owner(None, SQLITE))
        plan.add([unit(n * size + k) for k in range(size)])
        prepared.append([(insert_sql(table, 1, "?"), list(rows)) for table, rows in plan.rows()])
        plan.follow()
        positions = plan.positions
    started = time.perf_counter()
    for statements in prepared:
        connection.execute("BEGIN IMMEDIATE")
        for statement, rows in statements:
            connection.executemany(statement, rows)
        connection.execute("COMMIT")
    rate = size * count / (time.perf_counter() - started)
    connection.close()
    return rate


async def through_committer(store: Store, total: int) -> float:
    """As the gateway does it: 1,000 units in flight, each receipt brings the next."""
    committer = GroupCommitter(store, SystemClock(), Counters())
    serving = asyncio.create_task(committer.serve())
    units = [unit(n) for n in range(total)]
    started = time.perf_counter()
    for start in range(0, total, 1_000):
        for one in units[start : start + 1_000]:
            receipt = committer.submit(one)
        await receipt
    rate = total / (time.perf_counter() - started)
    serving.cancel()
    await asyncio.wait([serving])
    return rate


def submit_us() -> float:
    async def measure() -> float:
        committer = GroupCommitter(None, SystemClock(), Counters())  # type: ignore[arg-type]
        one = unit(1)
        started = time.perf_counter()
        for _ in range(20_000):
            committer.submit(one)
        spent = time.perf_counter() - started
        committer.close()
        return spent / 20_000 * 1e6

    return asyncio.run(measure())


@contextlib.contextmanager
def busy_thread(is_on: bool) -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(300))

    thread = threading.Thread(target=spin)
    if is_on:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if is_on:
            thread.join()


async def measure(title: str, config: StoreConfig, folder: Path, *, is_busy: bool, has_peer: bool) -> None:
    async with open_store(config, folder, SystemClock(), Counters()) as store:
        print(title)
        first = 0
        with busy_thread(is_busy):
            for size, count in GROUPS.items():
                count = max(10, count // 5) if is_busy else count
                rate = await through_store(store, size, count, first)
                first += size * count
                peer = raw(folder, size, count) if has_peer else 0.0
                beside = f"   raw executemany {peer:>9,.0f}   ratio {rate / peer:.2f}" if peer else ""
                print(f"  {size:>5} a group: {rate:>9,.0f} units/s{beside}")
        if not is_busy:
            print(f"  committer, 1,000 at a time: {await through_committer(store, 20_000):>9,.0f} units/s")


def profile_plan() -> None:
    """The pure part, which holds the interpreter: what is left is the database's."""
    groups = [[unit(n * 1_000 + k) for k in range(1_000)] for n in range(20)]
    profile = cProfile.Profile()
    series = Series()
    started = time.perf_counter()
    for group in groups:
        plan = Plan(SQLITE, Positions(), series, Owner(None, SQLITE))
        plan.add(group)
        plan.follow()
    print(f"folding a unit into rows: {(time.perf_counter() - started) / 20_000 * 1e6:.2f} µs")
    with profile:
        for group in groups:
            Plan(SQLITE, Positions(), series, Owner(None, SQLITE)).add(group)
    pstats.Stats(profile).sort_stats("tottime").print_stats(12)


def main() -> None:
    words = sys.argv[1:]
    wanted = {word for word in words if word in ("sqlite", "postgres", "busy")} or {"sqlite", "postgres", "busy"}
    folder = Path(tempfile.mkdtemp(prefix="edge-gateway-bench-"))
    try:
        print(f"submit: {submit_us():.2f} µs")
        if "sqlite" in wanted:
            asyncio.run(measure("SQLite, synchronous=FULL", SqliteStore(), folder, is_busy=False, has_peer=True))
        if "busy" in wanted:
            title = "SQLite beside a thread that computes"
            asyncio.run(measure(title, SqliteStore(), folder / "busy", is_busy=True, has_peer=False))
        if "postgres" in wanted:
            server = new_server()
            try:
                server.start(fsync=True)
                config = PostgresStore(kind="postgres", url=server.url)  # type: ignore[arg-type]
                asyncio.run(measure("PostgreSQL, fsync on", config, folder, is_busy=False, has_peer=False))
            finally:
                server.stop()
                shutil.rmtree(server.data.parent, ignore_errors=True)
        if "--profile" in words:
            profile_plan()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
