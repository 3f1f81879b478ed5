"""The fieldbus room and the device room together: what one posts the other takes, and calls find their way."""

import asyncio
from contextlib import asynccontextmanager

import orjson

from gateway.fieldbus import Fieldbus
from tests.fakes.driver import FakeBus
from tests.fakes.house import House


@asynccontextmanager
async def plant():
    async with House() as house:
        device = house.add_device("A")
        bus = FakeBus()
        bus.values = {("A", "setpoint"): 60}
        tree = {"kind": "fake", "devices": [{"name": "A"}]}
        room = Fieldbus([tree], house.inlet, house.clock, house.counters, plugins={"fake": bus.plugin})
        task = asyncio.create_task(room.serve())
        await house.clock.advance(0)
        try:
            yield house, device, bus
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_readings_become_events_in_their_order():
    async with plant() as (house, _, _):
        start = house.clock.now_ms()
        await house.clock.advance(2.0)
        bodies = [orjson.loads(event.body) for event in house.committer.events()]
        assert bodies == [{"ts": start + turn * 1000, "data": {"setpoint": 60}} for turn in range(3)]


async def test_a_call_from_the_cloud_is_answered_with_the_value_read_back():
    async with plant() as (house, device, bus):
        await house.commands.call_device(house.call(device, method="setpoint", params=65))
        await house.rpc_done()
        assert bus.values["A", "setpoint"] == 65
        (answer,) = house.answers()
        assert orjson.loads(answer["response"]) == {"result": {"value": 65}}


async def test_a_shared_attribute_from_the_cloud_is_written():
    async with plant() as (house, device, bus):
        await house.commands.update_attributes(
            device.entity_id, "SHARED_SCOPE", {"setpoint": 70, "other": 1}, house.clock.now_ms()
        )
        await house.clock.advance(0)
        assert [(write.key, write.value) for write in bus.writes] == [("setpoint", 70)]


async def test_a_deleted_device_ends_its_session_and_the_bus_goes_on():
    async with plant() as (house, device, bus):
        await house.commands.delete_device(device.id)
        await house.clock.advance(2.0)
        assert house.inlet.sessions() == {}
        assert len(bus.reads) == 3
        again = house.add_device("A")
        await house.clock.advance(1.0)
        assert list(house.inlet.sessions()) == [again.id]
