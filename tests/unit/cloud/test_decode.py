"""Bytes that protoc made against the commands they mean."""

from uuid import UUID

import pytest

from gateway.cloud.decode import decode_response
from gateway.cloud.pb import edge_pb2
from gateway.cloud.session import Accepted, DownlinkReceived, EdgeChanged, Refusal, Refused, Unknown, UplinkAnswered
from gateway.domain.downlink import (
    AttributesReceived,
    AttributesRemoved,
    CredentialsRequested,
    CredentialsUpdated,
    Downlink,
    EdgeConfigured,
    EntityUpdated,
    Ignored,
    RpcAnswered,
    RpcCalled,
    SyncCompleted,
    TelemetryReceived,
    UpdateKind,
)
from gateway.domain.entity import EdgeIdentity, EntityId
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv
from gateway.errors import TransientError
from gateway.ports import UplinkAnswer
from tests.unit.cloud.build import DEVICE_ID, SECOND_ID, TS, vector

HALVES = {"idMSB": 728224350718530031, "idLSB": -8459154155615860133}
ENTITY = {"entityIdMSB": 728224350718530031, "entityIdLSB": -8459154155615860133, "entityType": "DEVICE"}


def read(**fields) -> DownlinkReceived:
    message = edge_pb2.DownlinkMsg(downlinkMsgId=9, **fields)
    event = decode_response(edge_pb2.ResponseMsg(downlinkMsg=message).SerializeToString())
    assert isinstance(event, DownlinkReceived)
    return event


def test_accepted_without_a_customer():
    assert decode_response(vector("down_accepted")) == Accepted(
        EdgeIdentity(edge_id=DEVICE_ID, tenant_id=SECOND_ID, name="Cellar edge", type="default"), 4_194_304
    )


def test_refused_without_the_text_that_holds_the_secret():
    event = decode_response(vector("down_refused"))
    assert event == Refused(Refusal.WRONG_SECRET)
    assert "secret-1" not in repr(event)


def test_the_verdict_on_an_uplink():
    text = "Failed to process uplink message. Rate limit reached"
    assert decode_response(vector("down_uplink_answer")) == UplinkAnswered(5, UplinkAnswer(False, text))


def test_shared_attributes():
    values = {"on": True, "setpoint": -5, "gain": 0.5, "note": "été", "plan": [1, {"a": None}]}
    command = AttributesReceived(EntityId("DEVICE", DEVICE_ID), "SHARED_SCOPE", values, TS)
    assert decode_response(vector("down_shared_attributes")) == DownlinkReceived(Downlink(12, [command]))


def test_a_call_with_request_id_0():
    request = RpcRequest(
        device_id=DEVICE_ID,
        method="setValve",
        params={"open": True},
        request_id=0,
        expires_ms=TS + 10_000,
        is_oneway=True,
        request_uuid=SECOND_ID,
    )
    assert decode_response(vector("down_rpc_call")) == DownlinkReceived(Downlink(13, [RpcCalled(request)]))


def test_a_profile_comes_before_its_device_and_credentials_after():
    event = decode_response(vector("down_device_assigned"))
    assert isinstance(event, DownlinkReceived)
    profile, device, credentials = event.downlink.commands
    assert profile == EntityUpdated("DEVICE_PROFILE", UpdateKind.CREATED, SECOND_ID, {"name": "boiler"})
    assert device == EntityUpdated("DEVICE", UpdateKind.CREATED, DEVICE_ID, {"name": "Boiler-7"})
    assert isinstance(credentials, CredentialsUpdated)
    assert credentials.device_id == DEVICE_ID
    assert credentials.json["credentialsId"] == "t"


def test_sync_completed_with_id_0():
    assert decode_response(vector("down_sync_completed")) == DownlinkReceived(Downlink(0, [SyncCompleted()]))


def test_edge_update():
    data = edge_pb2.ResponseMsg(
        edgeUpdateMsg=edge_pb2.EdgeUpdateMsg(
            configuration=edge_pb2.EdgeConfiguration(
                edgeIdMSB=1, edgeIdLSB=2, tenantIdMSB=3, tenantIdLSB=4, customerIdMSB=5, customerIdLSB=-1, name="n"
            )
        )
    ).SerializeToString()
    event = decode_response(data)
    assert isinstance(event, EdgeChanged)
    assert event.identity.customer_id == UUID(int=5 << 64 | (1 << 64) - 1)
    assert event.identity.cloud_type == ""


def test_later_kinds_and_fields_are_tolerated():
    assert decode_response(b"") == Unknown()
    assert decode_response(bytes.fromhex("fa0703616263")) == Unknown()  # field 127, three bytes
    later = vector("down_sync_completed")[:-2] + b""  # the envelope without its content
    downlink = edge_pb2.DownlinkMsg(downlinkMsgId=4).SerializeToString() + bytes.fromhex("fa0703616263")
    data = bytes([0x1A, len(downlink)]) + downlink
    assert decode_response(data) == DownlinkReceived(Downlink(4, []))
    assert later == b"\x1a\x02"


def test_bytes_of_another_protocol_end_the_stream():
    with pytest.raises(TransientError, match="edge protocol"):
        decode_response(b"\xff\xff\xff\xff")


def test_the_order_of_application():
    event = read(
        relationUpdateMsg=[{"entity": "{}"}],
        deviceCredentialsRequestMsg=[{"deviceIdMSB": 728224350718530031, "deviceIdLSB": -8459154155615860133}],
        alarmUpdateMsg=[{"msgType": 3, **HALVES, "entity": "{}"}],
        ruleChainMetadataUpdateMsg=[{"entity": '{"nodes":[]}'}],
        ruleChainUpdateMsg=[{**HALVES, "entity": "{}"}],
        deviceRpcCallMsg=[
            {
                "deviceIdMSB": 1,
                "deviceIdLSB": 2,
                "requestId": 3,
                "responseMsg": {"response": "{}"},
                "sessionId": "s",
            }
        ],
        entityData=[{**ENTITY, "postTelemetryMsg": {"tsKvList": [{"ts": TS, "kv": [{"key": "t", "type": 1}]}]}}],
        edgeConfiguration={"edgeIdMSB": 1, "edgeIdLSB": 2, "cloudType": "CE"},
        syncCompletedMsg={},
        customerUpdateMsg=[{**HALVES, "entity": "{}"}],
        tenantUpdateMsg=[{"msgType": 1, "entity": f'{{"id":{{"id":"{SECOND_ID}"}}}}'}],
    )
    assert not event.broken
    kinds = [c.type if isinstance(c, EntityUpdated) else type(c) for c in event.downlink.commands]
    assert kinds == [
        SyncCompleted,
        EdgeConfigured,
        TelemetryReceived,
        RpcAnswered,
        CredentialsRequested,
        "RULE_CHAIN",
        "RULE_CHAIN_METADATA",
        "ALARM",
        "CUSTOMER",
        "RELATION",
        "TENANT",
    ]
    assert event.downlink.commands[2] == TelemetryReceived(EntityId("DEVICE", DEVICE_ID), [TsKv(TS, {"t": 0})])
    assert event.downlink.commands[3] == RpcAnswered(UUID(int=1 << 64 | 2), 3, "s", "{}", "")
    assert event.downlink.commands[-1].id == SECOND_ID


SECRETS = {
    "userUpdateMsg": {"entity": "hunter2"},
    "userCredentialsUpdateMsg": {"entity": "hunter2"},
    "adminSettingsUpdateMsg": {"entity": "hunter2"},
    "apiKeyUpdateMsg": {"entity": "hunter2"},
    "aiModelUpdateMsg": {"entity": "hunter2"},
    "queueUpdateMsg": {"entity": "hunter2"},
    "notificationRuleUpdateMsg": {"entity": "hunter2"},
    "oAuth2DomainUpdateMsg": {"entity": "hunter2"},
}


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_not_for_a_gateway_is_named_and_not_kept(name):
    event = read(**{name: [SECRETS[name]]})
    assert event == DownlinkReceived(Downlink(9, [Ignored(name)]))


def test_every_field_of_a_downlink_has_a_reader():
    for field in edge_pb2.DownlinkMsg.DESCRIPTOR.fields:
        if field.name == "downlinkMsgId":
            continue
        message = edge_pb2.DownlinkMsg()
        if field.is_repeated:
            getattr(message, field.name).add()
        else:
            getattr(message, field.name).SetInParent()
        event = decode_response(edge_pb2.ResponseMsg(downlinkMsg=message).SerializeToString())
        assert isinstance(event, DownlinkReceived)
        is_seen = event.downlink.commands or event.broken
        assert is_seen, field.name


def test_a_broken_part_does_not_take_its_neighbours_with_it():
    event = read(deviceUpdateMsg=[{**HALVES, "entity": "{broken"}, {**HALVES, "entity": "{}"}])
    assert event.downlink.commands == [EntityUpdated("DEVICE", UpdateKind.CREATED, DEVICE_ID, {})]
    assert event.broken == "deviceUpdateMsg: the entity is not JSON"


def test_an_unknown_kind_of_update_is_broken():
    event = read(deviceUpdateMsg=[{**HALVES, "msgType": 5}])
    assert "unknown kind of update 5" in event.broken


def test_entity_data_that_can_never_be_applied_is_ignored():
    bad_scope = {**ENTITY, "attributesUpdatedMsg": {"kv": [{"key": "a", "type": 1}]}}
    bad_json = {
        **ENTITY,
        "postAttributeScope": "SHARED_SCOPE",
        "attributesUpdatedMsg": {"kv": [{"key": "a", "type": 4, "json_v": "{"}]},
    }
    event = read(entityData=[bad_scope, bad_json, {"entityType": "DEVICE"}])
    assert not event.broken
    assert [type(command) for command in event.downlink.commands] == [Ignored] * 3


def test_a_null_and_a_broken_value_do_not_take_their_neighbours_with_them():
    values = [
        {"key": "nothing", "type": 4, "json_v": "null"},
        {"key": "broken", "type": 4, "json_v": ""},
        {"key": "good", "type": 4, "json_v": '{"a":null}'},
    ]
    scope = {"postAttributeScope": "SHARED_SCOPE"}
    series = [{"ts": TS, "kv": values}, {"ts": TS, "kv": values[:1]}]
    for part in ({"attributesUpdatedMsg": {"kv": values}, **scope}, {"postTelemetryMsg": {"tsKvList": series}}):
        commands = read(entityData=[{**ENTITY, **part}]).downlink.commands
        (kept,) = [command for command in commands if not isinstance(command, Ignored)]
        found = kept.values if isinstance(kept, AttributesReceived) else [item.values for item in kept.series]
        assert found in ({"good": {"a": None}}, [{"good": {"a": None}}])
        assert any("'nothing' is null" in command.name for command in commands if isinstance(command, Ignored))
    only_null = {**ENTITY, "attributesUpdatedMsg": {"kv": values[:1]}, **scope}
    assert [type(command) for command in read(entityData=[only_null]).downlink.commands] == [Ignored]


def test_attributes_removed_and_posted():
    event = read(
        entityData=[
            {**ENTITY, "attributeDeleteMsg": {"scope": "SHARED_SCOPE", "attributeNames": ["a", "b"]}},
            {**ENTITY, "postAttributesMsg": {"kv": [{"key": "c", "type": 3, "string_v": "x"}]}},
        ]
    )
    who = EntityId("DEVICE", DEVICE_ID)
    assert event.downlink.commands == [
        AttributesRemoved(who, "SHARED_SCOPE", ["a", "b"]),
        AttributesReceived(who, "CLIENT_SCOPE", {"c": "x"}, None, is_post=True),
    ]


@pytest.mark.parametrize(("text", "params"), [("", None), ("null", None), ("17", 17), ("plain words", "plain words")])
def test_parameters_of_a_call(text, params):
    call = {"deviceIdMSB": 1, "deviceIdLSB": 2, "requestMsg": {"method": "m", "params": text}}
    (command,) = read(deviceRpcCallMsg=[call]).downlink.commands
    assert isinstance(command, RpcCalled)
    assert command.request.params == params
    assert command.request.request_uuid is None
    assert command.request.retries == 0


def test_a_caller_says_how_often_a_call_is_tried_again():
    call = {"deviceIdMSB": 1, "deviceIdLSB": 2, "retries": 2, "requestMsg": {"method": "m"}}
    (command,) = read(deviceRpcCallMsg=[call]).downlink.commands
    assert command.request.retries == 2


def test_neither_call_nor_answer_is_nothing():
    assert read(deviceRpcCallMsg=[{"deviceIdMSB": 1, "deviceIdLSB": 2}]) == DownlinkReceived(Downlink(9, []))
