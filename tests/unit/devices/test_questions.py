"""Rounds of questions after an outage, and what is made of an update while a question is open."""

import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.devices import Refreshing
from gateway.devices.questions import GRACE_S, PATIENCE_S
from gateway.devices.refreshing import HOLD_S, MOST_UNANSWERED, PORTION
from gateway.domain.changes import SaveAttributes, SaveDevice, SaveTelemetry
from gateway.domain.cloud_event import Lane
from gateway.domain.entity import Device, EntityId, time_uuid
from gateway.domain.message import Message
from tests.fakes.house import FakeChannel, House, settle
from tests.fakes.link import FakeLink

SHARED, SERVER = "SHARED_SCOPE", "SERVER_SCOPE"


class Queue:
    """The queue's places; `confirm` is the cloud's word for all that stands in it."""

    def __init__(self, house: House) -> None:
        self._house, self._confirmed = house, 0

    def last(self, lane: Lane) -> int:
        return len(self._house.committer.events())

    def cursor(self, lane: Lane) -> int:
        return self._confirmed

    def confirm(self) -> None:
        self._confirmed = self.last(Lane.MAIN)


@asynccontextmanager
async def rounds(count=0, **options):
    """A house with devices of the cloud; its link is down at first."""
    async with House() as house:
        house.link, house.queue = FakeLink(is_up=False), Queue(house)
        house.inlet.questions.events = house.queue
        house.known = [Device(id=time_uuid(), name=f"d{n}", type="default", json={"n": n}) for n in range(count)]
        house.state.apply([SaveDevice(device) for device in house.known])
        refreshing = Refreshing(
            house.link, house.inlet.questions, house.pipeline, house.state, house.clock, house.counters
        )
        task = asyncio.create_task(refreshing.serve())
        yield house
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def asked(house):
    """The ids in each request, in order."""
    bodies = [orjson.loads(e.body) for e in house.committer.events() if e.action == "ATTRIBUTES_REQUEST" and e.body]
    return [[id_ for _, id_ in body["entities"]] for body in bodies]


async def answer(house, device, scope=SHARED, ts_ms=0, **values):
    await house.commands.update_attributes(device.entity_id, scope, values, ts_ms or house.clock.now_ms())


async def question(house, device):
    """One is open, and confirmed."""
    house.inlet.questions.opened([device.entity_id], house.pipeline.commit(()))
    await settle()
    assert house.inlet.questions.find(device.entity_id) is not None


# ── rounds ──


async def test_a_round_asks_for_everything_the_cloud_knows_and_waits_for_answers_before_it_asks_for_more():
    async with rounds(MOST_UNANSWERED + 2 * PORTION) as house:
        house.add_device("ours")  # the cloud has not taken it
        house.link.connect()
        await house.clock.advance(HOLD_S - 0.1)
        assert asked(house) == []
        await house.clock.advance(0.2)
        await house.clock.advance(60)
        assert len(asked(house)) == MOST_UNANSWERED // PORTION  # nothing is confirmed: nothing more
        house.queue.confirm()
        for device in house.known[:PORTION]:
            await answer(house, device, x=1)
        await house.clock.advance(0.2)
        assert len(asked(house)) == MOST_UNANSWERED // PORTION + 1
        await house.clock.advance(PATIENCE_S + 0.2)  # the others have no attributes
        house.queue.confirm()
        await house.clock.advance(PATIENCE_S + 0.2)
        assert [id_ for ids in asked(house) for id_ in ids] == [str(device.id) for device in house.known]
        assert {len(ids) for ids in asked(house)} == {PORTION}
        assert house.counters.get("devices.attribute_rounds") == 1
        await house.clock.advance(3600)
        assert house.inlet.questions.sweep() == 0
        assert house.pipeline.watched == {}
        assert len(asked(house)) == len(house.known) // PORTION  # once per connection


async def test_a_link_that_comes_and_goes_piles_up_no_requests_and_the_turn_goes_round():
    async with rounds(MOST_UNANSWERED + PORTION) as house:
        for _ in range(20):
            house.link.connect()
            await house.clock.advance(HOLD_S / 2)
            house.link.lose()
            await house.clock.advance(5)
        assert asked(house) == []
        for _ in range(20):  # long enough to ask, too short to be heard
            house.link.connect()
            await house.clock.advance(HOLD_S + 1)
            house.link.lose()
            await house.clock.advance(5)
        assert sum(map(len, asked(house))) == MOST_UNANSWERED + PORTION  # each once: it still waits in the queue
        house.link.connect()
        house.queue.confirm()
        await house.clock.advance(HOLD_S + 3)
        assert house.counters.get("devices.attribute_rounds") == 1
        assert sum(map(len, asked(house))) == MOST_UNANSWERED + PORTION
        before = len(asked(house))
        house.link.lose()
        await settle()
        house.link.connect()
        await house.clock.advance(HOLD_S + 0.1)
        assert len(asked(house)) == before + MOST_UNANSWERED // PORTION  # another outage: anew


async def test_assets_are_asked_for_and_who_was_just_asked_about_is_not():
    async with rounds() as house:
        asset = time_uuid()
        house.state._put_entity("ASSET", str(asset), {"name": "Hall"})
        json = {"name": "new", "type": "default"}
        await house.commands.put_device(time_uuid(), json)  # asks for its attributes itself
        house.link.connect()
        await house.clock.advance(HOLD_S + 0.1)
        assert asked(house) == [[str(asset)]]


# ── answers ──


async def test_unchanged_values_cause_nothing_and_changed_ones_are_pushed_once():
    async with rounds(1) as house:
        (device,) = house.known
        house.add_attributes(device, SHARED, same=1, other={"a": [1]}, flag=True)
        channel = FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        await question(house, device)
        before = len(house.committer.units)
        await house.clock.advance(1)
        await answer(house, device, same=1, other={"a": [1]}, flag=True)
        assert len(house.committer.units) == before
        assert (house.rules.seen, channel.attributes) == ([], [])
        await answer(house, device, same=2, other={"a": [1]}, flag=1)
        await answer(house, device, same=2, other={"a": [1]}, flag=1, ts_ms=house.clock.now_ms() + 1)  # once more
        assert channel.attributes == [{"same": 2, "flag": 1}]
        assert [message.data for message in house.rules.seen] == [{"same": 2, "flag": 1}]
        await house.clock.advance(GRACE_S + 1)
        await answer(house, device, same=2)  # an ordinary update: somebody has set it again
        assert channel.attributes[1:] == [{"same": 2}]


@pytest.mark.parametrize("is_durable", [True, False])
async def test_what_was_written_here_since_the_question_is_not_overwritten_by_the_answer(is_durable):
    async with rounds(1) as house:
        (device,) = house.known
        house.add_attributes(device, SERVER, early=1, late=1)
        await question(house, device)
        if not is_durable:
            house.committer.hold()
        house.pipeline.commit([SaveAttributes(device.entity_id, SERVER, house.clock.now_ms(), {"late": 2})])
        await settle()
        await house.clock.advance(1)
        task = asyncio.create_task(answer(house, device, SERVER, early=5, late=0))
        await settle()
        if not is_durable:
            house.committer.release()
        await task
        await settle()
        held = house.state.attributes(device.entity_id, SERVER)
        assert {key: one.value for key, one in held.items()} == {"early": 5, "late": 2}
        await answer(house, device, SERVER, ts_ms=house.clock.now_ms() + 1, late=3)  # a change in the cloud
        assert house.state.attribute(device.entity_id, SERVER, "late").value == 3


async def test_a_shared_attribute_that_the_cloud_changed_wins_over_what_was_written_here_since_the_question():
    async with rounds(1) as house:
        (device,) = house.known
        house.add_attributes(device, SHARED, kept=1, changed=1)
        await question(house, device)
        own = {"kept": 2, "changed": 2}
        await house.pipeline.commit([SaveAttributes(device.entity_id, SHARED, house.clock.now_ms(), own)])
        await house.clock.advance(1)
        await answer(house, device, kept=1, changed=3)  # an answer knows `kept` as it was; `changed` is news
        held = house.state.attributes(device.entity_id, SHARED)
        assert {key: one.value for key, one in held.items()} == {"kept": 2, "changed": 3}


async def test_a_key_that_the_cloud_deleted_and_set_again_is_not_taken_for_ours():
    async with rounds(1) as house:
        (device,) = house.known
        house.add_attributes(device, SERVER, x=1)
        await question(house, device)
        await house.commands.delete_attributes(device.entity_id, SERVER, ["x"])
        await house.clock.advance(1)
        await answer(house, device, SERVER, x=2)
        assert house.state.attribute(device.entity_id, SERVER, "x").value == 2


async def test_a_change_that_was_stamped_before_the_answer_and_comes_behind_it_is_applied():
    async with rounds(1) as house:
        (device,) = house.known
        house.add_attributes(device, SHARED, x=1)
        await house.clock.advance(10)
        await question(house, device)
        await house.clock.advance(1)
        changed_ms = house.clock.now_ms()
        await house.clock.advance(1)
        await answer(house, device, x=2)  # read before the change, sent after it
        await answer(house, device, ts_ms=changed_ms, x=3)
        assert house.state.attribute(device.entity_id, SHARED, "x").value == 3


async def test_the_clouds_latest_telemetry_is_no_news_and_what_is_newer_than_ours_is_kept():
    async with rounds(1) as house:
        (device,) = house.known
        now_ms = house.clock.now_ms()

        async def latest(entity: EntityId):
            return {"t": (now_ms - 5, 20)}

        house.commands._latest = latest

        async def from_cloud(ts_ms, **values):
            before = len(house.committer.units)
            metadata = {"ts": str(ts_ms)}
            await house.commands.post_from_cloud(
                Message(
                    type="POST_TELEMETRY_REQUEST", originator=device.entity_id, data=values, metadata=metadata, ts_ms=1
                )
            )
            return [change for unit in house.committer.units[before:] for change in unit]

        await question(house, device)
        assert await from_cloud(now_ms - 5, t=20) == []
        assert await from_cloud(now_ms - 4, t=21, u=1) == [
            SaveTelemetry(device.entity_id, now_ms - 4, {"t": 21, "u": 1})
        ]
        assert house.rules.seen == []
        await from_cloud(now_ms, t=22)  # a rule of the cloud said so just now
        assert [message.data for message in house.rules.seen] == [{"t": 22}]
