"""Rules that wait for somebody: one receipt, order within the originator, nobody else waits; and timers."""

import asyncio

import pytest

from gateway.devices.held import MOST
from gateway.devices.ticking import Ticking
from gateway.domain.changes import SaveSetting
from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.ports import Outcome
from tests.fakes.house import House, settle

ONE, OTHER = (EntityId("DEVICE", House().add_device().id) for _ in range(2))


class AskingRules:
    """Messages with a `wait` in their body wait for the future of that name."""

    def __init__(self):
        self.asked: dict[str, asyncio.Future[None]] = {}

    def process(self, message, chain_id=None):
        name = str(message.data)
        if not name.startswith("wait"):
            return Outcome(changes=[SaveSetting(name, 1)])
        asked = self.asked[name] = asyncio.get_running_loop().create_future()

        async def ask():
            await asked
            return Outcome(changes=[SaveSetting(f"{name} answered", 1)])

        return Outcome(changes=[SaveSetting(name, 1)], waits=[ask])


def of(originator, body):
    return Message(type="T", originator=originator, data=body, metadata={}, ts_ms=1)


@pytest.fixture
async def house():
    house = House()
    house.rules = house.pipeline._rules = AskingRules()
    house.pipeline.intake = house.rules.process
    yield house
    await house.pipeline.close()


def stored(house):
    return [[change.name for change in unit] for unit in house.committer.units]


async def test_what_is_decided_later_is_one_unit_with_what_was_decided_at_once(house):
    receipt = house.pipeline.run([of(ONE, "a"), of(ONE, "wait"), of(ONE, "b")])
    await settle()
    assert stored(house) == []
    assert not receipt.done()
    house.rules.asked["wait"].set_result(None)
    await receipt
    assert stored(house) == [["a", "wait", "wait answered", "b"]]


async def test_the_same_originator_waits_behind_and_others_pass(house):
    first = house.pipeline.run([of(ONE, "wait")])
    second = house.pipeline.run([of(ONE, "b")])
    await house.pipeline.run([of(OTHER, "c")])
    await settle()
    assert stored(house) == [["c"]]
    assert not first.done()
    assert not second.done()
    house.rules.asked["wait"].set_result(None)
    await second
    assert first.done()
    assert stored(house) == [["c"], ["wait", "wait answered"], ["b"]]
    await house.pipeline.run([of(ONE, "d")])
    assert stored(house)[-1] == ["d"]
    assert not house.pipeline.held.last


async def test_two_that_wait_are_answered_in_order_though_the_second_knows_first(house):
    first = house.pipeline.run([of(ONE, "wait 1")])
    second = house.pipeline.run([of(ONE, "wait 2")])
    await settle()
    assert "wait 2" not in house.rules.asked
    house.rules.asked["wait 1"].set_result(None)
    await first
    await settle()
    house.rules.asked["wait 2"].set_result(None)
    await second
    assert stored(house) == [["wait 1", "wait 1 answered"], ["wait 2", "wait 2 answered"]]


async def test_what_the_cloud_wants_overtakes_and_changes_nothing_in_the_order_of_the_device(house):
    first = house.pipeline.run([of(ONE, "wait")])
    assert await house.pipeline.run([of(ONE, "order")], overtakes=True) is None
    asking = house.pipeline.run([of(ONE, "wait order")], overtakes=True)
    second = house.pipeline.run([of(ONE, "a")])
    house.rules.asked["wait order"].set_result(None)
    await asking
    await settle()
    assert not second.done()
    house.rules.asked["wait"].set_result(None)
    await asyncio.gather(first, second)
    assert [unit[-1] for unit in stored(house)] == ["order", "wait order answered", "wait answered", "a"]


async def test_closing_gives_no_receipt_and_stores_nothing(house):
    first = house.pipeline.run([of(ONE, "wait")])
    second = house.pipeline.run([of(ONE, "b")])
    await settle()
    await house.pipeline.close()
    await settle()
    assert first.cancelled()
    assert second.cancelled()
    assert stored(house) == []


async def test_so_many_may_wait_and_then_the_producers_do(house):
    for number in range(MOST):
        house.pipeline.run([of(EntityId("DEVICE", House().add_device().id) if number == 0 else ONE, "wait")])
    assert house.inlet.is_congested
    free = asyncio.ensure_future(house.inlet.wait_uncongested())
    await settle()
    assert not free.done()
    house.rules.asked["wait"].set_result(None)
    await settle()
    await asyncio.wait_for(free, 5)
    assert not house.inlet.is_congested


class FakeTimers:
    def __init__(self, clock):
        self._clock, self.due, self.on_earlier = clock, [], lambda: None

    @property
    def due_s(self):
        return min(self.due, default=float("inf"))

    def fire(self):
        if self.due_s > self._clock.monotonic_s():
            return None
        due_s = self.due_s
        self.due.remove(due_s)
        return Outcome(changes=[SaveSetting(f"at {due_s:g}", 1)])


async def test_timers_fire_in_order_and_an_earlier_one_is_heard(house):
    timers = FakeTimers(house.clock)
    ticking = Ticking(timers, house.pipeline, house.inlet, house.clock, house.counters)
    task = asyncio.create_task(ticking.serve())
    await settle()
    timers.due.append(10)
    timers.on_earlier()
    await house.clock.advance(5)
    timers.due += [6, 7]
    timers.on_earlier()
    await house.clock.advance(1.5)
    assert stored(house) == [["at 6"]]
    await house.clock.advance(10)
    assert stored(house) == [["at 6"], ["at 7"], ["at 10"]]
    task.cancel()
    await asyncio.wait([task])
