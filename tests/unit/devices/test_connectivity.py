"""Connected, active, silent: what is written, how often, and what the rules are told."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.devices.connectivity import CHECK_S, REPORT_S
from gateway.domain.telemetry import TsKv
from gateway.errors import RejectedError
from gateway.ports import Outcome, Snapshot, StateNotice
from tests.fakes.house import FakeChannel, House, settle

SERVER = "SERVER_SCOPE"


@asynccontextmanager
async def watched_house(snapshot=None):
    async with House(snapshot) as house:
        watching = asyncio.create_task(house.inlet.connectivity.serve())
        try:
            yield house
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def held(house, device):
    attributes = house.state.attributes(device.entity_id, SERVER)
    return {key: attribute.value for key, attribute in attributes.items()}


def told(house):
    events = [message for message in house.rules.seen if message.type.endswith("_EVENT")]
    house.rules.seen.clear()
    return [message.type.removesuffix("_EVENT") for message in events]


def after(house):
    """The house after a restart: what was durable, and nothing else."""
    snapshot = Snapshot(devices=list(house.state.devices()))
    for device in snapshot.devices:
        for key, attribute in house.state.attributes(device.entity_id, SERVER).items():
            snapshot.attributes.append((device.entity_id, SERVER, key, attribute))
    return snapshot


async def test_the_life_of_a_device_as_the_rules_and_the_attributes_see_it():
    async with watched_house() as house:
        device, start_ms = house.add_device(), house.clock.now_ms()
        session = house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        first, second = house.rules.seen
        assert (first.type, second.type) == ("CONNECT_EVENT", "ACTIVITY_EVENT")
        assert first.originator == device.entity_id
        assert first.metadata == {
            "deviceName": "Boiler",
            "deviceType": "boiler",
            "deviceLabel": "",
            "scope": SERVER,
        }
        assert first.data == {
            "lastConnectTime": start_ms,
            "lastActivityTime": 0,
            "lastDisconnectTime": 0,
            "lastInactivityAlarmTime": 0,
            "inactivityTimeout": 600_000,
        }
        assert second.data == {**first.data, "active": True, "lastActivityTime": start_ms}
        assert held(house, device) == {
            "active": True,
            "inactivityAlarmTime": 0,
            "lastConnectTime": start_ms,
            "lastActivityTime": start_ms,
        }
        told(house)
        session.close()
        await house.clock.advance(1)
        assert told(house) == ["DISCONNECT"]
        assert held(house, device)["active"] is True  # to disconnect is not to be inactive
        assert held(house, device)["lastDisconnectTime"] == start_ms + 1000
        await house.clock.advance(590)
        assert told(house) == []
        await house.clock.advance(70)
        assert told(house) == ["INACTIVITY"]
        alarm_ms = held(house, device)["inactivityAlarmTime"]
        assert held(house, device)["active"] is False
        assert start_ms + 600_000 <= alarm_ms <= start_ms + 660_000
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        assert told(house) == ["CONNECT", "ACTIVITY"]
        assert held(house, device)["inactivityAlarmTime"] == 0


async def test_publishing_costs_no_commit_and_all_activity_is_written_once_a_minute_in_one_unit():
    async with watched_house() as house:
        sessions = [house.inlet.open_session(house.add_device(f"D{n}", f"t{n}"), FakeChannel()) for n in range(5)]
        await house.clock.advance(1)
        written = len(house.committer.units)
        for _ in range(55):
            for session in sessions:
                session.touch()
            await house.clock.advance(1)
        assert len(house.committer.units) == written
        await house.clock.advance(CHECK_S - 55)
        (unit,) = house.committer.units[written:]
        assert [list(change.values) for change in unit] == [["lastActivityTime"]] * 5
        await house.clock.advance(2 * CHECK_S)
        assert len(house.committer.units) == written + 1  # nobody said anything


async def test_a_device_says_itself_how_long_it_may_be_silent():
    async with watched_house() as house:
        device, other = house.add_device(), house.add_device("Pump", "pump")
        house.add_attributes(device, SERVER, inactivityTimeout=90_000)
        house.add_attributes(other, SERVER, inactivityTimeout=0)
        for one in (device, other):
            house.inlet.open_session(one, FakeChannel())
        await house.clock.advance(130)
        assert held(house, device)["active"] is False  # though it is connected
        assert held(house, other)["active"] is True
        message = next(message for message in house.rules.seen if message.type == "INACTIVITY_EVENT")
        assert message.data["inactivityTimeout"] == 90_000


async def test_a_clock_that_is_set_makes_nobody_inactive():
    async with watched_house() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        house.clock._now_ms += 86_400_000
        await house.clock.advance(CHECK_S + 1)
        assert held(house, device)["active"] is True
        house.clock._now_ms -= 2 * 86_400_000
        session.touch()
        await house.clock.advance(REPORT_S)
        await house.clock.advance(540)
        assert held(house, device)["active"] is True


async def test_a_device_that_came_and_went_between_two_sweeps_is_told_in_order():
    async with watched_house() as house:
        device = house.add_device()
        house.inlet.open_session(device, FakeChannel()).close()
        await house.clock.advance(1)
        assert told(house) == ["CONNECT", "ACTIVITY", "DISCONNECT"]
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        house.inlet.sessions()[device.id].close()
        house.inlet.open_session(device, FakeChannel())
        assert told(house) == ["CONNECT"]
        await house.clock.advance(1)
        assert told(house) == ["DISCONNECT", "CONNECT"]


async def test_a_second_login_is_no_disconnect():
    async with watched_house() as house:
        device = house.add_device()
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        told(house)
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        assert told(house) == []


async def test_sessions_through_gateways_connect_and_visits_are_activity_only():
    async with watched_house() as house:
        behind, asking = house.add_device("Behind", "b"), house.add_device("Asking", "a")
        sub = house.inlet.open_sub_session(behind, FakeChannel())
        own = house.inlet.open_session(behind, FakeChannel())
        visit = house.inlet.open_visit(asking, FakeChannel())
        visit.touch()
        visit.close()
        await house.clock.advance(REPORT_S)
        assert "lastConnectTime" in held(house, behind)
        assert held(house, asking).keys() == {"active", "inactivityAlarmTime", "lastActivityTime"}
        own.close()
        await house.clock.advance(1)
        assert "lastDisconnectTime" not in held(house, behind)  # one session is left
        sub.close()
        await house.clock.advance(1)
        assert "lastDisconnectTime" in held(house, behind)


async def test_a_device_on_a_dead_bus_is_not_connected_and_active_follows_its_readings():
    async with watched_house() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        session.fall_silent()  # opened by the bus, nothing read yet
        await house.clock.advance(CHECK_S)
        assert told(house) == []
        assert held(house, device) == {"active": False}
        assert not session.is_heard
        await session.post_telemetry([TsKv(1, {"t": 1})])
        await house.clock.advance(REPORT_S)
        assert told(house) == ["CONNECT", "ACTIVITY"]
        session.fall_silent()
        session.fall_silent()
        await house.clock.advance(1)
        assert told(house) == ["DISCONNECT"]
        await house.clock.advance(700)
        assert told(house) == ["INACTIVITY"]
        await session.post_telemetry([TsKv(2, {"t": 1})])
        await house.clock.advance(REPORT_S)
        assert told(house) == ["CONNECT", "ACTIVITY"]


@pytest.mark.parametrize("comes_back", [True, False])
async def test_after_a_kill_who_was_connected_was_disconnected_and_has_a_minute_to_come_back(comes_back):
    async with watched_house() as house:
        device = house.add_device()
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(CHECK_S)
        snapshot, now_ms = after(house), house.clock.now_ms()
    async with House(snapshot) as house:
        house.clock._now_ms = now_ms + 3_600_000
        watching = asyncio.create_task(house.inlet.connectivity.serve())
        if comes_back:
            house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(CHECK_S - 1)
        assert told(house) == (["DISCONNECT", "CONNECT"] if comes_back else ["DISCONNECT"])
        assert held(house, device)["active"] is True
        await house.clock.advance(2)
        assert told(house) == ([] if comes_back else ["INACTIVITY"])
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_stop_writes_who_left_and_what_was_in_memory_only():
    async with watched_house() as house:
        device, other = house.add_device(), house.add_device("Pump", "pump")
        session = house.inlet.open_session(device, FakeChannel())
        visit = house.inlet.open_visit(other, FakeChannel())
        await house.clock.advance(REPORT_S)
        visit.touch()
        await house.clock.advance(REPORT_S)
        session.close()
        stopped_ms = house.clock.now_ms()
        house.inlet.connectivity.stop()
        await settle()
        assert held(house, device)["lastDisconnectTime"] == stopped_ms
        assert held(house, other)["lastActivityTime"] == visit.last_activity_ms


async def test_one_device_that_cannot_be_written_stops_no_other_and_is_counted():
    async with watched_house() as house:
        device, other = house.add_device(), house.add_device("Pump", "pump")
        await settle()
        for one in (device, other):
            house.inlet.open_session(one, FakeChannel())
        house.committer.refuse_next = RejectedError("a node's change cannot be written")
        await house.clock.advance(1)
        assert (held(house, device), held(house, other)["active"]) == ({}, True)
        assert house.counters.all()["devices.states_not_written"] == 1


async def test_a_deleted_device_is_forgotten():
    async with watched_house() as house:
        device = house.add_device()
        house.inlet.open_session(device, FakeChannel())
        await house.clock.advance(1)
        assert house.inlet.connectivity.is_active(device.id)
        await house.commands.delete_device(device.id)
        told(house)
        await house.clock.advance(CHECK_S)
        assert told(house) == []
        assert not house.inlet.connectivity._records


async def test_what_a_chain_reports_of_a_device_is_known_after_the_commit_and_old_news_change_nothing():
    async with watched_house() as house:
        device, now_ms = house.add_device(), house.clock.now_ms()

        async def report(event, ts_ms):
            await house.pipeline.resume(Outcome(notices=[StateNotice(device.id, event, ts_ms)]))
            await settle()
            return told(house)

        assert await report("ACTIVITY_EVENT", now_ms - 5) == ["ACTIVITY"]
        assert await report("ACTIVITY_EVENT", now_ms - 4) == []
        assert await report("CONNECT_EVENT", now_ms - 3) == ["CONNECT"]
        assert await report("CONNECT_EVENT", now_ms - 4) == []
        assert await report("INACTIVITY_EVENT", now_ms - 4) == []
        assert await report("INACTIVITY_EVENT", now_ms + 1_000_000) == ["INACTIVITY"]
        assert await report("DISCONNECT_EVENT", now_ms) == ["DISCONNECT"]
        assert held(house, device) == {
            "active": False,
            "inactivityAlarmTime": now_ms,
            "lastActivityTime": now_ms - 4,
            "lastConnectTime": now_ms - 3,
            "lastDisconnectTime": now_ms,
        }
        await house.clock.advance(5)
        assert told(house) == []
        assert not house.inlet.connectivity.is_active(device.id)
