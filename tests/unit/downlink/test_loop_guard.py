"""Nothing that came from the cloud goes back to it: through the real engine and its built-in chain."""

import pytest

from gateway.config import RulesConfig
from gateway.domain.downlink import (
    AttributesReceived,
    AttributesRemoved,
    Downlink,
    EntityUpdated,
    RpcCalled,
    TelemetryReceived,
    UpdateKind,
)
from gateway.domain.entity import EntityId, time_uuid
from gateway.domain.telemetry import TsKv
from gateway.downlink import Dispatcher
from gateway.rules import RuleEngine
from tests.fakes.house import FakeChannel, House, settle
from tests.unit.downlink.test_dispatch import FakeChains


@pytest.fixture
async def house():
    async with House() as house:
        engine = RuleEngine(house.state, RulesConfig(), house.clock, house.counters)
        engine.load_files()
        house.pipeline._rules, house.pipeline.intake = engine, engine.process
        house.dispatcher = Dispatcher(
            house.commands, FakeChains(), house.pipeline.commit, house.state, house.clock, house.counters
        )
        yield house


COMMANDS = {
    "telemetry": lambda entity: TelemetryReceived(entity, [TsKv(1, {"t": 1})]),
    "posted attributes": lambda entity: AttributesReceived(entity, "CLIENT_SCOPE", {"a": 1}, 5, is_post=True),
    "shared attributes": lambda entity: AttributesReceived(entity, "SHARED_SCOPE", {"a": 1}, 5),
    "server attributes": lambda entity: AttributesReceived(entity, "SERVER_SCOPE", {"a": 1}, None),
    "deleted attributes": lambda entity: AttributesRemoved(entity, "SHARED_SCOPE", ["held"]),
    "alarm": lambda entity: EntityUpdated(
        "ALARM", UpdateKind.CREATED, time_uuid(),
        {"type": "Hot", "originator": {"entityType": entity.type, "id": str(entity.id)}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("type_", ["DEVICE", "ASSET"])
async def test_what_came_from_the_cloud_does_not_go_back(house, kind, type_):
    device, asset = house.add_device(), time_uuid()
    house.add_attributes(device, "SHARED_SCOPE", held=1)
    hall = EntityUpdated("ASSET", UpdateKind.CREATED, asset, {"name": "Hall", "type": "hall"})
    entity = device.entity_id if type_ == "DEVICE" else EntityId("ASSET", asset)
    await house.dispatcher.handle(Downlink(1, [hall, COMMANDS[kind](entity)]))
    await settle()
    assert house.committer.events() == []


async def test_the_guard_lets_the_devices_own_data_pass_and_only_the_answer_of_a_call(house):
    device, channel = house.add_device(), FakeChannel()
    session = house.inlet.open_session(device, channel)
    session.subscribe_rpc(True)
    await session.post_telemetry([TsKv(1, {"t": 1})])
    assert [event.action for event in house.committer.events()] == ["TIMESERIES_UPDATED"]
    await house.dispatcher.handle(Downlink(1, [RpcCalled(house.call(device, is_oneway=True))]))
    await settle()
    assert [event.action for event in house.committer.events()] == ["TIMESERIES_UPDATED", "RPC_CALL"]
