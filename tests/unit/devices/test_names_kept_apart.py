"""The cloud gives one device the name that another one has here, which the cloud does not know yet (edge protocol §6.5)."""

from dataclasses import replace

import pytest

from gateway.devices import State
from gateway.devices.names import ALIAS
from gateway.devices.state import REMOVED
from gateway.domain.changes import SaveDevice, SaveSetting
from gateway.domain.entity import EdgeIdentity, time_uuid
from gateway.ports import Snapshot
from tests.fakes.house import FakeChannel, House, settle
from tests.unit.devices.test_sub_devices import made

OLD = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid(), name="Old")


async def clash(house):
    """`A` of the cloud and `B` of ours are behind one gateway; then the cloud renames `A` to `B`."""
    gateway = house.add_device("gw")
    cloud_id = time_uuid()
    await house.commands.put_device(cloud_id, {"name": "A"})
    first = house.inlet.sub_device(gateway, "A", "")[0]
    second = await made(house, gateway, "B")
    assert first.id == cloud_id
    await house.commands.put_device(cloud_id, {"name": "B"})
    return gateway, cloud_id, second.id


def named(house, name):
    device = house.state.device_named(name)
    return device and device.id


def notices(house):
    return [
        notice["params"]
        for change in house.committer.changes()
        if isinstance(change, SaveSetting) and change.name.startswith("gateway_notices:") and change.value
        for notice in change.value
    ]


@pytest.mark.parametrize("has_restarted", [False, True])
async def test_whoever_speaks_of_them_goes_on_meaning_the_same_devices(has_restarted, caplog):
    async with House() as house:
        gateway, cloud_id, ours_id = await clash(house)
        state = house.state
        if has_restarted:
            state = State(Snapshot(devices=[state.device(cloud_id), state.device(ours_id)]))
        assert state.device_named("A").id == cloud_id
        assert state.device_named("B").id == ours_id
        assert {device.name for device in state.devices() if device.id != gateway.id} == {"B"}
        assert house.counters.get("devices.names_kept_apart") == 1
        assert notices(house) == []  # else its gateway would say B, and mean A
        assert "device 'A': 'B' in the cloud from now on" in caplog.text


async def test_the_cloud_names_the_new_one_and_both_are_found_by_all_names():
    async with House() as house:
        _, cloud_id, ours_id = await clash(house)
        await house.commands.put_device(ours_id, {"name": "B_abc"})
        assert [named(house, name) for name in ("A", "B", "B_abc")] == [cloud_id, ours_id, ours_id]
        assert notices(house)[-1] == {"B": "B_abc"}
        await house.commands.put_device(cloud_id, {"name": "C"})
        assert notices(house)[-1] == {"A": "C"}  # by the name that its gateway has for it
        await house.commands.put_device(cloud_id, {"name": "D"})
        assert notices(house)[-1] == {"C": "D"}
        assert [named(house, name) for name in ("A", "D")] == [cloud_id] * 2


async def test_a_deleted_one_is_nobodys_configuration():
    async with House() as house:
        gateway, cloud_id, ours_id = await clash(house)
        for device_id in (cloud_id, ours_id):
            await house.commands.delete_device(device_id)
        assert house.state.setting(REMOVED) is None
        assert house.state.settings(ALIAS) == {}
        assert notices(house)[-2:] == ["A", "B"]
        assert (await made(house, gateway, "A")).id != cloud_id


async def test_another_edge_begins_without_aliases():
    async with House() as house:
        await house.commands.change_identity(OLD)
        _, cloud_id, ours_id = await clash(house)
        await house.commands.change_identity(replace(OLD, edge_id=time_uuid()))
        assert house.state.device(cloud_id) is None
        assert (house.state.device(ours_id).name, house.state.device(ours_id).local_name) == ("B", None)
        assert house.state.settings(ALIAS) == {}


async def test_names_of_the_configuration_stay_what_they_are():
    async with House() as house:
        ours, theirs = house.add_device("B", "b"), house.add_device("A", "a")
        house.state.apply([SaveDevice(replace(theirs, json={"name": "A"}))])
        channel = FakeChannel()
        session = house.inlet.open_session(ours, channel)
        await house.commands.put_device(theirs.id, {"name": "B"})
        await settle()
        assert [named(house, name) for name in "AB"] == [theirs.id, ours.id]
        assert (session.is_open, house.state.settings(ALIAS)) == (True, {})


async def test_two_devices_of_the_cloud_may_change_their_names():
    """Between two devices that the cloud has named there is nothing to keep apart: both names come."""
    async with House() as house:
        first, second = time_uuid(), time_uuid()
        await house.commands.put_device(first, {"name": "A"})
        await house.commands.put_device(second, {"name": "B"})
        await house.commands.put_device(first, {"name": "B"})
        await house.commands.put_device(second, {"name": "A"})
        assert [named(house, name) for name in "AB"] == [second, first]
        assert house.counters.get("devices.names_kept_apart") == 0
