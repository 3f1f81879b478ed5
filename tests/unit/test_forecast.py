"""How long it lasts and how long it takes: the forecast against what then happens."""

import asyncio
from pathlib import Path

import pytest

from gateway.config import SqliteStore
from gateway.domain.changes import AppendEvent, MoveCursor
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.health import Forecast, written_bytes
from gateway.ports import StoreUse
from gateway.store import MemoryStore, open_store
from gateway.store.full import StoreFullError
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock


def event(number: int) -> AppendEvent:
    body = b'{"ts":%d,"data":{"temperature":%d}}' % (number, number)
    return AppendEvent(
        CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=None, created_ms=number, body=body)
    )


async def test_the_hours_left_are_right_when_the_store_is_full_then(tmp_path: Path):
    clock = FakeClock()
    async with open_store(SqliteStore(max_bytes=8_000_000), tmp_path, clock, Counters()) as store:
        forecast = Forecast(store, clock)
        count, told = 0, 0.0
        is_full = False
        while not is_full:
            await forecast.sample()
            try:
                await store.commit([[event(n)] for n in range(count, count + 200)])
            except StoreFullError:
                is_full = True
            count += 200
            await clock.advance(10)
            if clock.monotonic_s() == 300:
                told = 300 + forecast.status()["hours_left"] * 3_600
                assert forecast.status()["drain_s"] is None
                assert 100 < forecast.status()["event_bytes"] < 300
        assert told == pytest.approx(clock.monotonic_s(), rel=0.2)


async def test_the_time_of_a_drain_is_right_and_ends_with_it():
    clock, store = FakeClock(), MemoryStore()
    forecast = Forecast(store, clock)
    await store.commit([[event(n)] for n in range(40_000)])
    told = []
    for second in range(0, 400, 10):
        await forecast.sample()
        told.append((second, forecast.status()["drain_s"]))
        await store.commit([[MoveCursor(Lane.MAIN, min(40_000, (second + 10) * 100 + (second % 20) * 5))]])
        await clock.advance(10)
    for second, drain_s in told[2:]:
        assert second + drain_s == pytest.approx(400, rel=0.2)
    await forecast.sample()
    assert forecast.status()["drain_s"] == 0
    assert forecast.status()["hours_left"] is None


async def test_a_rate_that_changes_is_followed_within_the_window():
    class Growing(MemoryStore):
        used = 0

        async def use(self) -> StoreUse:
            return StoreUse(used_bytes=self.used, limit_bytes=3_600_000_000)

    clock, store = FakeClock(), Growing()
    forecast = Forecast(store, clock)
    assert forecast.gauges() == {}
    serving = asyncio.create_task(forecast.serve())
    for rate in (1_000, 100_000):
        for _ in range(60):
            await clock.advance(10)
            store.used += rate * 10
    serving.cancel()
    await asyncio.wait([serving])
    assert forecast.status()["fill_bytes_per_s"] == pytest.approx(100_000, rel=0.05)
    assert forecast.gauges()["store.hours_left"] == pytest.approx(10, rel=0.1)


def test_written_bytes_are_the_kernels(tmp_path: Path):
    (tmp_path / "io").write_text("rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 4096\ncancelled_write_bytes: 5\n")
    assert written_bytes(tmp_path / "io") == 4_096
    assert written_bytes(tmp_path / "none") is None
