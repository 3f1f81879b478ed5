"""Shared attributes of a device on a bus that does not answer: the newest value once, when it is back."""

import asyncio

import pytest

from gateway.domain.changes import SaveAttributes
from gateway.domain.telemetry import AttributeScope
from gateway.errors import RejectedError, TransientError
from gateway.fieldbus import Fieldbus
from gateway.ports import AttributeNotice, Poll
from gateway.supervise import Counters
from tests.fakes.driver import FakeBus
from tests.fakes.house import House

AWAY = TransientError("unit A: no answer")
TREE = {"kind": "fake", "name": "line", "devices": [{"name": "A"}]}


class Away(FakeBus):
    """A unit that answers neither polls nor writes while it is away."""

    def __init__(self):
        super().__init__()
        self.plan = [Poll(key="A", every_s=1.0, unit="A")]
        self.values = {("A", "t"): 1}
        self.tries = 0
        self.is_mute = False  # answers polls, not writes

    async def write(self, command):
        self.tries += 1
        if "A" in self.broken or self.is_mute:
            raise AWAY
        return await super().write(command)


class Scene:
    def __init__(self):
        self.house, self.bus = House(), Away()
        self.device = self.house.add_device("A")
        self.task = None

    async def start(self):
        room = Fieldbus([TREE], self.house.inlet, self.house.clock, Counters(), plugins={"fake": self.bus.plugin})
        self.task = asyncio.create_task(room.serve())
        await self.house.clock.advance(2)

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])

    async def want(self, value):
        changes = [
            SaveAttributes(self.device.entity_id, AttributeScope.SHARED_SCOPE, self.house.clock.now_ms(), {"t": value})
        ]
        await self.house.pipeline.commit(changes)
        self.house.inlet.notify(AttributeNotice(self.device.entity_id, {"t": value}))
        await self.house.clock.advance(0)

    def written(self):
        return [write.value for write in self.bus.writes]


@pytest.fixture
async def scene():
    scene = Scene()
    await scene.start()
    yield scene
    await scene.stop()


async def test_the_newest_value_is_written_once_when_the_unit_answers_again(scene):
    scene.bus.broken["A"] = AWAY
    await scene.house.clock.advance(10)
    await scene.want(41)
    await scene.want(42)
    await scene.house.clock.advance(30)
    assert scene.written() == []
    del scene.bus.broken["A"]
    await scene.house.clock.advance(700)
    assert scene.written() == [42]


async def test_also_after_a_restart_in_between(scene):
    scene.bus.broken["A"] = AWAY
    await scene.house.clock.advance(10)
    await scene.want(42)
    await scene.stop()
    await scene.start()
    del scene.bus.broken["A"]
    await scene.house.clock.advance(700)
    assert scene.written() == [42]


async def test_a_unit_that_answers_polls_and_not_the_write_is_asked_more_and_more_rarely(scene):
    scene.bus.is_mute = True
    await scene.want(42)
    await scene.house.clock.advance(600)
    assert 3 <= scene.bus.tries <= 9
    scene.bus.is_mute = False
    await scene.house.clock.advance(700)
    assert scene.written() == [42]


async def test_what_the_device_refuses_is_not_tried_again(scene):
    async def refuse(command):
        scene.bus.tries += 1
        raise RejectedError("out of range")

    scene.bus.write = refuse
    await scene.want(42)
    await scene.house.clock.advance(700)
    assert scene.bus.tries == 1
