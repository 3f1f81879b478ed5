"""The strict peer: what an edge does wrong is noted, by kind; what is right is not."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import grpc
import orjson
import pytest

from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions, CustomerKind
from tests.integration.cloud_sim_edge import Edge, attributes, credentials_update, halves, kv, telemetry, until

TS = 1_718_000_000_000


@contextlib.asynccontextmanager
async def connected(**changes: Any):
    options = CloudSimOptions(http_port=None, poll_s=0.01, **changes)
    async with CloudSim(options) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        yield sim, edge


def counts(sim: CloudSim) -> dict[str, int]:
    return sim.state()["violation_counts"]


def device_id(sim: CloudSim, name: str = "Thermostat A") -> UUID:
    return UUID(sim.device_state(name)["id"])


async def test_a_well_behaved_edge_has_none():
    async with connected() as (sim, edge):
        await edge.sync(full=True)
        new = uuid4()
        await edge.uplink(
            deviceUpdateMsg=[edge.device_update(new, "Pump")],
            deviceCredentialsUpdateMsg=[credentials_update(new, "tok-pump")],
        )
        zeros = telemetry(new, TS, a=0, b=0.0, c=False, d="")
        await edge.uplink(entityData=[zeros, attributes(new, "CLIENT_SCOPE", TS, fw="1")])
        await edge.uplink(entityData=[attributes(new, "CLIENT_SCOPE", TS + 1, fw="2")])
        call = asyncio.create_task(sim.rpc("Pump", "open", oneway=True, timeout_ms=2_000))
        await answer_rpc(edge, await asked(edge))
        await call
        await sim.delete_device("Pump")
        await until(lambda: edge.downlinks[-1].deviceUpdateMsg)
        await edge.uplink(entityData=[telemetry(new, TS, a=1)])  # was on its way: nobody's fault
        assert sim.state()["violations"] == []


def data(id_: UUID, type_: str = "DEVICE", **fields: Any) -> edge_pb2.EntityDataProto:
    msb, lsb = halves(id_)
    return edge_pb2.EntityDataProto(entityIdMSB=msb, entityIdLSB=lsb, entityType=type_, **fields)


def series(ts: int, *kvs: queue_pb2.KeyValueProto) -> queue_pb2.PostTelemetryMsg:
    return queue_pb2.PostTelemetryMsg(tsKvList=[queue_pb2.TsKvListProto(ts=ts, kv=kvs)])


KV = queue_pb2.KeyValueProto


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("zero_ts", {"postTelemetryMsg": series(0, kv("t", 1))}),
        ("empty_telemetry", {"postTelemetryMsg": series(TS)}),
        ("no_value", {"postTelemetryMsg": series(TS, KV(key="t", long_v=5))}),
        ("no_value", {"postTelemetryMsg": series(TS, KV(key="t", type=1, string_v="5"))}),
        ("no_value", {"postTelemetryMsg": series(TS, KV(key="t", type=4))}),
        ("entity_type", {"type_": "GADGET", "postTelemetryMsg": series(TS, kv("t", 1))}),
        ("entity_type", {"type_": "RULE_NODE", "postTelemetryMsg": series(TS, kv("t", 1))}),
        ("attribute_scope", {"attributesUpdatedMsg": {"kv": [kv("t", 1)]}, "attributeTs": TS}),
        (
            "attribute_scope",
            {"postAttributesMsg": {"kv": [kv("t", 1)]}, "attributeTs": TS, "postAttributeScope": "CLIENT"},
        ),
        (
            "attribute_ts_missing",
            {"attributesUpdatedMsg": {"kv": [kv("t", 1)]}, "postAttributeScope": "CLIENT_SCOPE"},
        ),
    ],
)
async def test_bad_data(kind, fields):
    async with connected() as (sim, edge):
        await edge.uplink(entityData=[data(device_id(sim), **fields)])
        assert counts(sim) == {kind: 1}
        assert sim.state()["violations"][0].startswith(kind)


async def test_telemetry_without_a_list_is_never_answered():
    async with connected() as (sim, edge):
        id_ = await edge.post(entityData=[data(device_id(sim), postTelemetryMsg=queue_pb2.PostTelemetryMsg())])
        await edge.uplink()
        assert edge.answer(id_) is None
        assert counts(sim) == {"empty_telemetry": 1}


async def test_attribute_time_stamps_are_of_no_matter_before_4_0():
    async with connected(version="3.9") as (sim, edge):
        await edge.uplink(entityData=[attributes(device_id(sim), "CLIENT_SCOPE", None, fw="1")])
        assert counts(sim) == {}


async def test_a_constant_attribute_time_stamp():
    async with connected() as (sim, edge):
        for value in ("1", "1", "2"):
            await edge.uplink(entityData=[attributes(device_id(sim), "CLIENT_SCOPE", TS, fw=value)])
        assert counts(sim) == {"attribute_ts_constant": 1}


async def test_data_of_what_does_not_exist():
    async with connected() as (sim, edge):
        assert (await edge.uplink(entityData=[telemetry(uuid4(), TS, t=1)])).success
        assert counts(sim) == {"unknown_entity": 1}
        assert sim.state()["dropped_unknown"] == 1


async def test_data_beyond_the_quota_are_no_surprise():
    async with connected(faults=(("device_quota", 0),)) as (sim, edge):
        new = uuid4()
        await edge.uplink(deviceUpdateMsg=[edge.device_update(new, "Pump")])
        await edge.uplink(entityData=[telemetry(new, TS, t=1)])
        assert (sim.state()["quota_reached"], sim.state()["dropped_unknown"]) == (1, 1)
        assert counts(sim) == {}


async def test_half_an_id():
    async with connected() as (sim, edge):
        half = edge_pb2.EntityDataProto(entityIdMSB=5, entityType="DEVICE", postTelemetryMsg=series(TS, kv("t", 1)))
        await edge.uplink(entityData=[half])
        await edge.uplink(relationRequestMsg=[edge_pb2.RelationRequestMsg(entityIdLSB=5, entityType="DEVICE")])
        assert counts(sim)["half_id"] == 2


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("entity_json", {"createdTime": None}, "createdTime"),
        ("entity_json", {"createdTime": 0}, "createdTime"),
        ("entity_json", {"id": None}, "id is missing"),
        ("entity_json", {"id": {"id": "0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b"}}, "entityType"),
        ("entity_json", {"tenantId": None}, "tenantId"),
        ("entity_json", {"tenantId": {"entityType": "TENANT", "id": str(UUID(int=7))}}, "tenantId"),
        ("customer_unknown", {"customerId": {"entityType": "CUSTOMER", "id": str(UUID(int=9))}}, str(UUID(int=9))),
    ],
)
async def test_an_entity_without_its_mandatory_keys(kind, changes, text):
    async with connected() as (sim, edge):
        await edge.uplink(deviceUpdateMsg=[edge.device_update(uuid4(), "Pump", **changes)])
        assert kind in counts(sim)
        assert any(text in line for line in sim.state()["violations"])


async def test_parts_that_this_release_does_not_act_on_are_checked_too():
    async with connected(version="3.7") as (sim, edge):
        await edge.uplink(dashboardUpdateMsg=[edge_pb2.DashboardUpdateMsg(idMSB=1, idLSB=2, entity="[]")])
        assert counts(sim) == {"entity_json": 1}


async def test_a_profile_that_comes_back_as_the_cloud_had_sent_it():
    async with connected() as (sim, edge):
        messages = await edge.sync(full=False)
        sent = next(msg.deviceProfileUpdateMsg[0] for msg in messages if msg.deviceProfileUpdateMsg)
        await edge.uplink(deviceProfileUpdateMsg=[sent])
        assert counts(sim) == {"profile_echo": 1}
        own = orjson.loads(sent.entity) | {"name": "Own", "default": False}
        msb, lsb = halves(new := uuid4())
        own["id"] = {"entityType": "DEVICE_PROFILE", "id": str(new)}
        for _ in range(2):  # its own profile, and again: allowed
            text = orjson.dumps(own).decode()
            await edge.uplink(
                deviceProfileUpdateMsg=[edge_pb2.DeviceProfileUpdateMsg(idMSB=msb, idLSB=lsb, entity=text)]
            )
        assert counts(sim) == {"profile_echo": 1}


# ── the session ──


async def test_before_the_connect():
    async with CloudSim(CloudSimOptions(http_port=None)) as sim, Edge(sim.grpc_port) as edge:
        await edge.post()
        await edge.connect()
        assert counts(sim) == {"before_connect": 1}


async def test_before_it_was_accepted():
    options = CloudSimOptions(http_port=None, rtt_ms=100)
    async with CloudSim(options) as sim, Edge(sim.grpc_port) as edge:
        connecting = asyncio.create_task(edge.connect())
        await until(lambda: sim.is_edge_active)
        await edge.post()
        await connecting
        await until(lambda: counts(sim) == {"before_accepted": 1})


async def test_a_connect_that_says_too_little_and_a_second_one():
    async with CloudSim(CloudSimOptions(http_port=None)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect(version=0, limit=0)
        assert counts(sim) == {"limit_unset": 1, "version_unset": 1}
        await edge.connect()
        await edge.uplink()
        assert counts(sim)["second_connect"] == 1


async def test_uplink_while_the_edge_syncs():
    async with connected() as (sim, edge):
        edge.ack = None
        await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=False))
        await until(lambda: edge.downlinks)
        await edge.uplink(entityData=[telemetry(device_id(sim), TS, t=1)])
        assert counts(sim) == {"during_sync": 1}


async def test_uplink_during_a_sync_that_the_cloud_began_is_right():
    async with connected() as (sim, edge):
        edge.ack = None
        await sim.sync()
        await until(lambda: edge.downlinks)
        await edge.uplink(entityData=[telemetry(device_id(sim), TS, t=1)])
        assert counts(sim) == {}


async def test_a_sync_request_without_its_message():
    async with connected() as (sim, edge):
        await edge.send(msgType=2)
        await edge.uplink()
        assert counts(sim) == {"sync_without_request": 1}


async def test_an_uplink_id_with_other_content():
    async with connected() as (sim, edge):
        for value in (1, 1, 2):
            msg = edge_pb2.UplinkMsg(uplinkMsgId=7, entityData=[telemetry(device_id(sim), TS, t=value)])
            await edge.send(msgType=1, uplinkMsg=msg)
        await until(lambda: len(edge.answers) == 3)
        assert counts(sim) == {"uplink_id_reused": 1}


async def test_a_message_above_the_limit_ends_the_stream():
    async with connected(max_inbound=10_000) as (sim, edge):
        await edge.uplink(entityData=[telemetry(device_id(sim), TS, text="x" * 9_000)])
        with contextlib.suppress(grpc.aio.AioRpcError):
            await edge.post(entityData=[telemetry(device_id(sim), TS, text="x" * 9_990)])
        await until(lambda: edge.status)
        assert edge.status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert counts(sim) == {"too_big": 1}


# ── acknowledgements ──


async def test_acknowledgements_that_fit_nothing():
    async with connected() as (sim, edge):
        await sim.rename_device("Valve B", "Valve C")
        msg = (await until(lambda: edge.downlinks))[0]
        await edge.acknowledge(msg, success=True)
        await edge.acknowledge(edge_pb2.DownlinkMsg(downlinkMsgId=msg.downlinkMsgId ^ 1), success=True)
        answer = edge_pb2.DownlinkResponseMsg(success=True, downlinkMsgId=msg.downlinkMsgId)
        await edge.send(msgType=0, downlinkResponseMsg=answer)
        await edge.uplink()
        assert counts(sim) == {"ack_msg_type": 1, "ack_twice": 1, "ack_unknown": 1}


async def test_a_late_acknowledgement_and_one_for_each_sending():
    async with connected(ack_within_s=0.05, resend_interval_s=0.15) as (sim, edge):
        edge.ack = None
        await sim.rename_device("Valve B", "Valve C")
        await until(lambda: len(edge.downlinks) == 2)
        first, again = edge.downlinks
        assert first == again
        assert counts(sim) == {"ack_late": 1}
        for msg in (first, again):
            await edge.acknowledge(msg, success=True)
        await edge.uplink()
        assert "ack_twice" not in counts(sim)


# ── calls ──


async def asked(edge: Edge) -> edge_pb2.DeviceRpcCallMsg:
    return (await until(lambda: [msg for msg in edge.downlinks if msg.deviceRpcCallMsg], "the call"))[
        -1
    ].deviceRpcCallMsg[0]


async def answer_rpc(edge: Edge, call: edge_pb2.DeviceRpcCallMsg, **changes: Any) -> edge_pb2.UplinkResponseMsg:
    answer = edge_pb2.DeviceRpcCallMsg()
    answer.CopyFrom(call)
    answer.ClearField("requestMsg")
    error = changes.pop("error", None)
    if error:
        answer.responseMsg.error = error
    else:
        answer.responseMsg.response = "{}"
    for name, value in changes.items():
        setattr(answer, name, value)
    return await edge.uplink(deviceRpcCallMsg=[answer])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("rpc_answer_pair", {"requestUuidLSB": 5}),
        ("rpc_answer_pair", {"deviceIdLSB": 5}),
        ("rpc_answer_unknown", {"requestId": 4711}),
        ("rpc_error_name", {"error": "BROKEN"}),
    ],
)
async def test_an_answer_to_the_wrong_call(kind, changes):
    async with connected() as (sim, edge):
        calling = asyncio.create_task(sim.rpc("Valve B", "open", timeout_ms=2_000))
        call = await asked(edge)
        assert (await answer_rpc(edge, call, **changes)).success == (kind != "rpc_error_name")
        assert counts(sim) == {kind: 1}
        await answer_rpc(edge, call)
        assert (await calling).response == "{}"


async def test_an_answer_twice_and_one_that_had_to_be_repeated():
    async with connected() as (sim, edge):
        calling = asyncio.create_task(sim.rpc("Valve B", "open", timeout_ms=2_000))
        call = await asked(edge)
        sim.faults.update({"never_answer": "Valve B"})
        answer = edge_pb2.DeviceRpcCallMsg()
        answer.CopyFrom(call)
        answer.responseMsg.response = "{}"
        await edge.post(deviceRpcCallMsg=[answer])
        await calling
        sim.faults.update({"never_answer": None})
        await answer_rpc(edge, call)  # the first was never confirmed
        assert counts(sim) == {}
        calling = asyncio.create_task(sim.rpc("Valve B", "close", timeout_ms=2_000))
        await until(lambda: sum(len(msg.deviceRpcCallMsg) for msg in edge.downlinks) == 2)
        call = await asked(edge)
        await answer_rpc(edge, call)
        await calling
        await answer_rpc(edge, call)
        assert counts(sim) == {"rpc_answer_twice": 1}


async def test_a_oneway_call_that_nobody_answers():
    async with connected() as (sim, edge):
        await sim.rpc("Valve B", "open", oneway=True, timeout_ms=50)
        assert counts(sim) == {"rpc_oneway_unanswered": 1}
        await edge.leave()
        await until(lambda: not sim.is_edge_active)
        await sim.rpc("Valve B", "open", oneway=True, timeout_ms=50)
        assert counts(sim) == {"rpc_oneway_unanswered": 1}


async def test_there_is_an_end_to_the_texts_and_none_to_the_count():
    async with connected(customer=CustomerKind.REAL) as (sim, edge):
        for _ in range(25):
            await edge.uplink(entityData=[telemetry(device_id(sim), 0, t=1)])
        assert counts(sim) == {"zero_ts": 25}
        assert len(sim.state()["violations"]) == 10
        sim.reset_counters()
        assert (counts(sim), sim.state()["violations"]) == ({}, [])
