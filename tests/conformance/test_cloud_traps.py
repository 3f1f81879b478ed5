"""The traps of the edge protocol, one test each: what a server takes without a word and lets the edge pay for later.

The other side is the strict simulated cloud over a real connection, so each test also asks it for its complaints.
"""

import asyncio
import logging
import re
from uuid import uuid4

import orjson
import pytest

from gateway.cloud.codec import halves
from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloudsim import SimDevice, entities
from gateway.cloudsim.entities import reference
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.options import CustomerKind
from gateway.domain.cloud_event import Lane
from gateway.domain.entity import NULL_UUID, time_uuid
from gateway.domain.rpc import RpcError, RpcResponse
from gateway.domain.telemetry import TsKv
from tests.conformance.cloud_house import CloudHouse, connected, strict_sim, until


async def test_trap_01_a_message_at_the_announced_limit_never_kills_the_stream(tmp_path):
    limit = 40_000
    async with connected(tmp_path, max_inbound=limit, cloud={"max_inbound_bytes": limit}) as (sim, house):
        await house.post("Boiler", 60, text="x" * 2_000)  # a full batch of these would be 120 kB
        await house.session("Boiler").post_telemetry(
            [TsKv(1_700_000_000_000, {f"k{n}": "y" * 2_000 for n in range(30)})]
        )
        await house.session("Boiler").post_telemetry([TsKv(1_700_000_000_000, {"huge": "z" * 50_000})])
        await house.post("Boiler", 1)
        await house.settled()
        house.arrived("Boiler")
        assert {f"k{n}" for n in range(30)} <= sim.device_state("Boiler")["telemetry"].keys()  # cut, not dropped
        (parked,) = await house.store.events.parked(10)
        assert "huge" in parked.reason

        device_id = house.device("Boiler").id

        def event(count: int) -> EdgeEvent:
            body = {"kv": {"big": "b" * count}, "scope": "SHARED_SCOPE", "ts": sim.now_ms()}
            return EdgeEvent("DEVICE", "ATTRIBUTES_UPDATED", device_id, body, sim.now_ms())

        msg = sim.converter.convert(event(39_000))
        msg.downlinkMsgId = 1 << 30
        msg.entityData[0].attributesUpdatedMsg.kv[0].string_v += "b" * (limit - msg.ByteSize())
        assert msg.ByteSize() == limit  # the wrapped message is larger than that
        sim.push_raw(msg)
        await until(lambda: house.channels["Boiler"].attributes, "the largest downlink did not arrive")
        assert sim.state()["connects"] == 1
        house.unblemished()


async def test_trap_02_our_limit_is_announced_and_larger_downlinks_stay_in_the_cloud(tmp_path):
    async with connected(tmp_path, cloud={"max_inbound_bytes": 20_000}) as (sim, house):
        house.session("Boiler")
        assert sim.heard[0].connectRequestMsg.maxInboundMessageSize == 20_000
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"big": "b" * 30_000})
        await until(lambda: sim.state()["downlink_too_big"], "it was sent")
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"small": 1})
        await until(lambda: house.channels["Boiler"].attributes, "the small one did not arrive")
        assert house.channels["Boiler"].attributes == [{"small": 1}]
        assert (sim.state()["downlink_too_big"], sim.state()["connects"]) == (1, 1)
        house.unblemished()


async def test_trap_03_empty_telemetry_is_never_sent(tmp_path):
    async with connected(tmp_path) as (sim, house):
        device_id = house.device("Boiler").id
        for body in (b'{"ts":1,"data":{}}', b'{"ts":1,"data":{"a":null}}', b'{"ts":1}', b"{}", None):
            await house.event("DEVICE", "TIMESERIES_UPDATED", device_id, body)
        for body in (b'{"kv":{}}', b'{"kv":{"a":null}}'):
            await house.event("DEVICE", "ATTRIBUTES_UPDATED", device_id, body)
        await house.session("Boiler").post_telemetry([TsKv(house.clock.now_ms(), {})])
        await house.post("Boiler", 3)
        await house.settled()
        house.arrived("Boiler")
        assert (sim.state()["empty_telemetry"], sim.state()["uplink_unanswered"]) == (0, 0)
        for request in sim.heard:
            for data in request.uplinkMsg.entityData:
                assert all(item.kv for item in data.postTelemetryMsg.tsKvList)
                assert data.postTelemetryMsg.tsKvList
        house.unblemished()


@pytest.mark.parametrize("announced", ["3.7.0", "4.0.0", "4.2.0", "4.3.0"])
async def test_trap_04_the_announced_version_is_set_and_selects_the_json_dialect(tmp_path, announced):
    async with connected(tmp_path, version="3.7", cloud={"edge_version": announced}) as (sim, house):
        assert sim.session is not None
        assert sim.session.announced >= edge_pb2.V_3_6_2  # below it servers up to 3.9 speak another dialect
        name = sim.state()["edge"]["attributes"]["edgeVersion"]
        assert name == "V_" + announced.replace(".", "_")
        house.unblemished()


async def test_trap_05_every_downlink_is_acknowledged_at_once_also_an_unknown_one(tmp_path):
    async with connected(tmp_path, ack_within_s=1.0, resend_interval_s=1.5) as (sim, house):
        pushed = await sim.push_everything()
        later = edge_pb2.DownlinkMsg(downlinkMsgId=7)
        later.MergeFromString(b"\xc2\x0c\x03abc")  # field 200, of a release to come
        sim.push_raw(later)
        sim.push_raw(edge_pb2.DownlinkMsg(downlinkMsgId=0))  # 0 is a legal id, and absent on the wire
        await until(lambda: len(sim.acknowledgements()) >= pushed + 2, "acknowledgements are missing")
        await house.heard()
        state = sim.state()
        assert (state["downlink_acked"], state["downlink_resent"]) == (state["downlink_sent"], 0)
        house.unblemished()


async def test_trap_06_acknowledgements_travel_as_uplink_messages(tmp_path):
    async with connected(tmp_path) as (sim, house):
        await house.heard()
        assert len(sim.acknowledgements()) == sim.state()["downlink_sent"] > 10
        assert {one.msgType for one in sim.acknowledgements()} == {edge_pb2.UPLINK_RPC_MESSAGE}
        house.unblemished()


@pytest.mark.parametrize("version", ["3.7", "4.3"])
async def test_trap_07_data_that_can_never_be_applied_are_acknowledged_with_success(tmp_path, version):
    async with connected(tmp_path, version=version) as (sim, house):
        house.session("Boiler")
        high, low = halves(house.device("Boiler").id)
        nobody = uuid4()
        for body in ({"kv": {"a": 1}, "scope": "SHARED_SCOPE", "ts": 5}, {"keys": ["a"], "scope": "SHARED_SCOPE"}):
            action = "ATTRIBUTES_UPDATED" if "kv" in body else "ATTRIBUTES_DELETED"
            sim.push(EdgeEvent("DEVICE", action, nobody, body, 5))
        sim.push(EdgeEvent("DEVICE", "TIMESERIES_UPDATED", nobody, {"ts": 5, "data": {"a": 1}}))
        broken = queue_pb2.KeyValueProto(key="a", type=queue_pb2.JSON_V, json_v="{")
        known = edge_pb2.EntityDataProto(entityIdMSB=high, entityIdLSB=low, entityType="DEVICE")
        for scope, kv in (("NO_SCOPE", queue_pb2.KeyValueProto(key="a", type=1, long_v=1)), ("SHARED_SCOPE", broken)):
            msg = edge_pb2.DownlinkMsg(downlinkMsgId=11 + len(scope), entityData=[known])
            msg.entityData[0].postAttributeScope = scope
            msg.entityData[0].attributesUpdatedMsg.kv.append(kv)
            sim.push_raw(msg)
        msg = edge_pb2.DownlinkMsg(downlinkMsgId=12, entityData=[known])
        msg.entityData[0].postTelemetryMsg.tsKvList.add(ts=5, kv=[broken])
        sim.push_raw(msg)
        mixed = edge_pb2.DownlinkMsg(downlinkMsgId=13, entityData=[known])  # beside data, an entity that is no JSON
        mixed.deviceUpdateMsg.add(idMSB=1, idLSB=2, entity="{")
        sim.push_raw(mixed)
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"good": 1})
        await until(lambda: {"good": 1} in house.channels["Boiler"].attributes, "the good one behind them is stuck")
        await house.heard()
        assert all(one.downlinkResponseMsg.success for one in sim.acknowledgements())
        assert sim.state()["downlink_resent"] == 0
        house.unblemished()


async def test_trap_08_a_device_is_created_before_its_telemetry(tmp_path):
    names = [f"Pump {number}" for number in range(20)]
    async with strict_sim() as sim, CloudHouse(tmp_path, sim, names, profile="pump") as house:
        await asyncio.gather(*(house.post(name, 5) for name in names))  # before the cloud was ever seen
        house.connect()
        await house.ready()
        await asyncio.gather(*(house.post(name, 5) for name in names))
        await house.settled()
        for name in names:
            house.arrived(name)
        assert (sim.state()["dropped_unknown"], sim.state()["uplink_failures"]) == (0, 0)
        house.unblemished()


@pytest.mark.parametrize("version", ["4.0", "4.3"])
async def test_trap_09_of_attributes_that_change_quickly_the_last_one_stays(tmp_path, version):
    async with connected(tmp_path, version=version) as (sim, house):
        session = house.session("Boiler")
        await asyncio.gather(*(session.post_attributes({"mode": number}) for number in range(200)))
        await house.settled()
        assert sim.device_state("Boiler")["attributes"]["CLIENT_SCOPE"] == {"mode": 199}
        assert sim.state()["stale_attributes"] == 0
        house.unblemished()


async def test_trap_10_attributes_always_carry_their_scope(tmp_path):
    async with connected(tmp_path, version="4.0") as (sim, house):
        device_id = house.device("Boiler").id
        await house.session("Boiler").post_attributes({"client": 1})
        await house.event("DEVICE", "ATTRIBUTES_UPDATED", device_id, b'{"kv":{"server":1}}')
        await house.event("DEVICE", "POST_ATTRIBUTES", device_id, b'{"kv":{"posted":1},"scope":""}')
        await house.event("DEVICE", "ATTRIBUTES_UPDATED", device_id, b'{"kv":{"odd":1},"scope":"NO_SCOPE"}')
        await house.settled()
        held = sim.device_state("Boiler")["attributes"]
        assert held["CLIENT_SCOPE"] == {"client": 1}
        assert held["SERVER_SCOPE"] == {"server": 1, "posted": 1}
        (parked,) = await house.store.events.parked(10)
        assert "NO_SCOPE" in parked.reason  # never sent: the cloud would answer with a stack trace
        assert sim.state()["uplink_failures"] == 0
        house.unblemished()


async def test_trap_11_an_rpc_error_is_one_of_the_five_names(tmp_path):
    async with connected(tmp_path) as (sim, house):
        boiler = house.device("Boiler")
        absent = await sim.rpc("Valve B", "set", oneway=True)  # a device without a session
        assert absent.error == RpcError.NO_ACTIVE_CONNECTION
        house.session("Boiler")
        house.channels["Boiler"].answer = RpcResponse(error=RpcError.INTERNAL)
        refused = await sim.rpc("Boiler", "set")
        assert refused.error == RpcError.INTERNAL
        number, _, answer = sim.rpc_calls.open(
            boiler.id, "set", {}, expires_ms=sim.now_ms() + 9_000, oneway=False, persisted=False
        )
        uuid = sim.rpc_calls._calls[number].uuid
        body = {"requestId": number, "requestUUID": str(uuid), "error": "the valve is stuck"}
        await house.event("DEVICE", "RPC_CALL", boiler.id, orjson.dumps(body))
        assert (await asyncio.wait_for(answer, 10)).error == RpcError.INTERNAL
        await house.settled()
        assert sim.state()["uplink_failures"] == 0
        house.unblemished()


async def test_trap_12_a_one_way_call_is_answered_with_an_empty_object(tmp_path):
    async with connected(tmp_path) as (sim, house):
        house.session("Boiler")
        result = await sim.rpc("Boiler", "reboot", oneway=True)
        assert (result.response, result.error) == ("{}", None)
        assert [call.method for _, call in house.channels["Boiler"].calls] == ["reboot"]
        assert sim.state()["rpc_oneway_unanswered"] == 0
        house.unblemished()


async def test_trap_13_a_renamed_device_takes_the_clouds_name_and_keeps_its_own_as_an_alias(tmp_path):
    async with strict_sim() as sim:
        await sim.create_device("Boiler", token="another")
        await sim.unassign_device("Boiler")  # somebody else's: the name is taken, and the sync does not say so
        async with CloudHouse(tmp_path, sim) as house:
            house.connect()
            await house.ready()
            renamed = await until(
                lambda: next((one for one in house.state.devices() if one.name.startswith("Boiler_")), None),
                "the new name did not arrive",
            )
            assert renamed.local_name == "Boiler"
            for _ in range(3):
                await house.event("DEVICE", "UPDATED", renamed.id)
            await house.post("Boiler", 5)
            await house.settled()
            house.arrived("Boiler")
            assert sim.state()["renamed"] == 1  # later updates are no new clash
            house.unblemished()


async def test_trap_13_a_rename_onto_the_name_of_a_device_made_offline_loses_nothing_and_shows_both(tmp_path):
    async with strict_sim() as sim:
        await sim.create_device("Pump A", token="pump-a")
        async with CloudHouse(tmp_path, sim) as house:
            house.connect()
            await house.ready()
            await house.heard()
            first = house.device("Pump A").id
            await house.post("Pump A", 3)
            await house.settled()
        async with CloudHouse(tmp_path, sim) as house:  # the link is down
            gateway = house.device("Boiler")
            await house.inlet.sub_device(gateway, "Pump B", "default")[1]
            second = house.state.device_named("Pump B").id
            await sim.rename_device("Pump A", "Pump B")
            house._sequence["Pump A"] = 3
            await asyncio.gather(house.post("Pump A", 3), house.post("Pump B", 3))
            house.connect()
            await house.ready()
            await until(lambda: sim.state()["renamed"] == 1, "the cloud has not named the new one")
            await house.heard()
            for name, device_id in (("Pump A", first), ("Pump B", second)):
                assert house.inlet.sub_device(gateway, name, "")[0].id == device_id
                house._sessions.pop(name).close()
                house.channels.pop(name)
            assert house.state.device(first).name == "Pump B"
            assert re.fullmatch("Pump B_[A-Za-z]{15}", house.state.device(second).name)
            seen = {device_id: sim.device_state(house.state.device(device_id).name) for device_id in (first, second)}
            assert [(one["seq_high"], one["missing"]) for one in seen.values()] == [(6, 0), (3, 0)]
            house.unblemished()


async def test_trap_14_an_update_of_a_device_never_takes_its_customer_away(tmp_path):
    async with strict_sim(customer=CustomerKind.REAL, devices=(SimDevice(name="Valve B"),)) as sim:
        customer = reference("CUSTOMER", sim.world.of_type("CUSTOMER")[0].id)
        valve = sim.world.device_named("Valve B")
        sim.world.add("DEVICE", valve.id, {**valve.json, "customerId": reference("CUSTOMER", NULL_UUID)})
        async with CloudHouse(tmp_path, sim) as house:
            house.connect()
            await house.ready()
            await house.heard()
            boiler = house.device("Boiler")
            for id_ in (valve.id, boiler.id):  # assigned in the cloud, and the edge has not heard of it yet
                held = sim.world.get("DEVICE", id_)
                assert held is not None
                sim.world.add("DEVICE", id_, {**held.json, "customerId": customer})
                await house.event("DEVICE", "UPDATED", id_)
            await house.settled()
            for name in ("Valve B", "Boiler"):
                assert sim.world.device_named(name).json["customerId"] == customer
            house.unblemished()


async def test_trap_15_an_alarm_that_the_cloud_has_is_cleared_under_the_clouds_id(tmp_path):
    async with connected(tmp_path) as (sim, house):
        boiler = house.device("Boiler")
        made = entities.alarm(
            time_uuid(), sim.now_ms(), sim.world.tenant_id, reference("DEVICE", boiler.id), "Overheat"
        )
        held = sim.world.add("ALARM", time_uuid(), made)
        sim.world.add("ALARM", held.id, {**made, "id": reference("ALARM", held.id)})
        sim.push(EdgeEvent("ALARM", "ADDED", held.id))
        found = await until(lambda: house.state.open_alarm(boiler.entity_id, "Overheat"), "the alarm did not arrive")
        assert found[0] == str(held.id)  # one active alarm per originator and type: this one, not another of ours
        cleared = {**found[1], "cleared": True, "clearTs": sim.now_ms()}
        await house.event("ALARM", "ALARM_CLEAR", held.id, orjson.dumps(cleared))
        await house.settled()
        (alarm,) = sim.world.of_type("ALARM")
        assert alarm.json["cleared"] is True
        house.unblemished()


async def test_trap_16_a_stream_completed_with_ok_is_a_loss_and_the_link_comes_back(tmp_path):
    async with connected(tmp_path) as (sim, house):
        for connects, count in ((2, 0), (3, 20)):  # at first nothing is on its way whose answer could be missed
            if count:
                await house.post("Boiler", count)
            await sim.end_session()
            await house.ready(connects)
        await house.settled()
        house.arrived("Boiler")
        house.unblemished()


async def test_trap_17_what_changed_in_the_cloud_while_we_were_away_comes_with_the_next_sync(tmp_path):
    async with connected(tmp_path) as (sim, house):
        await sim.offline(0.3)
        await until(lambda: not sim.is_edge_active, "the stream stands")
        await sim.rename_device("Valve B", "Valve C")
        await sim.create_device("Fan", token="fan-token")
        assert sim.state()["lost_downlinks"] == 2  # the server does not queue these for an edge that is away
        await house.ready(2)
        assert {"Valve C", "Fan"} <= {device.name for device in house.state.devices()}
        assert house.inlet.find_credentials("fan-token") is not None
        assert sim.syncs_asked() == [True, False]  # all of it once, then the cheap one each time
        house.unblemished()


async def test_trap_18_an_entity_goes_back_complete_and_unchanged(tmp_path):
    async with connected(tmp_path, devices=("Boiler", "Mixer")) as (sim, house):
        await sim.sync(is_full=False)  # now ours have the cloud's JSON too
        await house.heard()
        await until(lambda: sim.state()["syncs_completed"] == 2, "the sync does not end")
        before = {device.id: device.json for device in sim.world.of_type("DEVICE")}
        for device_id in before:
            await house.event("DEVICE", "UPDATED", device_id)
        await house.settled()
        assert sim.count("unchanged") >= len(before)  # "content equal": nothing was saved
        after = {device.id: device.json for device in sim.world.of_type("DEVICE")}
        assert {id_: json["createdTime"] for id_, json in after.items()} == {
            id_: json["createdTime"] for id_, json in before.items()
        }
        assert all(json["createdTime"] > 1_600_000_000_000 for json in after.values())
        house.unblemished()


async def test_trap_19_a_reading_never_goes_up_without_its_time(tmp_path):
    async with connected(tmp_path) as (sim, house):
        device_id, before_ms = house.device("Boiler").id, house.clock.now_ms()
        await house.event("DEVICE", "TIMESERIES_UPDATED", device_id, b'{"data":{"t":1}}')
        await house.event("DEVICE", "TIMESERIES_UPDATED", device_id, b'{"ts":null,"data":{"u":1}}')
        await house.event("DEVICE", "ATTRIBUTES_UPDATED", device_id, b'{"kv":{"a":1},"ts":0,"scope":"SERVER_SCOPE"}')
        await house.settled()
        held = sim.device_state("Boiler")
        assert {key for key, item in held["telemetry"].items() if item["ts"] >= before_ms} == {"t", "u"}
        assert held["attributes"]["SERVER_SCOPE"] == {"a": 1}
        sent = [data for request in sim.heard for data in request.uplinkMsg.entityData]
        assert min(data.attributeTs for data in sent if data.HasField("attributesUpdatedMsg")) >= before_ms
        house.unblemished()


async def test_trap_20_a_text_that_looks_like_a_number_stays_the_text_that_its_owner_sent(tmp_path):
    async with connected(tmp_path) as (sim, house):
        session = house.session("Boiler")
        await session.post_telemetry([TsKv(house.clock.now_ms(), {"serial": "0017", "level": 17})])
        await session.post_attributes({"order": "0042"})
        await house.settled()
        held = sim.device_state("Boiler")
        assert [held["telemetry"][key]["value"] for key in ("serial", "level")] == ["0017", 17]
        assert held["attributes"]["CLIENT_SCOPE"] == {"order": "0042"}
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"target": "21"})
        await until(lambda: house.channels["Boiler"].attributes, "no push")
        assert house.channels["Boiler"].attributes == [{"target": 21}]  # the server's own cast, taken as it comes
        house.unblemished()


async def test_trap_21_key_and_secret_reach_neither_log_nor_status_nor_disk(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = {"routing_key": "key-of-plant-7", "routing_secret": "secret-of-plant-7"}
    async with strict_sim(**secrets) as sim:
        for wrong in ({"routing_secret": "misspelt-secret"}, {"routing_key": "misspelt-key"}):
            async with CloudHouse(tmp_path, sim, **{**secrets, **wrong}) as house:
                house.connect()
                await until(lambda house=house: house.link.status()["last_error"], "no refusal")
                assert "routing key" in house.link.status()["last_error"]
                assert "misspelt" not in str(house.link.status())
        async with CloudHouse(tmp_path, sim, **secrets) as house:
            house.connect()
            await house.ready()
            await sim.push_edge_update()
            await sim.set_customer(CustomerKind.REAL)  # the configuration comes down both ways, with its secret
            await house.heard()
            shown = str(house.link.status())
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    for text in (*secrets.values(), "misspelt"):
        assert text not in caplog.text
        assert text not in shown
        assert text.encode() not in kept


async def test_trap_22_a_full_sync_of_thousands_of_messages_is_taken_quickly_and_not_kept(tmp_path):
    count = 1500
    async with connected(tmp_path, widgets=count, ack_within_s=5.0) as (sim, house):
        assert sim.state()["downlink_acked"] > count
        assert sim.state()["downlink_resent"] == 0
        await house.store.maintain()
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        assert b"templateHtml" not in kept  # what a widget is made of
        for secret in (entities.PASSWORD_HASH, entities.MAIL_PASSWORD, entities.OAUTH2_SECRET):
            assert secret.encode() not in kept
        assert house.store.events.last(Lane.MAIN) < 50  # nothing was asked for in return
        house.unblemished()
