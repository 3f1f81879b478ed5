import asyncio
from uuid import UUID

import pytest

from gateway.domain.changes import DeleteEntity, SaveEntity
from gateway.domain.downlink import (
    AttributesReceived,
    CredentialsRequested,
    CredentialsUpdated,
    Downlink,
    EntityUpdated,
    Ignored,
    RpcAnswered,
    RpcCalled,
    SyncCompleted,
    TelemetryReceived,
    UpdateKind,
)
from gateway.domain.entity import EdgeIdentity, time_uuid
from gateway.domain.telemetry import TsKv
from gateway.downlink import Dispatcher
from gateway.errors import RejectedError
from tests.fakes.house import FakeChannel, House, settle

CHAIN = UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")
EDGE = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid(), name="Edge 1")


class FakeChains:
    def __init__(self):
        self.calls = []

    def put_chain(self, chain_id, chain):
        self.calls.append(("chain", chain_id, chain["name"]))

    def put_metadata(self, chain_id, metadata):
        self.calls.append(("metadata", chain_id, len(metadata["nodes"])))

    def remove_chain(self, chain_id):
        self.calls.append(("remove", chain_id))


@pytest.fixture
async def house():
    async with House() as house:
        house.chains = FakeChains()
        house.dispatcher = Dispatcher(
            house.commands, house.chains, house.pipeline.commit, house.state, house.clock, house.counters
        )
        yield house


def actions(house):
    return [(event.type, event.action) for event in house.committer.events()]


async def test_first_connect_needs_a_full_sync_until_one_has_completed(house):
    assert await house.dispatcher.connected(EDGE) is True
    assert house.state.identity() == EDGE
    assert actions(house) == [("EDGE", "ATTRIBUTES_REQUEST"), ("EDGE", "RELATION_REQUEST")]
    assert await house.dispatcher.connected(EDGE) is True
    await house.dispatcher.handle(Downlink(1, [SyncCompleted()]))
    assert actions(house)[-1] == ("TENANT", "ATTRIBUTES_REQUEST")
    assert await house.dispatcher.connected(EDGE) is False
    other = EdgeIdentity(edge_id=time_uuid(), tenant_id=EDGE.tenant_id)
    assert await house.dispatcher.connected(other) is True


async def test_chain_and_metadata_are_durable_before_the_engine_gets_them(house):
    chain = EntityUpdated("RULE_CHAIN", UpdateKind.CREATED, CHAIN, {"name": "Root", "root": True})
    metadata = {"ruleChainId": {"entityType": "RULE_CHAIN", "id": str(CHAIN)}, "nodes": [{}]}
    house.committer.hold()
    applying = asyncio.ensure_future(
        house.dispatcher.handle(
            Downlink(1, [chain, EntityUpdated("RULE_CHAIN_METADATA", UpdateKind.CREATED, None, metadata)])
        )
    )
    await settle()
    assert house.chains.calls == []
    house.committer.release()
    await applying
    assert house.chains.calls == [("chain", CHAIN, "Root"), ("metadata", CHAIN, 1)]
    kept = [(c.type, c.key) for c in house.committer.changes() if isinstance(c, SaveEntity)]
    assert kept == [("RULE_CHAIN", str(CHAIN)), ("RULE_CHAIN_METADATA", str(CHAIN))]
    await house.dispatcher.handle(Downlink(2, [EntityUpdated("RULE_CHAIN", UpdateKind.DELETED, CHAIN, None)]))
    assert house.chains.calls[-1] == ("remove", CHAIN)
    assert {c.type for c in house.committer.changes() if isinstance(c, DeleteEntity)} == {
        "RULE_CHAIN",
        "RULE_CHAIN_METADATA",
    }


async def test_the_last_root_is_remembered_when_the_former_one_is_not_sent_again(house):
    first, second = time_uuid(), time_uuid()
    for chain_id in (first, second):
        update = EntityUpdated("RULE_CHAIN", UpdateKind.UPDATED, chain_id, {"name": "R", "root": True})
        await house.dispatcher.handle(Downlink(1, [update]))
    assert house.state.setting("root_chain") == str(second)
    update = EntityUpdated("RULE_CHAIN", UpdateKind.UPDATED, second, {"name": "R", "root": False})
    await house.dispatcher.handle(Downlink(2, [update]))
    assert house.state.setting("root_chain") is None


async def test_rule_chains_of_the_edge_before_work_until_the_sync_is_over_and_leave_then(house):
    old, shared, new = time_uuid(), time_uuid(), time_uuid()

    def sent(chain_id, *, is_root=False):
        head = {"name": "R", "root": is_root}
        metadata = {"ruleChainId": {"entityType": "RULE_CHAIN", "id": str(chain_id)}, "nodes": [{}]}
        return [
            EntityUpdated("RULE_CHAIN", UpdateKind.CREATED, chain_id, head),
            EntityUpdated("RULE_CHAIN_METADATA", UpdateKind.CREATED, None, metadata),
        ]

    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(1, [*sent(old, is_root=True), *sent(shared), SyncCompleted()]))
    other = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid(), name="Edge 2")
    await house.dispatcher.connected(other)
    assert set(house.state.entity_keys("RULE_CHAIN")) == {str(old), str(shared)}
    await house.dispatcher.handle(Downlink(2, [*sent(new), *sent(shared)]))
    await house.dispatcher.connected(other)  # cut, and what was named before counts
    assert not [call for call in house.chains.calls if call[0] == "remove"]
    await house.dispatcher.handle(Downlink(3, [SyncCompleted()]))
    for kind in ("RULE_CHAIN", "RULE_CHAIN_METADATA"):
        assert set(house.state.entity_keys(kind)) == {str(shared), str(new)}
    assert [call for call in house.chains.calls if call[0] == "remove"] == [("remove", old)]
    assert house.state.setting("root_chain") is None

    await house.dispatcher.connected(other)  # a later sync may leave out what has not changed
    await house.dispatcher.handle(Downlink(4, [SyncCompleted()]))
    assert set(house.state.entity_keys("RULE_CHAIN")) == {str(shared), str(new)}


async def test_a_server_that_sends_chains_and_devices_alone_is_asked_for_the_rest(house):
    device_id = time_uuid()
    await house.dispatcher.handle(
        Downlink(
            1,
            [
                EntityUpdated("RULE_CHAIN", UpdateKind.CREATED, CHAIN, {"name": "Root"}),
                EntityUpdated("DEVICE", UpdateKind.CREATED, device_id, {"name": "A"}),
            ],
        )
    )
    assert ("RULE_CHAIN", "RULE_CHAIN_METADATA_REQUEST") in actions(house)
    assert ("DEVICE", "CREDENTIALS_REQUEST") in actions(house)


async def test_device_with_credentials_in_one_message_may_log_in(house):
    device_id = time_uuid()
    await house.dispatcher.handle(
        Downlink(
            1,
            [
                EntityUpdated("DEVICE", UpdateKind.CREATED, device_id, {"name": "A", "type": "default"}),
                CredentialsUpdated(device_id, {"credentialsType": "ACCESS_TOKEN", "credentialsId": "tok"}),
            ],
        )
    )
    assert house.inlet.find_credentials("tok")[1].id == device_id
    assert ("DEVICE", "CREDENTIALS_REQUEST") not in actions(house)
    await house.dispatcher.handle(Downlink(2, [CredentialsRequested(device_id)]))
    assert actions(house)[-1] == ("DEVICE", "CREDENTIALS_UPDATED")


async def test_commands_reach_the_device_room(house):
    device, channel = house.add_device(), FakeChannel()
    session = house.inlet.open_session(device, channel)
    session.subscribe_attributes(True)
    session.subscribe_rpc(True)
    await house.dispatcher.handle(
        Downlink(
            1,
            [
                AttributesReceived(device.entity_id, "SHARED_SCOPE", {"a": 1}, 5),
                TelemetryReceived(device.entity_id, [TsKv(9, {"t": 1})]),
                RpcCalled(house.call(device)),
                RpcAnswered(device.id, 1, None, "{}", ""),
            ],
        )
    )
    await settle()
    assert channel.attributes == [{"a": 1}]
    assert len(channel.calls) == 1
    telemetry = [m for m in house.rules.seen if m.type == "POST_TELEMETRY_REQUEST"]
    assert [(m.data, m.metadata["source"], m.metadata["ts"]) for m in telemetry] == [({"t": 1}, "cloud", "9")]


async def test_secrets_of_users_are_acknowledged_and_never_kept(house):
    before = len(house.committer.changes())
    await house.dispatcher.handle(
        Downlink(
            1, [Ignored("userCredentialsUpdateMsg"), EntityUpdated("USER", UpdateKind.CREATED, CHAIN, {"name": "k"})]
        )
    )
    assert len(house.committer.changes()) == before
    assert house.counters.get("downlink.ignored") == 2


async def test_a_broken_entity_is_named_in_the_answer_and_its_neighbours_are_applied(house):
    before, after = time_uuid(), time_uuid()
    with pytest.raises(RejectedError, match="DEVICE without an id"):
        await house.dispatcher.handle(
            Downlink(
                1,
                [
                    EntityUpdated("DEVICE", UpdateKind.CREATED, before, {"name": "A"}),
                    EntityUpdated("DEVICE", UpdateKind.CREATED, None, {"name": "B"}),
                    EntityUpdated("DEVICE", UpdateKind.CREATED, after, {"name": "C"}),
                ],
            )
        )
    assert house.state.device(before) is not None
    assert house.state.device(after) is not None


@pytest.mark.parametrize("odd", ["soon", [1], {"id": 5}, float("inf"), True])
async def test_an_odd_creation_time_does_not_keep_the_device_away(house, odd):
    device_id = time_uuid()
    await house.dispatcher.handle(
        Downlink(1, [EntityUpdated("DEVICE", UpdateKind.CREATED, device_id, {"name": "A", "createdTime": odd})])
    )
    assert house.state.device(device_id).created_ms == house.clock.now_ms()


@pytest.mark.parametrize("odd", [{"a": 1}, [1], 5, True])
async def test_texts_that_are_none_never_reach_the_store(house, odd):
    device = house.add_device()
    json = {"name": "A", "label": odd}
    await house.dispatcher.handle(Downlink(1, [EntityUpdated("DEVICE", UpdateKind.UPDATED, device.id, json)]))
    assert house.state.device(device.id).label is None
    json = {"credentialsType": "MQTT_BASIC", "credentialsId": "x", "credentialsValue": odd}
    with pytest.raises(RejectedError, match="'credentialsValue'"):
        await house.dispatcher.handle(Downlink(2, [CredentialsUpdated(device.id, json)]))
    assert house.state.device(device.id).credentials == device.credentials


@pytest.mark.parametrize("odd", [None, 5, True, [], {}, "x"])
async def test_metadata_of_no_chain_is_rejected(house, odd):
    update = EntityUpdated("RULE_CHAIN_METADATA", UpdateKind.CREATED, None, {"ruleChainId": {"id": odd}, "nodes": [1]})
    with pytest.raises(RejectedError, match="without a ruleChainId"):
        await house.dispatcher.handle(Downlink(1, [update]))


async def test_a_bug_in_one_handler_is_told_without_its_values_and_the_next_command_is_applied(
    house, monkeypatch, caplog
):
    async def broken(*_):
        int("hunter2")

    monkeypatch.setattr(house.commands, "put_credentials", broken)
    device_id = time_uuid()
    commands = [
        CredentialsUpdated(device_id, {}),
        EntityUpdated("DEVICE", UpdateKind.CREATED, device_id, {"name": "A"}),
    ]
    with pytest.raises(RejectedError, match=r"CredentialsUpdated: ValueError in test_dispatch\.py"):
        await house.dispatcher.handle(Downlink(1, commands))
    assert house.state.device(device_id) is not None
    assert house.counters.get("downlink.bugs") == 1
    assert "hunter2" not in caplog.text
    assert "ValueError" in caplog.text
