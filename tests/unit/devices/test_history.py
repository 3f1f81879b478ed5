"""Telemetry that is kept here goes up again."""

import asyncio
import contextlib

import orjson
import pytest

from gateway.devices import Pipeline, State, history
from gateway.devices.history import HistoryDesk
from gateway.devices.slices import Slices
from gateway.domain.again import HistoryOrder, moment_ms, moment_text
from gateway.domain.changes import AppendEvent, MoveCursor, SaveTelemetry
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import Device, time_uuid
from gateway.errors import RejectedError
from gateway.ports import Snapshot
from gateway.store import GroupCommitter, MemoryStore
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.house import FakeRules

PUMP = Device(id=time_uuid(), name="Pump", type="default", local_name="Pump")
DAY_MS = 86_400_000


class Shop:
    def __init__(self) -> None:
        self.clock, self.store, self.counters = FakeClock(), MemoryStore(), Counters()
        self.now_ms = self.clock.now_ms()
        self.committer = GroupCommitter(self.store, self.clock, self.counters)
        self.state = State(Snapshot(devices=[PUMP]))
        self.pipeline = Pipeline(FakeRules(), self.committer, self.state, self.counters)
        self.desk = HistoryDesk(
            self.store, self.state, Slices(self.pipeline, self.committer), self.clock, self.counters, 7
        )

    async def save(self, ts_ms, **values) -> None:
        await self.pipeline.commit([SaveTelemetry(PUMP.entity_id, ts_ms, values)])

    def order(self, first_ms, end_ms, *keys, place=None, device="Pump") -> HistoryOrder:
        return HistoryOrder(device=device, from_ms=first_ms, to_ms=end_ms, keys=keys, place=place)

    async def carry_out(self, *order) -> tuple[int, int]:
        done, count, place = 0, 0, None
        while True:
            answer = await self.desk.send(self.order(*order, place=place))
            assert answer.waits is None
            done, count, place = done + answer.done, count + 1, answer.place
            if place is None:
                return done, count

    async def queued(self) -> list[dict]:
        events = await self.store.events.peek(Lane.MAIN, 0, 100_000)
        assert {(one.type, one.action, one.entity_id) for one in events} <= {("DEVICE", "TIMESERIES_UPDATED", PUMP.id)}
        return [orjson.loads(one.body) for one in events]


@contextlib.asynccontextmanager
async def shop():
    one = Shop()
    serving = asyncio.create_task(one.committer.serve())
    try:
        yield one
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_one_event_for_each_time_stamp_with_all_its_keys():
    async with shop() as house:
        t = house.now_ms - 10_000
        await house.save(t, a=1, b="x")
        await house.save(t + 1, b=True)
        await house.save(t + 2, a=2.5)
        await house.save(t + 3, a=9)
        assert await house.carry_out(t, t + 3) == (3, 1)
        assert await house.queued() == [
            {"ts": t, "data": {"a": 1, "b": "x"}},
            {"ts": t + 1, "data": {"b": True}},
            {"ts": t + 2, "data": {"a": 2.5}},
        ]
        assert await house.carry_out(t, t + 3, "b") == (2, 1)
        assert (await house.queued())[3:] == [{"ts": t, "data": {"b": "x"}}, {"ts": t + 1, "data": {"b": True}}]
        assert await house.carry_out(t + 4, t + 9) == (0, 1)


@pytest.mark.parametrize("slice_values", [1, 2, 7, 100])
async def test_slices_of_any_size_give_every_value_once_and_in_order(monkeypatch, slice_values):
    monkeypatch.setattr(history, "SLICE_VALUES", slice_values)
    async with shop() as house:
        t = house.now_ms - 100_000
        expected = []
        for n in range(60):
            values = {key: n for key, every in (("a", 1), ("b", 7), ("c", 3)) if n % every == 0}
            await house.save(t + n, **values)
            expected.append({"ts": t + n, "data": values})
        done, count = await house.carry_out(t, t + 10_000)
        assert done == 60
        assert await house.queued() == expected
        assert count >= 60 // slice_values


async def test_history_waits_while_the_queue_is_long(monkeypatch):
    monkeypatch.setattr(history, "PENDING_MOST", 3)
    async with shop() as house:
        await house.save(house.now_ms - 5, a=1)
        event = CloudEvent(type="DEVICE", action="ADDED", entity_id=PUMP.id, created_ms=1)
        await house.pipeline.commit([AppendEvent(event) for _ in range(4)])
        answer = await house.desk.send(house.order(house.now_ms - 10, house.now_ms))
        assert (answer.done, answer.waits) == (0, "4 events wait for the cloud")
        await house.pipeline.commit([MoveCursor(Lane.MAIN, 1)])
        answer = await house.desk.send(house.order(house.now_ms - 10, house.now_ms))
        assert (answer.done, answer.waits, answer.place) == (1, None, None)


async def test_an_order_that_cannot_be_carried_out_says_why():
    async with shop() as house:
        now_ms = house.now_ms
        await house.save(now_ms - 5, a=1, b=2)
        for order, message in (
            (house.order(1, now_ms, device="Pmup"), "device: there is no 'Pmup'"),
            (house.order(now_ms, now_ms), "is an empty range"),
            (house.order(1, now_ms - 7 * DAY_MS), r"to: .* is older than what is kept: store.history_days is 7, so"),
            (house.order(now_ms - 9, now_ms, "c"), "key: 'Pump' has no telemetry 'c'; it has: a, b"),
            (house.order(now_ms - 9, now_ms, place="?"), "place: '\\?'"),
        ):
            with pytest.raises(RejectedError, match=message):
                await house.desk.send(order)
        answer = await house.desk.send(house.order(now_ms - 8 * DAY_MS, now_ms))
        assert "history is kept for 7 days" in answer.note


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1714550400123", 1_714_550_400_123),
        ("2024-05-01T08:00:00.123Z", 1_714_550_400_123),
        ("2024-05-01T10:00:00.123+02:00", 1_714_550_400_123),
        ("2024-05-01 08:00:00.123", 1_714_550_400_123),
        ("2024-05-01", 1_714_521_600_000),
    ],
)
def test_moments(text, ms):
    assert moment_ms(text, "from") == ms
    assert moment_ms(moment_text(ms), "from") == ms


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "1e9", "9" * 30, "2024-13-01"])
def test_no_moments(text):
    with pytest.raises(RejectedError, match=r"from: .* is no moment"):
        moment_ms(text, "from")
