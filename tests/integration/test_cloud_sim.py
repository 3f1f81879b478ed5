"""The simulated cloud, spoken to over a real stream by an edge written by hand."""

import asyncio
import socket
import time
from uuid import UUID, uuid4

import grpc
import orjson
import pytest

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions, CustomerKind, SimDevice
from gateway.cloudsim.entities import PASSWORD_HASH
from gateway.errors import RejectedError, TransientError
from tests.integration.cloud_sim_edge import (
    Edge,
    attributes,
    credentials_update,
    halves,
    kv,
    telemetry,
    until,
)


def options(**changes) -> CloudSimOptions:
    return CloudSimOptions(http_port=None, poll_s=0.01, **changes)


def device_id(sim: CloudSim, name: str = "Thermostat A") -> UUID:
    return UUID(sim.device_state(name)["id"])


async def test_connects_and_learns_who_it_is():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        answer = await edge.connect()
        assert answer.responseCode == edge_pb2.ACCEPTED
        assert answer.configuration.cloudType == "CE"
        assert answer.configuration.routingKey == "demo-edge"
        assert (answer.configuration.customerIdMSB, answer.configuration.customerIdLSB) == (0, 0)
        assert answer.maxInboundMessageSize == 4_194_304
        state = sim.state()
        assert state["edge"]["active"] is True
        assert state["edge"]["attributes"]["edgeVersion"] == "V_4_2_0"
    await until(lambda: not sim.is_edge_active)
    assert sim.state()["edge"]["attributes"]["active"] is False


@pytest.mark.parametrize(
    ("customer", "halves_"),
    [(CustomerKind.NULL, (1405474927960789426, -9187201950435737472)), (CustomerKind.REAL, None)],
)
async def test_the_customer_comes_in_three_ways(customer, halves_):
    async with CloudSim(options(customer=customer)) as sim, Edge(sim.grpc_port) as edge:
        config = (await edge.connect()).configuration
        sent = (config.customerIdMSB, config.customerIdLSB)
        assert sent == (halves_ or halves(sim.world.of_type("CUSTOMER")[0].id))


@pytest.mark.parametrize(
    ("key", "secret", "named"), [("nobody", "demo-secret", "nobody"), ("demo-edge", "oops", "oops")]
)
async def test_refuses_a_wrong_key_or_secret_and_ends_with_unknown(key, secret, named):
    async with CloudSim(options()) as sim, Edge(sim.grpc_port, key, secret) as edge:
        answer = await edge.connect()
        assert answer.responseCode == edge_pb2.BAD_CREDENTIALS
        assert named in answer.errorMsg
        assert answer.HasField("configuration")
        assert answer.configuration.cloudType == ""
        await until(lambda: edge.status)
        assert (edge.status, edge.details) == (grpc.StatusCode.UNKNOWN, "")
        assert not sim.is_edge_active


async def test_ignores_everything_before_the_connect():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.post(entityData=[telemetry(device_id(sim), 1, t=1)])
        await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=True))
        await edge.connect()
        assert (await edge.uplink()).success
        assert sim.state()["events_received"] == 0
        assert edge.downlinks == []


async def test_a_second_stream_takes_over_and_the_first_ends_with_ok():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as first, Edge(sim.grpc_port) as second:
        await first.connect()
        await second.connect()
        await until(lambda: first.status)
        assert first.status == grpc.StatusCode.OK
        assert sim.is_edge_active
        assert (await second.uplink()).success


async def test_an_old_server_forgets_the_first_stream_and_leaves_it_open():
    async with CloudSim(options(version="3.7")) as sim, Edge(sim.grpc_port) as first, Edge(sim.grpc_port) as second:
        await first.connect()
        await second.connect()
        id_ = await first.post()
        assert (await second.uplink()).success
        await asyncio.sleep(0.05)
        assert (first.answer(id_), first.status) == (None, None)


def fields(msg: edge_pb2.DownlinkMsg) -> list[str]:
    return [field.name for field, _ in msg.ListFields() if field.name != "downlinkMsgId"]


async def test_a_full_sync_comes_in_the_servers_order():
    wanted = options(devices=(SimDevice(name="Thermostat A", token="tok-a"), SimDevice(name="Valve B")))
    async with CloudSim(wanted) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        messages = await edge.sync(full=True)
        order = list(dict.fromkeys(fields(msg)[0] for msg in messages))
        assert order == [
            "tenantUpdateMsg",
            "queueUpdateMsg",
            "ruleChainUpdateMsg",
            "adminSettingsUpdateMsg",
            "userUpdateMsg",
            "oAuth2ClientUpdateMsg",
            "widgetTypeUpdateMsg",
            "widgetsBundleUpdateMsg",
            "aiModelUpdateMsg",
            "dashboardUpdateMsg",
            "deviceProfileUpdateMsg",
            "assetProfileUpdateMsg",
            "deviceUpdateMsg",
            "assetUpdateMsg",
            "entityViewUpdateMsg",
            "notificationTemplateUpdateMsg",
            "notificationTargetUpdateMsg",
            "notificationRuleUpdateMsg",
            "otaPackageUpdateMsg",
            "resourceUpdateMsg",
            "syncCompletedMsg",
        ]
        chain = next(msg for msg in messages if msg.ruleChainUpdateMsg)
        assert orjson.loads(chain.ruleChainUpdateMsg[0].entity)["root"] is True
        metadata = orjson.loads(chain.ruleChainMetadataUpdateMsg[0].entity)
        assert (metadata["firstNodeIndex"], len(metadata["nodes"]), len(metadata["connections"])) == (2, 8, 9)
        devices = [msg for msg in messages if msg.deviceUpdateMsg]
        assert [sorted(fields(msg)) for msg in devices] == [
            ["deviceCredentialsUpdateMsg", "deviceProfileUpdateMsg", "deviceUpdateMsg"]
        ] * 2
        assert orjson.loads(devices[0].deviceCredentialsUpdateMsg[0].entity)["credentialsId"] == "tok-a"
        user = next(msg for msg in messages if msg.userUpdateMsg)
        assert orjson.loads(user.userCredentialsUpdateMsg[0].entity)["password"] == PASSWORD_HASH
        assert fields(messages[-1]) == ["syncCompletedMsg"]
        await until(lambda: sim.state()["syncs_completed"] == 1)


async def test_a_small_sync_leaves_out_what_belongs_to_the_tenant():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        names = {name for msg in await edge.sync(full=False) for name in fields(msg)}
        assert "deviceUpdateMsg" in names
        assert names.isdisjoint({"tenantUpdateMsg", "ruleChainUpdateMsg", "userUpdateMsg", "widgetTypeUpdateMsg"})


async def test_the_next_pack_waits_until_all_of_the_last_are_acknowledged():
    many = tuple(SimDevice(name=f"d{i:03}") for i in range(120))
    async with CloudSim(options(devices=many)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        edge.on_downlink = lambda msg: setattr(edge, "ack", None) if msg.assetProfileUpdateMsg else None
        await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=False))

        def devices() -> list[edge_pb2.DownlinkMsg]:
            return [msg for msg in edge.downlinks if msg.deviceUpdateMsg]

        for expected in (50, 100, 120):
            while len(devices()) < expected:
                held = list(edge.downlinks)
                for msg in held:
                    await edge.acknowledge(msg, success=True)
                await until(lambda held=held: len(edge.downlinks) > len(held))
                await asyncio.sleep(0.02)
            assert len(devices()) == expected
            for msg in devices()[:-1]:
                await edge.acknowledge(msg, success=True)
            await asyncio.sleep(0.03)
            assert len(devices()) == expected


async def test_what_is_not_acknowledged_comes_three_times_with_the_same_id_and_is_given_up():
    async with CloudSim(options(resend_interval_s=0.05)) as sim, Edge(sim.grpc_port) as edge:
        edge.ack = None
        await edge.connect()
        await sim.set_attributes("Valve B", "SHARED_SCOPE", {"limit": 7})
        await until(lambda: sim.state()["downlink_dropped"] == 1)
        await until(lambda: len(edge.downlinks) == 3)
        assert len({msg.downlinkMsgId for msg in edge.downlinks}) == 1
        edge.ack = True
        await sim.set_attributes("Valve B", "SHARED_SCOPE", {"limit": 8})
        await until(lambda: sim.state()["downlink_acked"] == 1)
        assert sim.state()["queued_downlinks"] == 0


async def test_a_failed_acknowledgement_keeps_only_entity_data():
    async with CloudSim(options(resend_interval_s=0.05)) as sim, Edge(sim.grpc_port) as edge:
        edge.ack = False
        await edge.connect()
        await sim.create_device("New", token="n")
        await until(lambda: sim.state()["downlink_acked"] == 1)
        assert len(edge.downlinks) == 1
        await sim.set_attributes("New", "SHARED_SCOPE", {"a": 1})
        await until(lambda: sim.state()["downlink_dropped"] == 1)
        await until(lambda: len(edge.downlinks) == 4)


async def test_a_37_server_sends_credentials_only_when_asked():
    async with CloudSim(options(version="3.7")) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect(version=7)
        messages = await edge.sync(full=True)
        names = {name for msg in messages for name in fields(msg)}
        assert names.isdisjoint(
            {"deviceCredentialsUpdateMsg", "ruleChainMetadataUpdateMsg", "userCredentialsUpdateMsg"}
        )
        msb, lsb = halves(device_id(sim))
        request = edge_pb2.DeviceCredentialsRequestMsg(deviceIdMSB=msb, deviceIdLSB=lsb)
        chain_msb, chain_lsb = halves(sim.world.root_chain_id)
        chain = edge_pb2.RuleChainMetadataRequestMsg(ruleChainIdMSB=chain_msb, ruleChainIdLSB=chain_lsb)
        assert (await edge.uplink(deviceCredentialsRequestMsg=[request], ruleChainMetadataRequestMsg=[chain])).success
        await until(lambda: any(msg.deviceCredentialsUpdateMsg for msg in edge.downlinks))
        await until(lambda: any(msg.ruleChainMetadataUpdateMsg for msg in edge.downlinks))


async def test_takes_telemetry_of_known_entities_and_drops_the_rest_with_success():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        data = [telemetry(device_id(sim), 1000, t=21.5, on=True), telemetry(uuid4(), 1000, t=1)]
        assert (await edge.uplink(entityData=data)).success
        state = sim.device_state("Thermostat A")
        assert state["telemetry"] == {"t": {"ts": 1000, "value": 21.5}, "on": {"ts": 1000, "value": True}}
        assert (state["events"], state["points"]) == (1, 2)
        assert (sim.state()["dropped_unknown"], sim.state()["events_received"]) == (1, 1)


async def test_an_entity_type_that_does_not_exist_fails_the_message():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        answer = await edge.uplink(entityData=[telemetry(uuid4(), 1, "GADGET", t=1)])
        assert not answer.success
        assert "GADGET" in answer.errorMsg


async def test_empty_telemetry_is_never_answered():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        msb, lsb = halves(device_id(sim))
        empty = edge_pb2.EntityDataProto(entityIdMSB=msb, entityIdLSB=lsb, entityType="DEVICE")
        empty.postTelemetryMsg.SetInParent()
        id_ = await edge.post(entityData=[empty])
        assert (await edge.uplink()).success
        assert edge.answer(id_) is None
        assert sim.state()["empty_telemetry"] == 1


async def test_counts_loss_repetition_and_order_by_the_sequence_number():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        for number in (1, 2, 5, 4, 4, 6):
            await edge.post(entityData=[telemetry(device_id(sim), 1000 + number, seq=number)])
        await until(lambda: sim.state()["events_received"] == 6)
        state = sim.device_state("Thermostat A")
        assert (state["seq_high"], state["seq_contiguous"], state["missing"]) == (6, 2, 1)
        assert (state["duplicates"], state["out_of_order"], state["missing_ranges"]) == (1, 1, [(3, 3)])
        sim.reset_counters()
        assert (sim.state()["duplicates"], sim.state()["uplink_msgs"], sim.state()["missing"]) == (0, 0, 0)


async def test_stale_and_misplaced_attributes():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        id_ = device_id(sim)
        assert (await edge.uplink(entityData=[attributes(id_, "SERVER_SCOPE", 2000, fw="2")])).success
        assert (await edge.uplink(entityData=[attributes(id_, "SERVER_SCOPE", 2000, fw="1")])).success
        assert sim.device_state("Thermostat A")["attributes"]["SERVER_SCOPE"] == {"fw": "2"}
        assert sim.state()["stale_attributes"] == 1
        assert not (await edge.uplink(entityData=[attributes(id_, "", 3000, fw="3")])).success
        gone = attributes(id_, "", None)
        gone.ClearField("attributesUpdatedMsg")
        gone.attributeDeleteMsg.scope = "SERVER_SCOPE"
        gone.attributeDeleteMsg.attributeNames.append("fw")
        assert (await edge.uplink(entityData=[gone])).success
        assert sim.device_state("Thermostat A")["attributes"]["SERVER_SCOPE"] == {}


async def test_a_device_from_the_edge_has_only_the_credentials_that_it_brought():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        bare, full = uuid4(), uuid4()
        assert (await edge.uplink(deviceUpdateMsg=[edge.device_update(bare, "Bare", type="pump")])).success
        assert sim.device_state("Bare")["credentials_type"] is None
        assert sim.device_state("Bare")["type"] == "pump"
        answer = await edge.uplink(
            deviceUpdateMsg=[edge.device_update(full, "Full")],
            deviceCredentialsUpdateMsg=[credentials_update(full, "tok-full")],
            entityData=[telemetry(full, 5, t=1)],
        )
        assert answer.success
        assert sim.device_state("Full")["credentials_type"] == "ACCESS_TOKEN"
        assert sim.device_state("Full")["points"] == 1
        clash = await edge.uplink(deviceCredentialsUpdateMsg=[credentials_update(bare, "tok-full")])
        assert not clash.success
        assert "already assigned" in clash.errorMsg
        await asyncio.sleep(0.03)
        assert edge.downlinks == []  # what comes from the edge is not sent back


async def test_a_name_that_is_taken_is_changed_and_the_edge_is_told():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        id_ = uuid4()
        assert (await edge.uplink(deviceUpdateMsg=[edge.device_update(id_, "Valve B")])).success
        await until(lambda: edge.downlinks)
        update = edge.downlinks[0].deviceUpdateMsg[0]
        assert (update.msgType, (update.idMSB, update.idLSB)) == (1, halves(id_))
        name = orjson.loads(update.entity)["name"]
        assert name.startswith("Valve B_")
        assert len(name) == len("Valve B_") + 15
        assert sim.device_state(name)["id"] == str(id_)


async def test_devices_that_cannot_be_taken_fail():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        stranger = {"entityType": "TENANT", "id": str(uuid4())}
        unknown = {"entityType": "DEVICE_PROFILE", "id": str(uuid4())}
        customer = {"entityType": "CUSTOMER", "id": str(uuid4())}
        for changes in (
            {"deviceProfileId": unknown},
            {"tenantId": stranger},
            {"tenantId": None},
            {"customerId": customer},
            {"name": " "},
        ):
            answer = await edge.uplink(deviceUpdateMsg=[edge.device_update(uuid4(), "X", **changes)])
            assert not answer.success, changes
        assert sim.state()["devices"] == 2


async def test_a_deleted_device_is_gone_and_the_quota_answers_success():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        msb, lsb = halves(device_id(sim))
        delete = edge_pb2.DeviceUpdateMsg(msgType=2, idMSB=msb, idLSB=lsb)
        assert (await edge.uplink(deviceUpdateMsg=[delete])).success
        assert (await edge.uplink(deviceUpdateMsg=[delete])).success
        assert [device["name"] for device in sim.devices_state()] == ["Valve B"]
        sim.faults.update({"device_quota": 1})
        assert (await edge.uplink(deviceUpdateMsg=[edge.device_update(uuid4(), "One more")])).success
        assert sim.state()["devices"] == 1


async def test_requests_are_answered_by_later_downlinks():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        id_ = device_id(sim)
        await edge.uplink(entityData=[telemetry(id_, 1000, t=5), attributes(id_, "SERVER_SCOPE", 10, site="A")])
        msb, lsb = halves(id_)
        asks = edge_pb2.AttributesRequestMsg(
            entityIdMSB=msb, entityIdLSB=lsb, entityType="DEVICE", scope="SERVER_SCOPE"
        )
        relations = edge_pb2.RelationRequestMsg(entityIdMSB=msb, entityIdLSB=lsb, entityType="DEVICE")
        assert (await edge.uplink(attributesRequestMsg=[asks], relationRequestMsg=[relations])).success
        await until(lambda: len(edge.downlinks) == 3)
        first, second, third = edge.downlinks
        assert first.entityData[0].attributesUpdatedMsg.kv[0] == kv("site", "A")
        assert first.entityData[0].attributeTs > 1_700_000_000_000
        assert second.entityData[0].postTelemetryMsg.tsKvList[0].ts == 1000
        assert orjson.loads(third.relationUpdateMsg[0].entity)["to"]["id"] == str(id_)


async def test_alarms_merge_and_relations_need_both_ends():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        id_ = device_id(sim)
        origin = {"entityType": "DEVICE", "id": str(id_)}

        def alarm(kind: int, alarm_id: UUID, **changes) -> edge_pb2.AlarmUpdateMsg:
            msb, lsb = halves(alarm_id)
            json = {"originator": origin, "type": "Hot", "severity": "MAJOR", "cleared": False} | changes
            return edge_pb2.AlarmUpdateMsg(msgType=kind, idMSB=msb, idLSB=lsb, entity=orjson.dumps(json).decode())

        first, second = uuid4(), uuid4()
        await edge.uplink(alarmUpdateMsg=[alarm(0, first), alarm(0, second, severity="CRITICAL")])
        held = sim.world.of_type("ALARM")
        assert [(one.id, one.json["severity"]) for one in held] == [(first, "CRITICAL")]
        assert (await edge.uplink(alarmUpdateMsg=[alarm(4, second), alarm(4, first, clearTs=9)])).success
        assert (held[0].json["cleared"], held[0].json["clearTs"]) == (True, 9)
        relation = {"from": origin, "to": {"entityType": "DEVICE", "id": str(uuid4())}, "type": "Feeds"}
        msg = edge_pb2.RelationUpdateMsg(msgType=0, entity=orjson.dumps(relation).decode())
        before = len(sim.world.relations)
        assert (await edge.uplink(relationUpdateMsg=[msg])).success
        assert len(sim.world.relations) == before


def answering(edge: Edge, sent: list[edge_pb2.DeviceRpcCallMsg], tasks: list[asyncio.Task], **answer) -> None:
    """Let the edge answer each call."""

    def on_downlink(msg: edge_pb2.DownlinkMsg) -> None:
        for call in msg.deviceRpcCallMsg:
            sent.append(call)
            reply = edge_pb2.DeviceRpcCallMsg()
            reply.CopyFrom(call)
            reply.ClearField("requestMsg")
            changes = {"wrong_uuid": False} | answer
            if changes.pop("wrong_uuid"):
                reply.requestUuidLSB ^= 1
            reply.responseMsg.CopyFrom(edge_pb2.RpcResponseMsg(**changes))
            tasks.append(asyncio.create_task(edge.post(deviceRpcCallMsg=[reply])))

    edge.on_downlink = on_downlink


async def test_a_two_way_call_brings_the_devices_answer():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        sent, tasks = [], []
        answering(edge, sent, tasks, response='{"ok":1}')
        await edge.connect()
        result = await sim.rpc("Valve B", "setLevel", {"level": 3})
        assert (result.status, result.response) == (200, '{"ok":1}')
        call = sent[0]
        assert (call.requestMsg.method, orjson.loads(call.requestMsg.params)) == ("setLevel", {"level": 3})
        assert (call.oneway, call.persisted, call.additionalInfo) == (False, False, "null")
        assert call.expirationTime > sim.now_ms()


@pytest.mark.parametrize(("error", "status"), [("NO_ACTIVE_CONNECTION", 409), ("TIMEOUT", 408)])
async def test_an_rpc_error_becomes_a_status(error, status):
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        answering(edge, [], [], error=error)
        await edge.connect()
        result = await sim.rpc("Valve B", "x")
        assert (result.status, result.short_status, result.error) == (status, 504, error)


async def test_an_unknown_error_text_fails_the_message_and_the_call_times_out():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        answering(edge, [], [], error="device is broken")
        await edge.connect()
        assert (await sim.rpc("Valve B", "x", timeout_ms=100)).error == "TIMEOUT"
        assert not edge.answers[-1].success


async def test_a_one_way_call_wants_an_answer_too():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        assert (await sim.rpc("Valve B", "x", oneway=True, timeout_ms=50)).error == "TIMEOUT"
        assert sim.state()["rpc_oneway_unanswered"] == 1
        answering(edge, [], [], response="{}")
        assert (await sim.rpc("Valve B", "x", oneway=True)).response == "{}"
        assert sim.state()["rpc_oneway_unanswered"] == 1


async def test_an_answer_with_the_wrong_uuid_is_stale():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        answering(edge, [], [], response="{}", wrong_uuid=True)
        await edge.connect()
        assert (await sim.rpc("Valve B", "x", timeout_ms=100)).error == "TIMEOUT"
        assert sim.state()["rpc_stale"] == 1


async def test_a_device_calls_the_cloud():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        msb, lsb = halves(device_id(sim))
        call = edge_pb2.DeviceRpcCallMsg(
            deviceIdMSB=msb, deviceIdLSB=lsb, requestId=3, serviceId="edge", sessionId=str(uuid4())
        )
        call.requestMsg.method, call.requestMsg.params = "echo", '{"a":1}'
        await edge.uplink(deviceRpcCallMsg=[call])
        await until(lambda: edge.downlinks)
        answer = edge.downlinks[0].deviceRpcCallMsg[0]
        assert (answer.requestId, answer.sessionId, answer.responseMsg.response) == (3, call.sessionId, '{"a":1}')
        call.requestMsg.method = "nobodyKnows"
        assert (await edge.uplink(deviceRpcCallMsg=[call])).success
        await asyncio.sleep(0.03)
        assert len(edge.downlinks) == 1


async def test_while_the_edge_is_away_device_changes_are_lost_and_deletes_are_kept():
    async with CloudSim(options()) as sim:
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
        await until(lambda: not sim.is_edge_active)
        assert not await sim.set_attributes("Valve B", "SHARED_SCOPE", {"a": 1})
        await sim.create_device("Lost", token="lost")
        await sim.delete_device("Thermostat A")
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
            await until(lambda: edge.downlinks)
            await asyncio.sleep(0.05)
            assert [[msg.msgType for msg in one.deviceUpdateMsg] for one in edge.downlinks] == [[2]]
            names = [
                orjson.loads(m.deviceUpdateMsg[0].entity)["name"]
                for m in await edge.sync(full=False)
                if m.deviceUpdateMsg
            ]
            assert names == ["Valve B", "Lost"]


async def test_offline_drops_the_stream_and_refuses_until_it_is_over():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        port = sim.grpc_port
        await sim.offline(0.3)
        await until(lambda: edge.status)
        assert edge.status not in (None, grpc.StatusCode.OK)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        await sim.wait_online()
        assert sim.grpc_port == port
        async with Edge(port) as again:
            assert (await again.connect()).responseCode == edge_pb2.ACCEPTED


async def test_a_sync_started_in_the_cloud_announces_nothing():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        with pytest.raises(RejectedError, match="not connected"):
            await sim.sync()
        edge.ack = None
        await edge.connect()
        await sim.sync()
        with pytest.raises(RejectedError, match="running"):
            await sim.sync()
        await until(lambda: edge.downlinks)
        edge.ack = True
        await edge.acknowledge(edge.downlinks[0], success=True)
        await until(lambda: edge.downlinks[-1].HasField("syncCompletedMsg"))


async def test_the_edge_is_told_of_its_customer_in_both_ways():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        await sim.set_customer(CustomerKind.REAL)
        await until(lambda: edge.updates and edge.downlinks)
        wanted = halves(sim.world.of_type("CUSTOMER")[0].id)
        told = edge.downlinks[0].edgeConfiguration
        assert (told.customerIdMSB, told.customerIdLSB) == wanted
        assert edge.updates[0].configuration == told


async def test_faults():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        good, bad = device_id(sim), device_id(sim, "Valve B")
        both = [telemetry(good, 1, t=1), telemetry(bad, 1, poison=1)]
        sim.faults.update({"fail_once": "poison"})
        assert not (await edge.uplink(entityData=both)).success
        assert sim.device_state("Thermostat A")["points"] == 1  # what came before the failure stays done
        assert (await edge.uplink(entityData=both)).success
        sim.faults.update({"fail_always": "Valve B"})
        for _ in range(3):
            assert not (await edge.uplink(entityData=both[1:])).success
        assert (await edge.uplink(entityData=both[:1])).success
        sim.faults.update({"fail_always": None, "never_answer": str(good)})
        id_ = await edge.post(entityData=both[:1])
        assert (await edge.uplink(entityData=both[1:])).success
        assert edge.answer(id_) is None
        sim.faults.update({"never_answer": None, "rate_limit": 0})
        assert "Rate limit reached" in (await edge.uplink()).errorMsg
        sim.faults.update({"rate_limit": None, "slow_ms": 60})
        start = time.monotonic()
        assert (await edge.uplink()).success
        assert time.monotonic() - start > 0.05
        with pytest.raises(RejectedError, match="unknown fault"):
            sim.faults.update({"explode": True})


async def test_a_sync_that_never_completes_blocks_events_until_the_flag_is_cleared():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        sim.faults.update({"sync_never_completes": True})
        await edge.connect()
        await edge.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=False))
        await until(lambda: any(msg.assetUpdateMsg for msg in edge.downlinks))
        await sim.set_attributes("Valve B", "SHARED_SCOPE", {"a": 1})
        await asyncio.sleep(0.05)
        assert not any(msg.entityData or msg.HasField("syncCompletedMsg") for msg in edge.downlinks)
        await edge.send(msgType=2)
        await until(lambda: edge.downlinks[-1].entityData)


async def test_latency_does_not_limit_throughput():
    async with CloudSim(options(rtt_ms=100)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        start = time.monotonic()
        for _ in range(50):
            await edge.post()
        await until(lambda: len(edge.answers) == 50)
        assert 0.1 <= time.monotonic() - start < 1.0


async def test_shuffled_answers_come_once_each():
    async with CloudSim(options(shuffle_answers=True)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        sent = [await edge.post() for _ in range(60)]
        await until(lambda: len(edge.answers) == 60)
        came = [answer.uplinkMsgId for answer in edge.answers]
        assert sorted(came) == sent
        assert came != sent


async def test_a_message_above_the_limit_kills_the_stream():
    async with CloudSim(options(max_inbound=10_000)) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        await edge.post(entityData=[telemetry(device_id(sim), 1, text="".join(map(chr, range(40, 120))) * 1000)])
        await until(lambda: edge.status)
        assert edge.status == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_port_that_is_taken_is_said_so():
    async with CloudSim(options()) as sim:
        with pytest.raises(TransientError, match=str(sim.grpc_port)):
            async with CloudSim(options(grpc_port=sim.grpc_port)):
                pass


async def test_with_tls_only_the_holder_of_the_certificate_is_trusted(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    done = await asyncio.create_subprocess_exec(
        *make.split(), *names, "-keyout", key, "-out", cert, stderr=asyncio.subprocess.DEVNULL
    )
    assert await done.wait() == 0
    async with CloudSim(options(tls_cert=cert, tls_key=key)) as sim:
        async with Edge(sim.grpc_port, trusted=cert.read_bytes()) as edge:
            assert (await edge.connect()).responseCode == edge_pb2.ACCEPTED
        async with Edge(sim.grpc_port) as plain:
            await until(lambda: plain.status)
            assert plain.status == grpc.StatusCode.UNAVAILABLE


async def test_an_entity_that_lacks_what_it_needs_fails_and_the_stream_goes_on():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        broken = edge_pb2.AlarmUpdateMsg(msgType=0, entity='{"originator":{}}')
        assert not (await edge.uplink(alarmUpdateMsg=[broken])).success
        assert (await edge.uplink()).success


async def test_a_downlink_above_the_edges_limit_is_not_sent():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect(limit=1000)
        await sim.set_attributes("Valve B", "SHARED_SCOPE", {"big": "x" * 2000})
        await sim.set_attributes("Valve B", "SERVER_SCOPE", {"small": 1})
        await until(lambda: edge.downlinks)
        assert edge.downlinks[0].entityData[0].postAttributeScope == "SERVER_SCOPE"
        assert sim.state()["downlink_too_big"] == 1


async def test_a_pushed_root_chain_arrives_with_its_metadata():
    async with CloudSim(options()) as sim, Edge(sim.grpc_port) as edge:
        await edge.connect()
        export = {
            "ruleChain": {"name": "Filter"},
            "metadata": {"firstNodeIndex": 0, "nodes": [{"type": "x", "name": "n"}], "connections": []},
        }
        id_ = await sim.push_rule_chain(export, is_root=True)
        await until(lambda: edge.downlinks)
        msg = edge.downlinks[0]
        chain = orjson.loads(msg.ruleChainUpdateMsg[0].entity)
        assert (chain["name"], chain["root"], chain["id"]["id"]) == ("Filter", True, str(id_))
        assert orjson.loads(msg.ruleChainMetadataUpdateMsg[0].entity)["ruleChainId"]["id"] == str(id_)
