"""What the cloud does to alarms that were made here: the alarm book, the rules that hear of it, merged alarms."""

import asyncio
from uuid import UUID

import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import DeleteEntity, SaveEntity
from gateway.domain.downlink import Downlink, EntityUpdated, UpdateKind
from gateway.domain.entity import time_uuid
from gateway.domain.message import Message
from gateway.downlink import Dispatcher
from gateway.rules import RuleEngine
from tests.fakes.house import House, settle
from tests.unit.downlink.test_dispatch import FakeChains
from tests.unit.rules.kit import CHAIN_ID, PUSH, SWITCH, metadata

CREATE = ("action.TbCreateAlarmNode", "create", {"alarmType": "Hot"})
ACK, CLEAR = UpdateKind.ALARM_ACK, UpdateKind.ALARM_CLEAR


class Hall(House):
    """A house whose rules create an alarm of each telemetry message, and tell a log of what the cloud does to it."""

    def start(self):
        engine = RuleEngine(self.state, RulesConfig(), self.clock, self.counters)
        engine.load_files()
        engine.put_chain(CHAIN_ID, {"name": "Root", "root": True})
        links = ((0, 1, "Post telemetry"), (1, 2, "Created"), (0, 2, "Alarm Acknowledged"), (0, 2, "Alarm Cleared"))
        engine.put_metadata(CHAIN_ID, metadata([SWITCH, CREATE, PUSH], *links))
        self.steps = []
        engine.watch(self.steps.append)
        self.pipeline._rules, self.pipeline.intake = engine, engine.process
        self.pipeline.on_settled = engine.settled
        self.engine, self.device = engine, self.add_device()
        self.here = {"entityType": "DEVICE", "id": str(self.device.id)}
        self.dispatcher = Dispatcher(
            self.commands,
            FakeChains(),
            self.pipeline.commit,
            self.state,
            self.clock,
            self.counters,
            alarms=engine.alarms,
        )

    def post(self):
        return self.pipeline.run(
            [Message(type="POST_TELEMETRY_REQUEST", originator=self.device.entity_id, data={}, metadata={}, ts_ms=1)]
        )

    async def hear(self, kind, id_, **json):
        await self.dispatcher.handle(
            Downlink(1, [EntityUpdated("ALARM", kind, id_, {"originator": self.here, "type": "Hot", **json})])
        )
        await settle()

    def alarm(self):
        ((key, alarm),) = self.state.entities("ALARM").items()
        return key, alarm


@pytest.fixture
async def hall():
    async with Hall() as hall:
        hall.start()
        yield hall


async def test_the_rules_hear_once_what_the_cloud_has_done_and_it_does_not_go_back(hall):
    await hall.post()
    key, _ = hall.alarm()
    assert [event.action for event in hall.committer.events()] == ["ADDED"]
    hall.steps.clear()
    await hall.post()
    hall.steps.clear()
    for _ in range(2):
        await hall.hear(ACK, UUID(key), ackTs=hall.clock.now_ms())
    for _ in range(2):
        await hall.hear(CLEAR, UUID(key), clearTs=hall.clock.now_ms(), details={"by": "cloud"})
    assert hall.alarm()[1]["status"] == "CLEARED_ACK"
    assert hall.alarm()[1]["details"] == {"by": "cloud"}
    for _ in range(2):
        await hall.hear(UpdateKind.DELETED, UUID(key))
    assert hall.state.entities("ALARM") == {}
    told = [(step.message.type, step.message.metadata["source"]) for step in hall.steps if step.node == "types"]
    assert told == [("ALARM_ACK", "cloud"), ("ALARM_CLEAR", "cloud"), ("ALARM_DELETE", "cloud")]
    assert [event.action for event in hall.committer.events()] == ["ADDED"]
    assert hall.counters.get("downlink.without_effect") == 3


async def test_what_is_on_its_way_to_the_disk_is_known_to_the_cloud_and_to_the_next_message(hall):
    hall.committer.hold()
    receipts = [hall.post()]
    key, _ = hall.engine.alarms.open_alarm(hall.device.entity_id, "Hot")
    clearing = asyncio.create_task(hall.hear(CLEAR, UUID(key), clearTs=hall.clock.now_ms()))
    await settle()
    receipts.append(hall.post())
    other, _ = hall.engine.alarms.open_alarm(hall.device.entity_id, "Hot")
    hall.committer.release()
    await asyncio.gather(clearing, *receipts)
    cleared = {key: alarm["cleared"] for key, alarm in hall.state.entities("ALARM").items()}
    assert key != other
    assert cleared == {key: True, other: False}


async def test_what_is_done_to_the_alarm_that_ours_was_merged_into_means_ours(hall):
    await hall.post()
    start_ms = hall.alarm()[1]["startTs"]
    await hall.hear(ACK, time_uuid(), ackTs=start_ms - 1)
    await hall.hear(ACK, time_uuid(), ackTs=start_ms, cleared=True)
    await hall.hear(CLEAR, time_uuid(), clearTs=start_ms - 1, cleared=True)
    assert hall.alarm()[1]["status"] == "ACTIVE_UNACK"
    theirs = time_uuid()
    await hall.hear(ACK, theirs, ackTs=start_ms + 5)
    assert hall.alarm()[1]["status"] == "ACTIVE_ACK"
    await hall.hear(CLEAR, theirs, clearTs=start_ms + 6, cleared=True)
    assert hall.alarm()[1]["status"] == "CLEARED_ACK"


async def test_a_unit_that_is_lost_leaves_no_alarm_behind(hall):
    engine = hall.engine
    out = engine.process(
        Message(type="POST_TELEMETRY_REQUEST", originator=hall.device.entity_id, data={}, metadata={}, ts_ms=1)
    )
    assert engine.alarms.open_alarm(hall.device.entity_id, "Hot") is not None
    engine.settled(out.changes)
    assert engine.alarms.open_alarm(hall.device.entity_id, "Hot") is None


async def test_of_two_units_under_way_the_later_one_counts(hall):
    book, entity = hall.engine.alarms, hall.device.entity_id
    alarm = {"id": {"id": "a"}, "originator": hall.here, "type": "Hot", "cleared": False}
    first, second = [SaveEntity("ALARM", "a", alarm)], [SaveEntity("ALARM", "a", {**alarm, "cleared": True})]
    book.note(first)
    book.note(second)
    assert book.open_alarm(entity, "Hot") is None
    hall.state.apply(first)
    hall.engine.settled(first)
    assert book.open_alarm(entity, "Hot") is None
    hall.state.apply(second)
    hall.engine.settled(second)
    assert book.open_alarm(entity, "Hot") is None
    book.note([DeleteEntity("ALARM", "a")])
    assert book.alarm("a") is None
