"""What the simulated cloud can be told to be and to do: releases, flavours, endings, identities, every downlink."""

import asyncio
import contextlib
import time
from typing import Any
from uuid import UUID, uuid4

import grpc
import orjson
import pytest

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions, Flavour, SimDevice
from gateway.cloudsim.options import CustomerKind
from gateway.domain.entity import NULL_UUID
from gateway.errors import ConfigError, RejectedError
from tests.integration.cloud_sim_edge import Edge, halves, until


def options(**changes: Any) -> CloudSimOptions:
    return CloudSimOptions(http_port=None, poll_s=0.01, **changes)


@contextlib.asynccontextmanager
async def connected(**changes: Any):
    async with CloudSim(options(**changes)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        yield sim, edge


def names(msg: edge_pb2.DownlinkMsg) -> list[str]:
    return [field.name for field, _ in msg.ListFields() if field.name != "downlinkMsgId"]


def metadata(messages: list[edge_pb2.DownlinkMsg]) -> dict[str, Any]:
    held = next(msg.ruleChainMetadataUpdateMsg[0] for msg in messages if msg.ruleChainMetadataUpdateMsg)
    return orjson.loads(held.entity)


# ── releases and flavours ──


async def test_winstar_is_a_3_7_with_its_own_rule_nodes():
    async with connected(version="3.7", flavour=Flavour.WINSTAR) as (sim, edge):
        messages = await edge.sync(full=True)
        chain = next(msg.ruleChainUpdateMsg[0] for msg in messages if msg.ruleChainUpdateMsg)
        assert not any(msg.ruleChainMetadataUpdateMsg for msg in messages)  # on request only
        request = edge_pb2.RuleChainMetadataRequestMsg(ruleChainIdMSB=chain.idMSB, ruleChainIdLSB=chain.idLSB)
        await edge.uplink(ruleChainMetadataRequestMsg=[request])
        await until(lambda: edge.downlinks[-1].ruleChainMetadataUpdateMsg)
        types = {node["type"] for node in metadata(edge.downlinks)["nodes"]}
        assert all(type_.startswith("org.winstarcloud.rule.engine.") for type_ in types)
        text = orjson.dumps(metadata(edge.downlinks)).decode().replace("winstarcloud", "thingsboard")
        await edge.uplink(ruleChainMetadataUpdateMsg=[edge_pb2.RuleChainMetadataUpdateMsg(entity=text)])
        assert sim.state()["violation_counts"] == {"rule_node_brand": len(metadata(edge.downlinks)["nodes"])}


def test_winstar_has_no_other_release():
    with pytest.raises(ConfigError, match=r"3\.7 only"):
        CloudSimOptions(flavour=Flavour.WINSTAR)


async def test_field_30_had_another_shape_in_3_7():
    async with connected(version="3.7") as (_, edge):
        messages = await edge.sync(full=True)
        (msg,) = [msg for msg in messages if msg.oAuth2ClientUpdateMsg]
        (old,) = msg.oAuth2ClientUpdateMsg
        assert old.ListFields() == []  # as a newer schema reads it
        assert old.SerializeToString()[0] == 0x0A  # number 1, a text
        assert not any(msg.oAuth2DomainUpdateMsg for msg in messages)


@pytest.mark.parametrize(("announced", "comes"), [(7, False), (12, True)])
async def test_logins_are_withheld_from_an_old_edge(announced, comes):
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect(version=announced)
        messages = await edge.sync(full=True)
        assert any(msg.oAuth2DomainUpdateMsg for msg in messages) is comes


@pytest.mark.parametrize(("version", "stays"), [("3.7", True), ("4.0", True), ("4.2", True), ("4.3", False)])
async def test_a_device_that_the_edge_deletes(version, stays):
    async with connected(version=version) as (sim, edge):
        id_ = UUID(sim.device_state("Valve B")["id"])
        msb, lsb = halves(id_)
        await edge.uplink(deviceUpdateMsg=[edge_pb2.DeviceUpdateMsg(msgType=2, idMSB=msb, idLSB=lsb)])
        assert (sim.world.named("DEVICE", "Valve B") is not None) is stays
        messages = await edge.sync(full=False)
        sent = {orjson.loads(part.entity)["name"] for msg in messages for part in msg.deviceUpdateMsg}
        assert sent == {"Thermostat A"}
        if stays:
            assert sim.device_state("Valve B")["assigned"] is False
            await sim.assign_device("Valve B")
            await until(lambda: edge.downlinks[-1].deviceUpdateMsg)
            assert edge.downlinks[-1].deviceUpdateMsg[0].msgType == edge_pb2.ENTITY_CREATED_RPC_MESSAGE


async def test_a_device_that_the_cloud_unassigns_is_deleted_on_the_edge():
    async with connected() as (sim, edge):
        await sim.unassign_device("Valve B")
        await until(lambda: edge.downlinks)
        assert edge.downlinks[0].deviceUpdateMsg[0].msgType == edge_pb2.ENTITY_DELETED_RPC_MESSAGE
        assert not await sim.set_attributes("Valve B", "SHARED_SCOPE", {"a": 1})


async def test_an_upgrade_is_a_restart_as_another_release():
    async with CloudSim(options(version="3.7")) as sim:
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
            await sim.upgrade(version="4.3", cloud_type="PE")
            await until(lambda: edge.status)
        async with Edge(sim.grpc_port) as edge:
            answer = await edge.connect()
            assert answer.configuration.cloudType == "PE"
            messages = await edge.sync(full=True)
            assert metadata(messages)["firstNodeIndex"] == 2  # as 4.3 has it
            assert any(msg.deviceCredentialsUpdateMsg for msg in messages)
        with pytest.raises(RejectedError, match="not simulated"):
            await sim.upgrade(version="9.9")
        await sim.upgrade(flavour=Flavour.WINSTAR)
        assert (sim.state()["version"], sim.state()["flavour"]) == ("3.7", "winstar")


# ── everything once ──


@pytest.mark.parametrize("version", ["3.7", "4.0", "4.3"])
async def test_one_downlink_for_every_field(version):
    async with connected(version=version) as (sim, edge):
        wanted = {field.name for field in edge_pb2.DownlinkMsg.DESCRIPTOR.fields} - {"downlinkMsgId"}
        assert await sim.push_everything() == len(wanted)
        await until(lambda: len(edge.downlinks) == len(wanted))
        assert all(len(names(msg)) == 1 for msg in edge.downlinks)
        assert {names(msg)[0] for msg in edge.downlinks} == wanted
        for msg in edge.downlinks:
            for field, value in msg.ListFields():
                if field.message_type is not None and field.name != "syncCompletedMsg":
                    parts = value if field.name != "edgeConfiguration" else [value]
                    assert all(part.SerializeToString() for part in parts), field.name
        (call,) = next(msg.deviceRpcCallMsg for msg in edge.downlinks if msg.deviceRpcCallMsg)
        call.ClearField("requestMsg")
        call.responseMsg.error = "TIMEOUT"
        await edge.uplink(deviceRpcCallMsg=[call])
        await until(lambda: sim.state()["queued_downlinks"] == 0)
        assert sim.state()["violations"] == []


async def test_everything_needs_an_edge():
    async with CloudSim(options()) as sim:
        with pytest.raises(RejectedError, match="not connected"):
            await sim.push_everything()


async def test_a_large_full_sync_in_packs():
    async with connected(widgets=2_000) as (_, edge):
        edge.ack = None
        await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=True))
        seen = 0
        while True:
            await until(lambda seen=seen: len(edge.downlinks) > seen)
            pack = edge.downlinks[seen:]
            assert len(pack) <= 50
            seen += len(pack)
            for msg in pack:
                await edge.acknowledge(msg, success=True)
            if pack[-1].HasField("syncCompletedMsg"):
                break
        assert sum(len(msg.widgetTypeUpdateMsg) for msg in edge.downlinks) == 2_000


# ── syncs that fail ──


async def test_a_sync_that_fails_midway_blocks_until_the_edge_comes_again():
    async with CloudSim(options(faults=(("sync_fails_after", 2),))) as sim:
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
            await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=True))
            await until(lambda: len(edge.downlinks) == 2)
            await sim.rename_device("Valve B", "Valve C")
            await edge.uplink()
            with pytest.raises(RejectedError, match="running already"):
                await sim.sync()
            assert len(edge.downlinks) == 2
        sim.faults.update({"sync_fails_after": None})
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
            await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=True))
            await until(lambda: sim.state()["syncs_completed"] == 1)
            await until(lambda: sim.state()["queued_downlinks"] == 0)  # the new name, too


# ── connections that end, and that do not ──


async def test_silent_is_a_connection_that_stands_and_says_nothing():
    async with connected() as (sim, edge):
        sim.faults.update({"silent": True})
        id_ = await edge.post()
        await sim.rename_device("Valve B", "Valve C")
        async with Edge(sim.grpc_port) as other:
            connecting = asyncio.create_task(other.connect())
            await asyncio.sleep(0.1)
            assert (edge.answer(id_), edge.downlinks, other.connected, edge.status) == (None, [], None, None)
            assert sim.state()["uplink_msgs"] == 0
            sim.faults.update({"silent": False})
            await connecting
        await until(lambda: edge.status)  # the other took over


async def test_unavailable_is_a_refusal_of_its_own():
    async with CloudSim(options(faults=(("unavailable", True),))) as sim, Edge(sim.grpc_port) as edge:
        answer = await edge.connect()
        assert answer.responseCode == edge_pb2.SERVER_UNAVAILABLE
        await until(lambda: edge.status)
        assert edge.status == grpc.StatusCode.UNKNOWN


async def test_a_reset_comes_without_a_word_and_the_next_connect_is_taken():
    async with connected() as (sim, edge):
        assert await sim.reset() == 1
        await until(lambda: edge.status)
        assert edge.status == grpc.StatusCode.UNAVAILABLE
        assert "goaway" not in edge.details.lower()
        await until(lambda: not sim.is_edge_active)
        async with Edge(sim.grpc_port) as again:
            assert (await again.connect()).responseCode == edge_pb2.ACCEPTED
        assert await sim.reset() <= 1


async def test_goaway_lets_the_stream_end_and_takes_new_ones():
    async with connected() as (sim, edge):
        await sim.goaway(0.3)
        assert (await edge.uplink()).success  # still there
        started_s = time.monotonic()
        await until(lambda: edge.status)
        assert time.monotonic() - started_s < 2
        assert edge.status != grpc.StatusCode.OK
        async with Edge(sim.grpc_port) as again:
            assert (await again.connect()).responseCode == edge_pb2.ACCEPTED


@pytest.mark.parametrize(("version", "status"), [("4.3", grpc.StatusCode.OK), ("3.7", None)])
async def test_a_takeover(version, status):
    async with connected(version=version) as (sim, edge):
        await sim.takeover()
        if status is not None:
            await until(lambda: edge.status)
        id_ = None if edge.status is not None else await edge.post()
        await asyncio.sleep(0.05)
        assert edge.status == status
        assert id_ is None or edge.answer(id_) is None
        assert not sim.is_edge_active
        with pytest.raises(RejectedError, match="not connected"):
            await sim.takeover()


async def test_another_identity_under_the_same_key():
    async with CloudSim(options(devices=(SimDevice(name="Pump", token="tok"),))) as sim:
        async with Edge(sim.grpc_port) as edge:
            before = (await edge.connect()).configuration
            device = sim.device_state("Pump")["id"]
            await sim.new_identity()
            await until(lambda: edge.status)
            assert edge.status == grpc.StatusCode.OK
        async with Edge(sim.grpc_port) as edge:
            after = (await edge.connect()).configuration
            for name in ("edgeIdMSB", "tenantIdMSB"):
                assert getattr(before, name) != getattr(after, name)
            messages = await edge.sync(full=True)
            (sent,) = [msg for msg in messages if msg.deviceUpdateMsg]
            assert orjson.loads(sent.deviceUpdateMsg[0].entity)["id"]["id"] != device
            assert orjson.loads(sent.deviceCredentialsUpdateMsg[0].entity)["credentialsId"] == "tok"
            own = uuid4()
            answer = await edge.uplink(deviceUpdateMsg=[edge.device_update(own, "Own")])
            assert answer.success, answer.errorMsg


async def test_the_edge_is_told_its_new_name():
    async with connected() as (sim, edge):
        await sim.rename_edge("Plant 2")
        await until(lambda: edge.updates)
        assert edge.updates[0].configuration.name == "Plant 2"


# ── answers ──


async def test_latency_and_order_can_change_at_any_time():
    async with connected() as (sim, edge):
        sim.faults.update({"rtt_ms": 100})
        started_s = time.monotonic()
        await edge.uplink()
        assert time.monotonic() - started_s >= 0.09
        sim.faults.update({"rtt_ms": 0, "shuffle_answers": True})
        ids = [await edge.post() for _ in range(200)]
        await until(lambda: len(edge.answers) == 201)
        got = [answer.uplinkMsgId for answer in edge.answers[1:]]
        assert sorted(got) == ids
        assert got != ids


def test_faults_from_the_start_are_checked():
    with pytest.raises(ConfigError, match="unknown fault 'typo'"):
        CloudSim(options(faults=(("typo", True),)))


# ── what costs an edge dearly, and a server does not say ──


async def test_an_edge_that_was_deleted_is_refused_like_a_wrong_key():
    async with connected() as (sim, edge):
        sim.faults.update({"edge_deleted": True})
        await sim.end_session()
        await until(lambda: edge.status)
        assert edge.status is grpc.StatusCode.OK
        async with Edge(sim.grpc_port) as again:
            answer = await again.connect()
            assert answer.responseCode == edge_pb2.BAD_CREDENTIALS
            assert "demo-edge" in answer.errorMsg


async def test_an_alarm_has_the_customer_of_its_originator_or_none():
    async with connected(customer=CustomerKind.REAL) as (sim, edge):
        device = sim.world.device_named("Valve B")
        customer = {"entityType": "CUSTOMER", "id": str(sim.world.customer_id)}
        alarm = {"type": "Hot", "originator": device.json["id"], "customerId": customer}
        msg = edge_pb2.AlarmUpdateMsg(idMSB=1, idLSB=2, entity=orjson.dumps(alarm).decode())
        answer = await edge.uplink(alarmUpdateMsg=[msg])
        assert (answer.success, sim.state()["alarms"]) == (False, 0)
        assert "customer" in answer.errorMsg
        sim.world.add("DEVICE", device.id, {**device.json, "customerId": customer})
        assert (await edge.uplink(alarmUpdateMsg=[msg])).success


async def test_the_id_of_no_customer_takes_the_customer_away_and_is_noted():
    async with connected(customer=CustomerKind.REAL) as (sim, edge):
        device = sim.world.device_named("Valve B")
        customer = {"entityType": "CUSTOMER", "id": str(sim.world.customer_id)}
        sim.world.add("DEVICE", device.id, {**device.json, "customerId": customer})
        await edge.uplink(deviceUpdateMsg=[edge.device_update(device.id, "Valve B")])
        assert sim.world.device_named("Valve B").json["customerId"] == customer
        assert "customer_lost" not in sim.state()["violation_counts"]
        nobody = {"entityType": "CUSTOMER", "id": str(NULL_UUID)}
        await edge.uplink(deviceUpdateMsg=[edge.device_update(device.id, "Valve B", customerId=nobody)])
        assert sim.world.device_named("Valve B").json["customerId"] == nobody
        assert sim.state()["violation_counts"]["customer_lost"] == 1
