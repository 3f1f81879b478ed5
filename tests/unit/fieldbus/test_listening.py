"""Devices that speak unasked: what a `Listener` yields reaches the house beside polls and calls."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.domain.telemetry import TsKv
from gateway.errors import BusLost, TransientError
from gateway.fieldbus import Fieldbus
from gateway.ports import DriverPlugin, Heard, Poll, Query, Reading
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus, FakeConfig, _devices
from tests.unit.fieldbus.inlet import FakeHouse


class FakeListener(FakeBus):
    def __init__(self):
        super().__init__()
        self.plan = []
        self.heard = asyncio.Queue()
        self.taken = 0

    async def listen(self):
        while True:
            item = await self.heard.get()
            if isinstance(item, Exception):
                raise item
            self.taken += 1
            yield item

    def line(self):
        return {"frames": self.taken}

    def say(self, value, ts_ms=1):
        self.heard.put_nowait(Heard(unit="A", readings=[Reading(device="A", key="t", value=value, ts_ms=ts_ms)]))


@asynccontextmanager
async def listening(bus):
    house, clock, counters = FakeHouse("A"), FakeClock(), Counters()
    plugin = DriverPlugin(kind="fake", config=FakeConfig, open=bus._open, devices=_devices)
    room = Fieldbus([{"kind": "fake", "name": "line"}], house, clock, counters, plugins={"fake": plugin})
    task = asyncio.create_task(room.serve())
    await clock.advance(0)
    try:
        yield house, clock, counters, room
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_is_heard_reaches_the_session_and_calls_go_on():
    bus = FakeListener()
    async with listening(bus) as (house, clock, _, room):
        bus.say(5, ts_ms=7)
        await clock.advance(0)
        assert house.session("A").telemetry == [TsKv(7, {"t": 5})]
        status = room.status()[0]
        assert status["connected"]
        assert status["line"] == {"frames": 1}
        bus.values["A", "setpoint"] = 3
        request = room._buses[0].submit
        assert await request(Query(device="A", key="setpoint")) == 3


async def test_the_next_is_asked_for_when_the_one_before_is_durable():
    bus = FakeListener()
    async with listening(bus) as (house, clock, _, _room):
        house.is_slow = True
        bus.say(1)
        bus.say(2)
        await clock.advance(0)
        assert bus.taken == 1
        house.answer_receipts()
        await clock.advance(0)
        assert bus.taken == 2


async def test_silence_and_bad_frames_are_shown_and_end_by_themselves(caplog):
    bus = FakeListener()
    async with listening(bus) as (_, clock, counters, room):
        bus.say(1)
        for _ in range(2):
            bus.heard.put_nowait(Heard(unit="A", error=TransientError("A says nothing"), bad_frames=2, lost_readings=1))
        await clock.advance(0)
        assert room.status()[0]["units"][0]["last_error"] == "A says nothing"
        assert counters.get("fieldbus.bad_frames") == 4
        assert counters.get("fieldbus.readings_lost") == 2
        bus.heard.put_nowait(Heard(unit="A", error=BusLost("gone")))
        await clock.advance(0)
        assert room.status()[0]["last_error"] == "gone"
        bus.say(2)
        await clock.advance(0)
        assert room.status()[0]["last_error"] is None
        assert room.status()[0]["units"][0]["ok"]


async def test_a_bug_in_a_listener_ends_its_bus_alone_and_it_is_opened_again():
    bus = FakeListener()
    async with listening(bus) as (house, clock, counters, _):
        bus.heard.put_nowait(ZeroDivisionError())
        await clock.advance(0)
        await clock.advance(0)
        assert counters.get("fieldbus.driver_bugs") == 1
        await clock.advance(120)
        bus.say(9)
        await clock.advance(0)
        assert house.session("A").telemetry == [TsKv(1, {"t": 9})]


@pytest.mark.parametrize(("again_s", "reads"), [(1.0, 8), (None, 8)])
async def test_a_line_that_costs_nothing_to_try_is_tried_that_often(again_s, reads):
    bus = FakeBus()
    bus.plan = [Poll(key="A", every_s=0.1, unit="A")]
    bus.broken["A"] = BusLost("gone", again_s=again_s)
    async with listening(bus) as (_, clock, _, _):
        await clock.advance(10)
        assert (len(bus.reads) >= reads) is (again_s is not None)
