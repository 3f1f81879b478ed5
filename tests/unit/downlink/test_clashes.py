"""Renames, deletions and re-creations, in the orders in which a cloud and a configuration can bring them."""

import pytest

from gateway.cloud.codec import halves
from gateway.cloud.encode import encode_uplink
from gateway.cloud.pb import edge_pb2
from gateway.devices import Found, found_devices
from gateway.devices.founding import token_credentials
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.domain.downlink import SYNC_MS, CredentialsUpdated, Downlink, EntityUpdated, SyncCompleted, UpdateKind
from gateway.domain.entity import EdgeIdentity, time_uuid
from gateway.domain.telemetry import TsKv
from gateway.downlink import Dispatcher
from gateway.errors import RejectedError
from tests.fakes.house import FakeChannel, House, settle
from tests.unit.downlink.test_dispatch import FakeChains

CREATED, UPDATED, DELETED = UpdateKind.CREATED, UpdateKind.UPDATED, UpdateKind.DELETED


@pytest.fixture
async def house():
    async with House() as house:
        house.dispatcher = Dispatcher(
            house.commands, FakeChains(), house.pipeline.commit, house.state, house.clock, house.counters
        )
        yield house


async def configure(house, *names, token="ours"):
    wanted = [Found(name=name, credentials=token_credentials(token + name)) for name in names]
    await house.pipeline.commit(found_devices(wanted, house.state, house.clock.now_ms()))


async def send(house, kind, id_, name="Boiler"):
    json = None if kind is DELETED else {"name": name, "type": "default"}
    await house.dispatcher.handle(Downlink(1, [EntityUpdated("DEVICE", kind, id_, json)]))
    await settle()


async def synced(house):
    await house.dispatcher.handle(Downlink(1, [SyncCompleted()]))
    await house.clock.advance(1)


def present(house):
    return sorted(((device.name, device.local_name) for device in house.state.devices()), key=repr)


async def test_the_clouds_device_takes_the_place_of_one_that_was_never_announced(house):
    await configure(house, "Boiler")
    ours = house.state.device_named("Boiler")
    house.add_attributes(ours, "CLIENT_SCOPE", fw="1")
    channel = FakeChannel()
    session = house.inlet.open_session(ours, channel)
    theirs = time_uuid()
    await send(house, CREATED, theirs)
    await send(house, CREATED, theirs)
    device = house.state.device_named("Boiler")
    assert (device.id, device.local_name, device.credentials) == (theirs, "Boiler", ours.credentials)
    assert house.state.device(ours.id) is None
    assert (await session.request_attributes([], None))[0] == {"fw": "1"}
    assert channel.closed == []
    await session.post_telemetry([TsKv(1, {"t": 1})])
    assert house.committer.events()[-1].entity_id == theirs
    later = house.inlet.open_session(ours, FakeChannel())  # looked up before, opened after
    assert later.device.id == theirs
    assert house.counters.get("devices.adopted") == 1


async def test_a_device_of_the_cloud_that_cannot_be_stored_leaves_ours_in_its_place(house):
    await configure(house, "Boiler")
    ours = house.state.device_named("Boiler")
    session = house.inlet.open_session(ours, FakeChannel())
    house.committer.refuse_next = RejectedError("the database does not take it")
    with pytest.raises(RejectedError):
        await send(house, CREATED, time_uuid())
    await session.post_telemetry([TsKv(1, {"t": 1})])
    assert house.committer.events()[-1].entity_id == ours.id
    assert house.inlet.open_session(ours, FakeChannel()).device == ours


async def test_queued_events_of_the_one_that_was_never_announced_go_up_for_the_clouds_device(house):
    await configure(house, "Boiler")
    ours, theirs = house.state.device_named("Boiler").id, time_uuid()
    await send(house, CREATED, theirs)
    event = StoredEvent(
        seq_id=1, lane=Lane.MAIN, id=time_uuid(), type="DEVICE", action="TIMESERIES_UPDATED", entity_id=ours,
        created_ms=1, body=b'{"ts":1,"data":{"t":1}}',
    )  # fmt: skip
    message = edge_pb2.RequestMsg.FromString(encode_uplink(1, [event], house.state)).uplinkMsg
    (data,) = message.entityData
    assert (data.entityIdMSB, data.entityIdLSB) == halves(theirs)


async def test_the_adopted_device_keeps_the_configured_credentials_and_announces_them(house):
    await configure(house, "Boiler")
    theirs = time_uuid()
    created = EntityUpdated("DEVICE", CREATED, theirs, {"name": "Boiler"})
    cloud = CredentialsUpdated(theirs, {"credentialsType": "ACCESS_TOKEN", "credentialsId": "cloud"})
    await house.dispatcher.handle(Downlink(1, [created, cloud]))
    assert house.inlet.find_credentials("oursBoiler")[1].id == theirs
    assert ("CREDENTIALS_UPDATED", theirs) in [(e.action, e.entity_id) for e in house.committer.events()]
    await house.dispatcher.handle(Downlink(2, [cloud]))  # a later change is the cloud's will
    assert house.inlet.find_credentials("cloud")[1].id == theirs


async def test_a_device_that_the_cloud_may_know_keeps_its_place_and_both_stay(house):
    await configure(house, "Boiler")
    await synced(house)
    ours, theirs = house.state.device_named("Boiler"), time_uuid()
    await send(house, CREATED, theirs)
    assert house.state.device_named("Boiler") == ours
    assert present(house) == [("Boiler", "Boiler"), ("Boiler", None)]
    await send(house, UPDATED, ours.id, "Boiler_abcdefghijklmno")  # the cloud renames ours
    assert house.state.device_named("Boiler").id == ours.id
    assert house.state.device(ours.id).name == "Boiler_abcdefghijklmno"


ORDERS = {
    "rename": ([("U", "M")], [("M", "Boiler")]),
    "rename and back": ([("U", "M"), ("U", "Boiler")], [("Boiler", "Boiler")]),
    "rename, delete": ([("U", "M"), ("D", "")], []),
    "delete": ([("D", "")], []),
    "delete twice": ([("D", ""), ("D", "")], []),
    "delete, same again": ([("D", ""), ("C", "Boiler")], [("Boiler", "Boiler")]),
    "delete, same under another name": ([("D", ""), ("C", "M")], [("M", "Boiler")]),
    "delete, another of the name": ([("D", ""), ("O", "Boiler")], [("Boiler", "Boiler")]),
    "rename, another of the name": ([("U", "M"), ("O", "Boiler")], [("Boiler", None), ("M", "Boiler")]),
    "another of the name, then rename": ([("O", "Boiler"), ("U", "M")], [("Boiler", None), ("M", "Boiler")]),
    "another of the name, then delete": ([("O", "Boiler"), ("D", "")], [("Boiler", None)]),
    "delete, another, back": ([("D", ""), ("O", "X"), ("C", "Boiler")], [("Boiler", "Boiler"), ("X", None)]),
}


@pytest.mark.parametrize("order", ORDERS)
async def test_order_of_renames_and_deletions(house, order):
    await configure(house, "Boiler")
    await synced(house)
    ours, other = house.state.device_named("Boiler").id, time_uuid()
    steps, expected = ORDERS[order]
    for step, name in steps:
        kind = {"U": UPDATED, "D": DELETED, "C": CREATED, "O": CREATED}[step]
        for _ in range(2):  # each message may come twice
            await send(house, kind, other if step == "O" else ours, name)
    assert present(house) == sorted(expected, key=repr)
    count = len(list(house.state.devices()))
    await configure(house, "Boiler")  # the next start invents nothing
    assert len(list(house.state.devices())) == count


async def test_a_device_that_the_cloud_took_away_is_not_made_again_until_it_leaves_the_configuration(house, caplog):
    await configure(house, "Boiler", "Pump")
    channel = FakeChannel()
    house.inlet.open_session(house.state.device_named("Boiler"), channel)
    await send(house, DELETED, house.state.device_named("Boiler").id)
    assert channel.closed == ["not_authorized"]
    assert "'Boiler': deleted in the cloud" in caplog.text
    caplog.clear()
    for _ in range(2):
        await configure(house, "Boiler", "Pump")
        assert present(house) == [("Pump", "Pump")]
        assert "'Boiler' was deleted in the cloud" in caplog.text
    await configure(house, "Pump")
    await configure(house, "Boiler", "Pump")
    assert present(house) == [("Boiler", "Boiler"), ("Pump", "Pump")]


async def test_change_of_customer_and_profile_rename_reach_the_device(house):
    await configure(house, "Boiler")
    await synced(house)
    ours, profile = house.state.device_named("Boiler").id, time_uuid()
    where = {"entityType": "DEVICE_PROFILE", "id": str(profile)}
    customer = {"entityType": "CUSTOMER", "id": str(time_uuid())}
    json = {"name": "Boiler", "type": "heat", "deviceProfileId": where, "customerId": customer}
    for name in ("heat", "steam"):
        await house.dispatcher.handle(
            Downlink(
                1,
                [
                    EntityUpdated("DEVICE_PROFILE", UPDATED, profile, {"name": name}),
                    EntityUpdated("DEVICE", UPDATED, ours, {**json, "type": name}),
                ],
            )
        )
        device = house.state.device(ours)
        assert (device.type, device.json["customerId"], device.local_name) == (name, customer, "Boiler")


async def test_the_time_of_the_last_sync_is_kept(house):
    await house.dispatcher.connected(EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid()))
    await house.dispatcher.handle(Downlink(1, [SyncCompleted()]))
    assert house.state.setting(SYNC_MS) == house.clock.now_ms()
