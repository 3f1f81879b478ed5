"""Shared attributes that change while a device does not listen: the newest value, once, after a restart too."""

import pytest

from gateway.domain.changes import SaveAttributes, SaveDevice, SaveSetting
from gateway.ports import Snapshot
from tests.fakes.house import FakeChannel, House, settle

SHARED = "SHARED_SCOPE"


async def push(house, device, ts_ms=None, **values):
    await house.commands.update_attributes(device.entity_id, SHARED, values, ts_ms)
    await settle()


async def listen(house, device):
    channel = FakeChannel()
    house.inlet.open_session(device, channel).subscribe_attributes(True)
    await settle()
    return channel


async def test_the_newest_value_of_each_key_is_delivered_once():
    async with House() as house:
        device = house.add_device()
        house.add_attributes(device, SHARED, old=1, gone=1)
        await push(house, device, a=1)
        await push(house, device, a=2, b=0)
        await house.commands.delete_attributes(device.entity_id, SHARED, ["gone"])
        channel = await listen(house, device)
        assert channel.attributes == [{"a": 2, "b": 0}]
        assert channel.deleted == [["gone"]]
        assert (await listen(house, device)).attributes == []


async def test_a_device_that_listens_gets_nothing_twice():
    async with House() as house:
        device = house.add_device()
        channel = await listen(house, device)
        await push(house, device, ts_ms=house.clock.now_ms(), a=1)
        await push(house, device, ts_ms=house.clock.now_ms(), a=1)
        await push(house, device, b=True)
        await push(house, device, b=True)  # a server that sends no time
        await push(house, device, b=1)
        assert channel.attributes == [{"a": 1}, {"b": True}, {"b": 1}]
        assert (await listen(house, device)).attributes == []


async def test_what_is_owed_survives_a_restart_and_what_was_delivered_does_not_come_again():
    async with House() as house:
        device = house.add_device()
        await push(house, device, a=1)
        changes = house.committer.changes()
    settings = {one.name: one.value for one in changes if isinstance(one, SaveSetting)}
    kept = [one for one in changes if isinstance(one, SaveAttributes)]
    async with House(Snapshot(devices=[device], settings=settings)) as house:
        house.state.apply(kept)
        channel = await listen(house, device)
        assert channel.attributes == [{"a": 1}]
        removed = {one.name: one.value for one in house.committer.changes() if isinstance(one, SaveSetting)}
    assert removed == dict.fromkeys(settings)


async def test_a_power_cut_between_the_sending_and_its_mark_repeats_that_one_push_and_no_other():
    async with House() as house:
        device = house.add_device()
        await push(house, device, a=1)
        changes = house.committer.changes()
        settings = {one.name: one.value for one in changes if isinstance(one, SaveSetting)}
        session = house.inlet.open_session(device, channel := FakeChannel())
        session.hears_attributes = True
        house.committer.hold()  # the mark does not reach the disk any more
        house.inlet.deliver_owed(session)
        assert channel.attributes == [{"a": 1}]
    kept = [one for one in changes if isinstance(one, SaveAttributes)]
    async with House(Snapshot(devices=[device], settings=settings)) as house:
        house.state.apply(kept)
        assert (await listen(house, device)).attributes == [{"a": 1}]  # at least once
        assert (await listen(house, device)).attributes == []


async def test_a_change_that_a_kill_kept_from_the_device_is_told_when_the_cloud_repeats_it_and_once():
    async with House() as house:
        device = house.add_device()
        await listen(house, device)
        ts_ms = house.clock.now_ms()
        await push(house, device, ts_ms=ts_ms, a=1, b=2)
        kept = [one for one in house.committer.changes() if isinstance(one, SaveAttributes)]
    async with House(Snapshot(devices=[device])) as house:
        house.state.apply(kept)
        channel = await listen(house, device)
        assert channel.attributes == []
        await push(house, device, ts_ms=ts_ms - 1, a=1)  # another, older word of it
        assert channel.attributes == []
        await push(house, device, ts_ms=ts_ms, a=1, b=2)
        await push(house, device, ts_ms=ts_ms, a=1, b=2)
        assert channel.attributes == [{"a": 1, "b": 2}]


async def test_a_device_that_subscribes_while_the_change_is_on_its_way_to_the_disk_gets_the_new_value_once():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.add_attributes(device, SHARED, a=1)
        session = house.inlet.open_session(device, channel)
        house.committer.hold()
        house.pipeline.commit(house.inlet.owe(device.entity_id, ["a"]))
        house.pipeline.commit([SaveAttributes(device.entity_id, SHARED, 5, {"a": 2})])
        session.subscribe_attributes(True)
        await settle()
        assert channel.attributes == []
        house.committer.release()
        await settle()
        assert channel.attributes == [{"a": 2}]


async def test_client_attributes_never_come_from_the_cloud_but_it_may_delete_them():
    async with House() as house:
        device = house.add_device()
        house.add_attributes(device, "CLIENT_SCOPE", fw="1")
        await house.commands.update_attributes(device.entity_id, "CLIENT_SCOPE", {"fw": "2"}, None)
        assert house.state.attribute(device.entity_id, "CLIENT_SCOPE", "fw").value == "1"
        await house.commands.delete_attributes(device.entity_id, "CLIENT_SCOPE", ["fw"])
        assert house.state.attribute(device.entity_id, "CLIENT_SCOPE", "fw") is None


@pytest.mark.parametrize("scope", [SHARED, "SERVER_SCOPE"])
async def test_older_values_of_the_cloud_are_dropped(scope):
    async with House() as house:
        device = house.add_device()
        await house.commands.update_attributes(device.entity_id, scope, {"a": 2}, 20)
        await house.commands.update_attributes(device.entity_id, scope, {"a": 1, "b": 1}, 10)
        held = house.state.attributes(device.entity_id, scope)
        assert {key: one.value for key, one in held.items()} == {"a": 2, "b": 1}


async def test_what_a_deleted_device_was_owed_is_forgotten():
    async with House() as house:
        device = house.add_device()
        await push(house, device, a=1)
        await house.commands.delete_device(device.id)
        house.state.apply([SaveDevice(device)])
        channel = await listen(house, device)
        assert channel.attributes == channel.deleted == []
