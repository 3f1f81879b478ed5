"""The built-in edge root chain, and the push to the cloud."""

from uuid import UUID

import orjson
import pytest

from gateway.domain.changes import AppendEvent, SaveAttributes, SaveTelemetry
from gateway.domain.cloud_event import Lane
from gateway.domain.entity import EntityId
from gateway.domain.rpc import RpcError, RpcResponse
from gateway.domain.telemetry import Attribute
from tests.unit.rules.kit import DEVICE, DEVICE_ID, PUSH, Rules, bodies

ALARM_ID = "99999999-4d5e-11ef-8a9b-0c1d2e3f4a5b"


def test_telemetry_is_saved_and_pushed():
    rules = Rules()
    outcome = rules.run({"t": 21.5, "on": True})
    save, append = outcome.changes
    assert save == SaveTelemetry(DEVICE, 1000, {"t": 21.5, "on": True})
    assert isinstance(append, AppendEvent)
    event = append.event
    assert (event.type, event.action, event.entity_id, event.lane) == (
        "DEVICE",
        "TIMESERIES_UPDATED",
        DEVICE_ID,
        Lane.MAIN,
    )
    assert event.body == b'{"ts":1000,"data":{"t":21.5,"on":true}}'
    assert event.created_ms == rules.clock.now_ms()
    assert [outcome.errors, outcome.calls, outcome.replies, outcome.notices, outcome.emitted] == [[]] * 5


def test_client_attributes_are_saved_once_and_always_pushed():
    rules = Rules()
    rules.state.attributes[DEVICE, "CLIENT_SCOPE", "fw"] = Attribute(1, "1.2")
    outcome = rules.run({"fw": "1.2", "n": 1}, "POST_ATTRIBUTES_REQUEST", metadata={"notifyDevice": "false"})
    assert outcome.changes[0] == SaveAttributes(DEVICE, "CLIENT_SCOPE", rules.clock.now_ms(), {"n": 1})
    assert bodies(outcome) == [
        {"kv": {"fw": "1.2", "n": 1}, "ts": 2000, "scope": "CLIENT_SCOPE", "isPostAttributes": True}
    ]
    assert outcome.notices == []


def test_attributes_changed_here_go_up_and_those_of_the_cloud_end_silently():
    rules = Rules()
    meta = {"scope": "SHARED_SCOPE", "ts": "7"}
    assert bodies(rules.run({"limit": 5}, "ATTRIBUTES_UPDATED", metadata=meta)) == [
        {"kv": {"limit": 5}, "ts": 7, "scope": "SHARED_SCOPE"}
    ]
    for source in ("cloud", "CLOUD"):
        outcome = rules.run({"limit": 5}, "ATTRIBUTES_UPDATED", metadata={**meta, "source": source})
        assert (outcome.changes, outcome.errors) == ([], [])


def test_deleted_attributes_go_up():
    outcome = Rules().run({"attributes": ["a", "b"]}, "ATTRIBUTES_DELETED", metadata={"scope": "SHARED_SCOPE"})
    assert bodies(outcome) == [{"keys": ["a", "b"], "scope": "SHARED_SCOPE"}]


@pytest.mark.parametrize("type_", ["ENTITY_CREATED", "ALARM", "CONNECT_EVENT", "MY_OWN", "TO_SERVER_RPC_REQUEST"])
def test_everything_else_stays_here_without_an_error(type_):
    outcome = Rules().run({"method": "m", "params": {}}, type_)
    assert (outcome.changes, outcome.errors) == ([], [])


def test_a_call_from_the_cloud_becomes_a_call_to_the_device():
    rules = Rules()
    request_uuid = UUID("33333333-4d5e-11ef-8a9b-0c1d2e3f4a5b")
    outcome = rules.run(
        {"method": "setValve", "params": '{"open": true}', "requestId": 42},
        "RPC_CALL_FROM_SERVER_TO_DEVICE",
        metadata={
            "requestUUID": str(request_uuid),
            "expirationTime": "12345",
            "oneway": "false",
            "persistent": "true",
        },
    )
    (call,) = outcome.calls
    request = call.request
    assert (request.device_id, request.method, request.params, request.request_id) == (
        DEVICE_ID,
        "setValve",
        {"open": True},
        42,
    )
    assert (request.request_uuid, request.expires_ms) == (request_uuid, 12345)
    assert (request.is_oneway, request.is_persisted, request.is_from_cloud) == (False, True, True)
    assert outcome.changes == []
    assert call.resume(RpcResponse(response='{"ok":1}')).errors == []
    assert call.resume(RpcResponse(error=RpcError.TIMEOUT)).errors == [
        "Edge Root Rule Chain / RPC Call Request: TIMEOUT"
    ]


# ── push to cloud ──


def push(type_, data, **more):
    return Rules([PUSH]).run(data, type_, **more)


@pytest.mark.parametrize(
    ("type_", "meta", "action"),
    [
        ("TIMESERIES_UPDATED", {}, "TIMESERIES_UPDATED"),
        ("ACTIVITY_EVENT", {"scope": "SERVER_SCOPE"}, "ATTRIBUTES_UPDATED"),
        ("INACTIVITY_EVENT", {}, "TIMESERIES_UPDATED"),
        ("CONNECT_EVENT", {}, "TIMESERIES_UPDATED"),
        ("DISCONNECT_EVENT", {"scope": "SERVER_SCOPE"}, "ATTRIBUTES_UPDATED"),
    ],
)
def test_pushed_as(type_, meta, action):
    (change,) = push(type_, {"a": 1}, metadata=meta).changes
    assert change.event.action == action


@pytest.mark.parametrize(
    ("type_", "meta", "action"),
    [
        ("ALARM", {"isNewAlarm": "true"}, "ADDED"),
        ("ALARM", {"isClearedAlarm": "true"}, "ALARM_CLEAR"),
        ("ALARM_UPDATED", {}, "UPDATED"),
        ("ALARM_CREATED", {"isNewAlarm": "true"}, "ADDED"),
        ("ALARM_SEVERITY_UPDATED", {}, "UPDATED"),
        ("ALARM_ACK", {}, "ALARM_ACK"),
        ("ALARM_CLEAR", {}, "ALARM_CLEAR"),
    ],
)
def test_alarms_go_without_a_body(type_, meta, action):
    (change,) = push(type_, {"id": {"entityType": "ALARM", "id": ALARM_ID}}, metadata=meta).changes
    event = change.event
    assert (event.type, event.action, event.entity_id, event.body) == ("ALARM", action, UUID(ALARM_ID), None)


def test_a_call_of_a_device_takes_the_express_lane():
    (change,) = push(
        "TO_SERVER_RPC_REQUEST",
        {"method": "getTime", "params": {"tz": "UTC"}},
        metadata={"requestId": "7", "serviceId": "edge-gateway", "sessionId": "s"},
    ).changes
    assert change.event.lane == Lane.EXPRESS
    assert orjson.loads(change.event.body) == {
        "requestId": "7",
        "serviceId": "edge-gateway",
        "sessionId": "s",
        "method": "getTime",
        "params": '{"tz":"UTC"}',
    }


def test_time_and_scope_come_from_metadata_and_nulls_stay_here():
    outcome = push("POST_TELEMETRY_REQUEST", {"a": 1, "b": None}, metadata={"ts": "no number"})
    assert bodies(outcome) == [{"ts": 2000, "data": {"a": 1}}]
    outcome = push("POST_TELEMETRY_REQUEST", {"ts": 5, "values": {"a": 1}})
    assert bodies(outcome) == [{"ts": 5, "data": {"a": 1}}]
    assert bodies(push("ATTRIBUTES_UPDATED", {"a": 1}, metadata={"scope": ""}))[0]["scope"] == "SERVER_SCOPE"


@pytest.mark.parametrize(
    ("type_", "data", "text"),
    [
        ("ENTITY_UPDATED", {}, "cannot go to the cloud"),
        ("TIMESERIES_DELETED", {}, "cannot go to the cloud"),
        ("ALARM_DELETE", {}, "cannot go to the cloud"),
        ("MY_OWN", {}, "cannot go to the cloud"),
        ("POST_TELEMETRY_REQUEST", [{"a": 1}], "the cloud would drop it"),
        ("POST_ATTRIBUTES_REQUEST", "text", "the cloud would drop it"),
        ("ALARM", {"a": 1}, "no id"),
        ("TO_SERVER_RPC_REQUEST", {"method": "m"}, "'params'"),
        ("TO_SERVER_RPC_REQUEST", {"method": "m", "params": 1}, "requestId"),
        ("ATTRIBUTES_DELETED", {"keys": []}, "'attributes'"),
        ("POST_TELEMETRY_REQUEST", {"a": 2**70}, "no valid JSON"),
    ],
)
def test_what_cannot_be_pushed_fails_with_a_reason(type_, data, text):
    outcome = push(type_, data, metadata={})
    assert outcome.changes == []
    assert len(outcome.errors) == 1
    assert text in outcome.errors[0]


def test_an_asset_is_pushed_as_what_it_is_and_a_rule_node_is_refused():
    asset = EntityId("ASSET", DEVICE_ID)
    (change,) = push("POST_TELEMETRY_REQUEST", {"a": 1}, originator=asset).changes
    assert change.event.type == "ASSET"
    outcome = push("POST_TELEMETRY_REQUEST", {"a": 1}, originator=EntityId("RULE_NODE", DEVICE_ID))
    assert outcome.errors == ["Root / up: the cloud takes no data of a rule_node"]
