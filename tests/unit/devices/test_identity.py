"""The routing key now belongs to another edge."""

from dataclasses import replace

import pytest

from gateway.devices import Found, found_devices
from gateway.domain.changes import SaveEntity
from gateway.domain.entity import EdgeIdentity, time_uuid
from tests.fakes.house import FakeChannel, House

OLD = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid(), name="Old")


async def settled_house(house: House) -> None:
    """One device of ours under a profile of the cloud, one device of the cloud, an asset."""
    await house.commands.change_identity(OLD)
    profile_id, cloud_device_id = time_uuid(), time_uuid()
    await house.pipeline.commit(found_devices([Found(name="Pump", profile="pump")], house.state, 1))
    await house.commands.put_profile(profile_id, {"name": "pump"})
    await house.commands.put_device(cloud_device_id, {"name": "Foreign", "type": "pump"})
    await house.pipeline.commit([SaveEntity("ASSET", str(time_uuid()), {"name": "Hall"})])


@pytest.mark.parametrize("is_other_tenant", [False, True])
async def test_the_old_edges_things_go_and_our_own_are_announced_anew(is_other_tenant):
    async with House() as house:
        await settled_house(house)
        before = house.state.device_named("Pump")
        seen = len(house.committer.events())
        new = replace(OLD, edge_id=time_uuid(), tenant_id=time_uuid() if is_other_tenant else OLD.tenant_id)
        await house.commands.change_identity(new)
        after = house.state.device_named("Pump")
        assert (after.id == before.id) is not is_other_tenant
        assert (after.profile_id, after.type, after.json) == (None, "pump", None)
        assert after.credentials == before.credentials
        assert house.inlet.find_credentials(before.credentials.credentials_id)[1].id == after.id
        assert house.state.device_named("Foreign") is None
        assert house.state.profile_named("pump") is None
        assert not house.state.entities("ASSET")
        assert house.state.identity() == new
        assert house.state.setting("sync_done") is False
        announced = [(event.action, event.entity_id) for event in house.committer.events()[seen:]]
        assert announced == [("ADDED", after.id)]


async def test_sessions_end_where_the_device_is_gone_and_stay_where_it_is():
    async with House() as house:
        await settled_house(house)
        pump, foreign = FakeChannel(), FakeChannel()
        house.inlet.open_session(house.state.device_named("Pump"), pump)
        house.inlet.open_session(house.state.device_named("Foreign"), foreign)
        await house.commands.change_identity(replace(OLD, edge_id=time_uuid()))
        assert pump.closed == []
        assert foreign.closed == ["not_authorized"]


async def test_a_second_time_changes_nothing_more():
    async with House() as house:
        await settled_house(house)
        new = replace(OLD, edge_id=time_uuid())
        await house.commands.change_identity(new)
        pump = house.state.device_named("Pump")
        await house.commands.change_identity(new)
        assert replace(house.state.device_named("Pump"), created_ms=0) == replace(pump, created_ms=0)
