"""The routing key now belongs to another edge."""

import asyncio
from dataclasses import replace

import pytest

from gateway.devices import Commands, Found, Pipeline, found_devices, identity
from gateway.domain.changes import AppendEvent, SaveEntity
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.downlink import MOVED_DEVICES
from gateway.domain.entity import EdgeIdentity, time_uuid
from gateway.store import GroupCommitter, MemoryStore
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.house import FakeChannel, House

OLD = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid(), name="Old")


async def settled_house(house: House) -> None:
    """One device of ours under a profile of the cloud, one device of the cloud, an asset."""
    await house.commands.change_identity(OLD)
    profile_id, cloud_device_id = time_uuid(), time_uuid()
    await house.pipeline.commit(found_devices([Found(name="Pump", profile="pump")], house.state, 1))
    await house.commands.put_profile(profile_id, {"name": "pump"})
    await house.commands.put_device(cloud_device_id, {"name": "Foreign", "type": "pump"})
    kinds = ("ASSET", "DASHBOARD", "WIDGET_TYPE", "TENANT", "TENANT_PROFILE")
    await house.pipeline.commit([SaveEntity(kind, str(time_uuid()), {"name": "Hall"}, 9) for kind in kinds])


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
        for kind in ("ASSET", "DASHBOARD", "WIDGET_TYPE", "TENANT", "TENANT_PROFILE"):
            assert not house.state.entity_keys(kind)
        assert house.state.documents_bytes() == 0
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


async def test_what_waits_is_parked_in_portions_and_what_is_announced_anew_is_not(monkeypatch):
    monkeypatch.setattr(identity, "PORTION", 10)
    store, counters = MemoryStore(), Counters()
    committer = GroupCommitter(store, FakeClock(), counters)
    serving = asyncio.create_task(committer.serve())
    async with House() as house:
        await settled_house(house)
        old = house.state.device_named("Pump")
        pipeline = Pipeline(house.rules, committer, house.state, counters)
        commands = Commands(house.state, pipeline, house.inlet, house.rpc, house.clock, store.events)
        event = CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=old.id, created_ms=1, body=b"{}")
        await committer.submit([AppendEvent(replace(event, id=time_uuid())) for _ in range(34)])
        await commands.change_identity(replace(OLD, edge_id=time_uuid(), tenant_id=time_uuid()))
        new = house.state.device_named("Pump")
        depth = await store.events.depth()
        assert (depth.parked, depth.pending[Lane.MAIN]) == (34, 1)
        (waiting,) = await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 9)
        assert (waiting.action, waiting.entity_id) == ("ADDED", new.id)
        (parked,) = await store.events.parked(1)
        assert parked.reason == f"waited for another edge: 'Old' ({OLD.edge_id})"
        assert committer._counters.get("committer.groups") >= 4
        # What was said in that moment, and what a person sends again, goes up under the new id.
        assert house.state.setting(MOVED_DEVICES) == {str(old.id): str(new.id)}
    serving.cancel()
    await asyncio.wait([serving])


async def test_who_moved_twice_is_found_under_the_last_id():
    async with House() as house:
        await settled_house(house)
        first = house.state.device_named("Pump").id
        for _ in range(2):
            await house.commands.change_identity(replace(OLD, edge_id=time_uuid(), tenant_id=time_uuid()))
        moved = house.state.setting(MOVED_DEVICES)
        assert set(moved.values()) == {str(house.state.device_named("Pump").id)}
        assert moved[str(first)] == str(house.state.device_named("Pump").id)
