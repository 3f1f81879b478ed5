"""Devices behind a gateway: made once, announced in order, told of renames and deletions."""

import asyncio

import orjson
import pytest

from gateway.devices.notices import KEPT_MS, MAX_TRIES, MAX_WAITING, NOTICES
from gateway.devices.provisioning import ProvisionKey
from gateway.devices.state import REMOVED
from gateway.domain.changes import SaveDevice, SaveProfile, SaveSetting
from gateway.domain.downlink import LAST_GATEWAY
from gateway.domain.entity import Device, time_uuid
from gateway.domain.onboarding import ProvisionRequest
from gateway.domain.rpc import RpcResponse
from gateway.domain.telemetry import TsKv
from gateway.errors import FullError, RejectedError
from gateway.ports import Snapshot
from tests.fakes.house import FakeChannel, House, settle

CREATE = "ALLOW_CREATE_NEW_DEVICES"


def gateway_in(house, name="gw"):
    device = house.add_device(name, f"token of {name}")
    house.state.apply([SaveDevice(device)])
    return device


async def made(house, gateway, name="A", profile="pump"):
    _, receipt = house.inlet.sub_device(gateway, name, profile)
    await receipt
    return house.state.device_named(name)


async def test_a_new_device_its_profile_and_its_relation_are_one_unit_announced_before_its_data():
    async with House() as house:
        gateway = gateway_in(house)
        device = await made(house, gateway)
        house.inlet.open_sub_session(device, FakeChannel()).post_telemetry([TsKv(5, {"t": 1})])
        await settle()
        assert [(event.type, event.action) for event in house.committer.events()] == [
            ("DEVICE", "ADDED"),
            ("RELATION", "RELATION_ADD_OR_UPDATE"),
            ("DEVICE", "TIMESERIES_UPDATED"),
        ]
        relation = orjson.loads(house.committer.events()[1].body)
        assert (relation["from"]["id"], relation["to"]["id"], relation["type"]) == (
            str(gateway.id),
            str(device.id),
            "Created",
        )
        assert len(house.committer.units[0]) == 6
        assert house.state.profile_named("pump").id == device.profile_id
        assert (device.type, device.local_name, len(device.credentials.credentials_id)) == ("pump", None, 20)
        assert house.state.setting(f"{LAST_GATEWAY}{device.id}") == str(gateway.id)
        known, receipt = house.inlet.sub_device(gateway, "A", "other")
        assert (known.id, known.type, receipt) == (device.id, "pump", None)
        assert len(house.committer.events()) == 3


async def test_what_is_asked_for_while_it_is_made_is_the_same_device_and_the_same_profile():
    async with House() as house:
        gateway, other = gateway_in(house), gateway_in(house, "gw2")
        house.committer.hold()
        one = house.inlet.sub_device(gateway, "A", "pump")
        assert house.inlet.sub_device(other, "A", "") == one
        two = house.inlet.sub_device(gateway, "B", "pump")
        house.committer.release()
        await settle()
        assert one[0].profile_id == two[0].profile_id
        assert sum(isinstance(change, SaveProfile) for change in house.committer.changes()) == 1
        assert house.inlet.sub_device(gateway, "A", "")[1] is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("", "0 characters"), (" ", "not all blanks"), ("x" * 256, "256 characters"), ("a\nb", "control character at 1")],
)
async def test_a_bad_name_is_refused_clearly(name, text):
    async with House() as house:
        with pytest.raises(RejectedError, match=text):
            house.inlet.sub_device(gateway_in(house), name, "")
        with pytest.raises(RejectedError, match="profile"):
            house.inlet.sub_device(gateway_in(house), "A", name or "\x7f")
        assert house.committer.units == []


async def test_the_quota_and_a_configured_device_that_the_cloud_took_away():
    async with House() as house:
        gateway = gateway_in(house)
        house.inlet.sub_devices.max_devices = 2
        house.state.apply([SaveSetting(REMOVED, {"Boiler": {"id": "x", "at_ms": 1}})])
        with pytest.raises(RejectedError, match="deleted in the cloud"):
            house.inlet.sub_device(gateway, "Boiler", "")
        house.inlet.sub_device(gateway, "A", "")
        with pytest.raises(FullError, match="max_devices"):  # also while the first is being made
            house.inlet.sub_device(gateway, "B", "")


async def test_behind_another_gateway_the_cloud_is_told_once_and_the_older_session_ends():
    async with House() as house:
        gateway, other = gateway_in(house), gateway_in(house, "gw2")
        device = await made(house, gateway)
        first = FakeChannel()
        session = house.inlet.open_sub_session(device, first)
        count = len(house.committer.events())
        for _ in "12":
            house.inlet.sub_device(other, "A", "")
            await settle()
        house.inlet.open_sub_session(device, FakeChannel())
        assert [event.action for event in house.committer.events()[count:]] == ["UPDATED"]
        assert house.state.setting(f"{LAST_GATEWAY}{device.id}") == str(other.id)
        assert (first.closed, session.is_open) == (["taken_over"], False)


async def test_a_session_through_a_gateway_stands_beside_the_devices_own():
    async with House() as house:
        device = await made(house, gateway_in(house))
        own, through = FakeChannel(), FakeChannel()
        house.inlet.open_session(device, own)
        session = house.inlet.open_sub_session(device, through)
        session.subscribe_attributes(True)
        session.subscribe_rpc(True)
        assert own.closed == through.closed == []
        await house.commands.call_device(house.call(device))
        await settle()
        assert len(through.calls) == 1
        credentials = {"credentialsType": "ACCESS_TOKEN", "credentialsId": "new"}
        await house.commands.put_credentials(device.id, credentials)
        assert own.closed == ["not_authorized"]
        assert session.is_open  # it never showed any credentials
        await house.commands.delete_device(device.id)
        assert not session.is_open


def renamed(device, name):
    return {"name": name, "type": device.type, "deviceProfileId": None}


async def test_renames_and_deletions_are_told_to_the_last_gateway_also_later():
    async with House() as house:
        gateway = gateway_in(house)
        device = await made(house, gateway)
        await house.commands.put_device(device.id, renamed(device, "B"))
        await house.commands.delete_device(device.id)
        await settle()
        kept = house.state.setting(f"{NOTICES}{gateway.id}")
        assert [(notice["method"], notice["params"]) for notice in kept] == [
            ("gateway_device_renamed", {"A": "B"}),
            ("gateway_device_deleted", "B"),
        ]
        channel = FakeChannel()
        house.inlet.open_session(gateway, channel).subscribe_rpc(True)
        await settle()
        await house.rpc_done()
        await settle()
        assert [(call.method, call.params, call.is_oneway) for _, call in channel.calls] == [
            ("gateway_device_renamed", {"A": "B"}, True),
            ("gateway_device_deleted", "B", True),
        ]
        assert house.state.setting(f"{NOTICES}{gateway.id}") is None
        assert house.state.setting(f"{LAST_GATEWAY}{device.id}") is None
        assert house.answers() == []  # not the cloud's calls
        again = await made(house, gateway, "B")  # a gateway that goes on with it has a new device
        assert again.id != device.id


async def test_a_notice_survives_a_restart_and_ends_after_a_day_or_four_tries():
    gateway = Device(id=time_uuid(), name="gw", type="default")
    kept = [{"method": "gateway_device_deleted", "params": "A", "until_ms": 1 << 60, "tries": 0}]
    async with House(Snapshot(devices=[gateway], settings={f"{NOTICES}{gateway.id}": kept})) as house:
        notices = house.inlet.notices
        calls = []
        house.pipeline.on_call = calls.append
        for number in range(MAX_TRIES):
            notices.tell(gateway.id)
            notices.tell(gateway.id)  # one at a time
            assert len(calls) == number + 1
            calls[-1].resume(RpcResponse(error="TIMEOUT"))
        await settle()
        assert house.counters.get("devices.notices_dropped") == 1
        assert house.state.setting(f"{NOTICES}{gateway.id}") is None
        house.pipeline.commit(notices.add(gateway.id, "gateway_device_deleted", "B"))
        await house.clock.advance(KEPT_MS / 1000 + 1)
        notices.tell(gateway.id)
        await settle()
        assert house.counters.get("devices.notices_dropped") == 2
        assert len(calls) == MAX_TRIES


async def test_notices_are_bounded():
    async with House() as house:
        gateway = gateway_in(house)
        for number in range(MAX_WAITING + 5):
            house.pipeline.commit(house.inlet.notices.add(gateway.id, "gateway_device_deleted", str(number)))
        await settle()
        kept = house.state.setting(f"{NOTICES}{gateway.id}")
        assert (len(kept), kept[0]["params"]) == (MAX_WAITING, "5")


async def test_the_clouds_device_of_the_same_name_takes_the_place_of_one_it_has_never_heard_of():
    async with House() as house:
        gateway = gateway_in(house)
        device = await made(house, gateway)
        session = house.inlet.open_sub_session(device, FakeChannel())
        theirs = time_uuid()
        await house.commands.put_device(theirs, renamed(device, "A"))
        assert session.device.id == theirs
        assert session.is_open
        assert house.state.setting(f"{LAST_GATEWAY}{theirs}") == str(gateway.id)
        assert [key for kind, key in house.state.belongings(house.state.device(theirs).entity_id)] == [
            f"DEVICE:{gateway.id}>COMMON/Created>DEVICE:{theirs}"
        ]
        assert house.state.belongings(device.entity_id) == []


async def test_a_device_that_is_provisioned_meanwhile_is_the_one_behind_the_gateway():
    async with House() as house:
        gateway = gateway_in(house)
        house.inlet.provisioning.local = [ProvisionKey(profile="pump", type=CREATE, key="key", secret="s")]
        house.committer.hold()
        provisioning = asyncio.create_task(
            house.inlet.provision(ProvisionRequest(key="key", secret="s", device_name="A", token="tok"))
        )
        await settle()
        device, receipt = house.inlet.sub_device(gateway, "A", "")
        house.committer.release()
        assert (await provisioning).credentials.credentials_id == "tok"
        await receipt
        assert [known.id for known in house.state.devices() if known.name == "A"] == [device.id]


async def test_a_device_that_a_gateway_makes_is_not_provisioned_beside():
    async with House() as house:
        gateway = gateway_in(house)
        house.inlet.provisioning.local = [ProvisionKey(profile="pump", type=CREATE, key="key", secret="s")]
        house.committer.hold()
        device, _ = house.inlet.sub_device(gateway, "A", "")
        provisioning = asyncio.create_task(
            house.inlet.provision(ProvisionRequest(key="key", secret="s", device_name="A", token="tok"))
        )
        await settle()
        assert not provisioning.done()
        house.committer.release()
        assert (await provisioning).status == "FAILURE"
        assert [known.id for known in house.state.devices() if known.name == "A"] == [device.id]


async def test_a_device_of_the_cloud_that_comes_while_a_gateway_makes_it_takes_its_place():
    async with House() as house:
        gateway = gateway_in(house)
        house.committer.hold()
        _, receipt = house.inlet.sub_device(gateway, "A", "")
        clouds = time_uuid()
        coming = asyncio.create_task(house.commands.put_device(clouds, {"name": "A", "type": "pump"}))
        await settle()
        house.committer.release()
        await receipt
        await coming
        assert [known.id for known in house.state.devices() if known.name == "A"] == [clouds]


async def test_a_device_of_the_cloud_on_its_way_to_the_disk_is_the_one_behind_the_gateway():
    async with House() as house:
        gateway = gateway_in(house)
        house.committer.hold()
        clouds = time_uuid()
        coming = asyncio.create_task(house.commands.put_device(clouds, {"name": "A", "type": "pump"}))
        await settle()
        device, receipt = house.inlet.sub_device(gateway, "A", "")
        house.committer.release()
        await asyncio.gather(coming, receipt)
        assert device.id == clouds
        assert [known.id for known in house.state.devices() if known.name == "A"] == [clouds]


async def test_a_device_that_a_mapping_names_is_behind_nobody():
    async with House() as house:
        device, receipt = house.inlet.sub_device(None, "plug", "tasmota")
        await receipt
        assert [(event.type, event.action) for event in house.committer.events()] == [("DEVICE", "ADDED")]
        assert house.state.profile_named("tasmota").id == device.profile_id
        assert house.state.setting(f"{LAST_GATEWAY}{device.id}") is None
        gateway = gateway_in(house)
        house.inlet.sub_device(gateway, "plug", "")
        await settle()
        assert house.inlet.sub_device(None, "plug", "") == (house.state.device_named("plug"), None)
        assert house.state.setting(f"{LAST_GATEWAY}{device.id}") == str(gateway.id)
