"""Calls and their deadlines: answered in time, also while the bus is busy, and never executed late."""

import asyncio

import pytest

from gateway.domain.rpc import RpcError
from gateway.errors import TransientError
from gateway.fieldbus.channel import CallExpired
from gateway.fieldbus.inbox import CALL_S
from gateway.ports import Write
from tests.unit.fieldbus.test_bus import Scene


async def test_an_expired_call_is_answered_while_the_bus_is_still_busy():
    scene = Scene()
    scene.bus.delay_s = 30.0
    async with scene.running():
        late, early = scene.call("t", 8, in_s=5.0), scene.call("t", 9, in_s=1.0)
        await scene.clock.advance(1.1)
        assert (await asyncio.wait_for(early, 1)).error is RpcError.TIMEOUT
        assert not late.done()
        await scene.clock.advance(4.0)
        assert (await asyncio.wait_for(late, 1)).error is RpcError.TIMEOUT
        await scene.clock.advance(60.0)
        assert scene.bus.writes == []
        assert scene.room.status()[0]["calls_waiting"] == 0


async def test_a_clock_that_is_set_neither_kills_a_call_nor_revives_it():
    scene = Scene()
    scene.bus.delay_s = 2.0
    async with scene.running():
        good = scene.call("t", 1, in_s=10.0)
        await scene.clock.advance(0)
        scene.clock._now_ms += 3_600_000
        await scene.clock.advance(5.0)
        assert (await asyncio.wait_for(good, 1)).error is None
        expired = scene.call("t", 2, in_s=1.0)
        await scene.clock.advance(0)
        scene.clock._now_ms -= 3_600_000
        await scene.clock.advance(10.0)
        assert (await asyncio.wait_for(expired, 1)).error is RpcError.TIMEOUT
        assert [write.value for write in scene.bus.writes] == [1]


async def test_a_shared_attribute_has_a_deadline_too(caplog):
    scene = Scene()
    scene.bus.delay_s = CALL_S + 5
    async with scene.running():
        scene.house.session("A").channel.send_attributes({"t": 42})
        await scene.clock.advance(CALL_S + 1)
        assert "shared attribute 't' is not written: line: the deadline passed" in caplog.text
        await scene.clock.advance(200.0)
        assert scene.bus.writes == []


async def test_hundreds_of_calls_leave_nothing_behind():
    scene = Scene()
    scene.bus.delay_s = 0.5
    async with scene.running():
        for _ in range(20):
            calls = [scene.room._buses[0].submit(Write(device="A", key="t", value=1)) for _ in range(5)]
            await scene.clock.advance(5.0)
            assert all(call.result() == 1 for call in calls)
        await scene.clock.advance(CALL_S * 2)
        assert scene.room._buses[0]._inbox._watch is None
        late = scene.room._buses[0].submit(Write(device="A", key="t", value=1), scene.clock.now_ms() - 1)
        await scene.clock.advance(0)
        assert isinstance(late.exception(), CallExpired)


async def test_a_bus_that_is_not_open_says_so():
    scene = Scene()
    scene.bus.open_error = TransientError("no")
    async with scene.running():
        future = scene.room._buses[0].submit(Write(device="A", key="t", value=1))
        with pytest.raises(TransientError, match="line: the bus is not open"):
            future.result()
