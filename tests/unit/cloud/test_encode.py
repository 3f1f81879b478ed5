"""Events and requests against bytes that protoc made."""

from dataclasses import replace
from uuid import UUID

import orjson
import pytest

from gateway.cloud.codec import halves, optional_uuid, uuid_of
from gateway.cloud.encode import encode_ack, encode_connect, encode_sync, encode_uplink
from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.domain.downlink import LAST_GATEWAY, MOVED_DEVICES
from gateway.domain.entity import NULL_UUID, DeviceProfile, Origin
from gateway.errors import RejectedError
from tests.unit.cloud.build import DEVICE_ID, PROFILE_ID, SECOND_ID, TENANT_ID, TS, State, device, event, vector


def uplink(*events, state=None) -> edge_pb2.UplinkMsg:
    data = encode_uplink(1, events, state or State())
    assert data is not None
    return edge_pb2.RequestMsg.FromString(data).uplinkMsg


@pytest.mark.parametrize(
    ("text", "high", "low"),
    [  # protocol facts §2
        ("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b", 728224350718530031, -8459154155615860133),
        ("13814000-1dd2-11b2-8080-808080808080", 1405474927960789426, -9187201950435737472),
    ],
)
def test_an_id_is_two_signed_halves(text, high, low):
    assert halves(UUID(text)) == (high, low)
    assert uuid_of(high, low) == UUID(text)


@pytest.mark.parametrize("pair", [(0, 0), (0, 5), (5, 0), halves(NULL_UUID)])
def test_no_id(pair):
    assert optional_uuid(*pair) is None


def test_connect_sync_and_acknowledgements():
    assert encode_connect("key-1", "secret-1", "3.7.0", 4_194_304) == vector("up_connect")
    assert encode_sync(True) == vector("up_sync_full")
    assert encode_sync(False) == vector("up_sync_light")
    assert encode_ack(77) == vector("up_ack")


@pytest.mark.parametrize("release", ["3.7.0", "4.0.0", "4.2.0", "4.3.0"])
def test_every_release_of_the_settings_has_a_number(release):
    request = edge_pb2.RequestMsg.FromString(encode_connect("k", "s", release, 1))
    assert edge_pb2.EdgeVersion.Name(request.connectRequestMsg.edgeVersion) == "V_" + release.replace(".", "_")


def test_telemetry_of_every_type():
    values = {"on": True, "count": -42, "temperature": 21.5, "état": "größer ☃", "place": {"x": [1, 2]}}
    body = {"ts": TS, "data": {**values, "gone": None}}
    assert encode_uplink(5, [event("TIMESERIES_UPDATED", body)], State()) == vector("up_telemetry")


def test_attributes_posted_updated_and_deleted():
    events = [
        event("ATTRIBUTES_UPDATED", {"kv": {"fw": "1.4"}, "ts": TS, "scope": "SERVER_SCOPE"}),
        event("POST_ATTRIBUTES", {"kv": {"fw": "1.5"}, "ts": TS + 1, "scope": "CLIENT_SCOPE"}),
        event("ATTRIBUTES_DELETED", {"keys": ["fw", "hw"], "scope": "SERVER_SCOPE"}),
    ]
    assert encode_uplink(6, events, State()) == vector("up_attributes")


def test_a_device_of_ours_goes_up_with_credentials_and_profile():
    assert encode_uplink(7, [event("ADDED")], State(device())) == vector("up_device_added")


def test_rpc_both_ways():
    answer = {"requestUUID": str(DEVICE_ID), "expirationTime": TS + 10_000, "oneway": True, "requestId": 7}
    assert encode_uplink(8, [event("RPC_CALL", {**answer, "response": "{}"})], State()) == vector("up_rpc_answer")
    failed = {**answer, "oneway": False, "requestId": 0, "error": "TIMEOUT"}
    assert encode_uplink(9, [event("RPC_CALL", failed)], State()) == vector("up_rpc_error")
    call = {
        "requestId": "3",
        "serviceId": "tb-edge",
        "sessionId": str(NULL_UUID),
        "method": "getTime",
        "params": "{}",
    }
    assert encode_uplink(10, [event("RPC_CALL", call)], State()) == vector("up_rpc_call")


def test_requests():
    events = [
        event("RULE_CHAIN_METADATA_REQUEST", type_="RULE_CHAIN"),
        event("ATTRIBUTES_REQUEST"),
        event("ATTRIBUTES_REQUEST", type_="EDGE"),
        event("RELATION_REQUEST", type_="EDGE"),
        event("CREDENTIALS_REQUEST"),
    ]
    assert encode_uplink(11, events, State()) == vector("up_requests")


def test_one_request_about_many_entities():
    ids = [UUID(int=n << 64 | n) for n in (1, 2)]
    body = orjson.dumps({"entities": [["DEVICE", str(ids[0])], ["ASSET", str(ids[1])]]})
    request = replace(event("ATTRIBUTES_REQUEST"), entity_id=None, body=body)
    assert [(one.entityType, one.entityIdLSB, one.scope) for one in uplink(request).attributesRequestMsg] == [
        ("DEVICE", 1, "SERVER_SCOPE"),
        ("DEVICE", 1, "SHARED_SCOPE"),
        ("ASSET", 2, "SERVER_SCOPE"),
    ]
    assert encode_uplink(1, [replace(request, body=None)], State()) is None


def test_each_telemetry_event_keeps_an_entry_of_its_own():
    message = uplink(*(event("TIMESERIES_UPDATED", {"ts": TS + i, "data": {"t": i}}) for i in range(3)))
    assert [[item.ts for item in data.postTelemetryMsg.tsKvList] for data in message.entityData] == [
        [TS],
        [TS + 1],
        [TS + 2],
    ]


@pytest.mark.parametrize(
    "nothing",
    [
        event("TIMESERIES_UPDATED", {"ts": TS, "data": {}}),
        event("TIMESERIES_UPDATED", {"ts": TS, "data": {"gone": None}}),
        event("TIMESERIES_UPDATED"),
        event("ATTRIBUTES_UPDATED", {"kv": {}, "ts": TS, "scope": "SERVER_SCOPE"}),
        event("ATTRIBUTES_DELETED", {"keys": [], "scope": "SERVER_SCOPE"}),
        event("TIMESERIES_DELETED", {"keys": ["t"]}),
        event("SOMETHING_LATER", {"a": 1}),
        event("ADDED"),  # the device is gone
        event("CREDENTIALS_UPDATED"),
        event("DELETED", type_="DEVICE_PROFILE"),
        event("ALARM_ACK", type_="ALARM"),
        event("RELATION_REQUEST", id_=None),
    ],
    ids=lambda one: f"{one.type} {one.action}",
)
def test_nothing_to_send(nothing):
    assert encode_uplink(1, [nothing], State()) is None


def test_what_is_left_of_a_batch_goes():
    message = uplink(
        event("TIMESERIES_UPDATED", {"ts": TS, "data": {}}), event("TIMESERIES_UPDATED", {"ts": TS, "data": {"t": 1}})
    )
    assert len(message.entityData) == 1


def test_a_profile_of_the_cloud_is_never_echoed():
    known = DeviceProfile(id=PROFILE_ID, name="boiler", origin=Origin.CLOUD, json={"name": "boiler"})
    message = uplink(event("ADDED"), state=State(device(), profiles=[known]))
    assert len(message.deviceUpdateMsg) == len(message.deviceCredentialsUpdateMsg) == 1
    assert not message.deviceProfileUpdateMsg


def test_what_the_cloud_wrote_goes_back_whole():
    json = {"id": {"entityType": "DEVICE", "id": str(DEVICE_ID)}, "createdTime": 5, "name": "old", "version": 4, "x": 1}
    message = uplink(event("UPDATED"), state=State(device(json=json, name="new", label=None)))
    entity = orjson.loads(message.deviceUpdateMsg[0].entity)
    assert entity == {**json, "name": "new", "label": None, "version": None}
    assert message.deviceUpdateMsg[0].msgType == edge_pb2.ENTITY_UPDATED_RPC_MESSAGE
    assert not message.deviceProfileUpdateMsg


class SeenBehind(State):
    """A device that was seen behind a gateway which has another id by now."""

    def setting(self, name):
        settings = {f"{LAST_GATEWAY}{DEVICE_ID}": str(SECOND_ID), MOVED_DEVICES: {str(SECOND_ID): str(TENANT_ID)}}
        return settings.get(name)


@pytest.mark.parametrize(
    ("changes", "additional"),
    [
        ({"is_gateway": False}, {}),
        ({"is_gateway": True}, {"gateway": True}),
        ({"json": {"additionalInfo": {"description": "x"}}}, {"description": "x"}),
        ({"json": {"additionalInfo": None}}, {}),
    ],
)
def test_the_last_gateway_of_a_device_goes_up_with_it(changes, additional):
    message = uplink(event("UPDATED"), state=SeenBehind(device(**changes)))
    entity = orjson.loads(message.deviceUpdateMsg[0].entity)
    assert entity["additionalInfo"] == {**additional, "lastConnectedGateway": str(TENANT_ID)}


@pytest.mark.parametrize(
    ("gateways", "devices"),
    [(str(PROFILE_ID), str(PROFILE_ID)), (str(NULL_UUID), None), (None, None)],
    ids=["a customer's", "nobody's", "unknown"],
)
def test_a_new_device_behind_a_gateway_is_its_customers(gateways, devices):
    customer = None if gateways is None else {"entityType": "CUSTOMER", "id": gateways}
    gateway = device(id=TENANT_ID, name="gw", json={"customerId": customer})
    message = uplink(event("ADDED"), state=SeenBehind(device(), gateway))
    entity = orjson.loads(message.deviceUpdateMsg[0].entity)
    assert entity["customerId"] == (None if devices is None else {"entityType": "CUSTOMER", "id": devices})


def test_a_relation_follows_a_device_to_its_new_id():
    body = {"from": {"id": str(SECOND_ID)}, "to": {"id": str(DEVICE_ID)}, "type": "Created"}
    message = uplink(event("RELATION_ADD_OR_UPDATE", body, type_="RELATION", id_=None), state=SeenBehind())
    relation = orjson.loads(message.relationUpdateMsg[0].entity)
    assert (relation["from"]["id"], relation["to"]["id"]) == (str(TENANT_ID), str(DEVICE_ID))


def test_a_deleted_device_is_only_an_id():
    (update,) = uplink(event("DELETED")).deviceUpdateMsg
    assert (update.msgType, update.idMSB, update.idLSB) == (2, *halves(DEVICE_ID))
    assert update.entity == ""


def test_credentials_alone():
    message = uplink(event("CREDENTIALS_UPDATED"), state=State(device()))
    assert orjson.loads(message.deviceCredentialsUpdateMsg[0].entity)["credentialsId"] == "kT9wqLm2"
    assert not message.deviceUpdateMsg


@pytest.mark.parametrize(
    ("action", "kind"), [("ADDED", 0), ("UPDATED", 1), ("ALARM_DELETE", 2), ("ALARM_ACK", 3), ("ALARM_CLEAR", 4)]
)
def test_alarms(action, kind):
    body = {"id": {"entityType": "ALARM", "id": str(DEVICE_ID)}, "type": "Overheat"}
    (update,) = uplink(event(action, body, type_="ALARM", id_=None)).alarmUpdateMsg
    assert (update.msgType, update.idMSB, update.idLSB) == (kind, *halves(DEVICE_ID))
    assert orjson.loads(update.entity) == body


def test_relations():
    body = {"from": {"id": "a"}, "to": {"id": "b"}, "type": "Contains", "version": 3}
    added = event("RELATION_ADD_OR_UPDATE", body, type_="RELATION", id_=None)
    removed = event("RELATION_DELETED", body, type_="RELATION", id_=None)
    updates = uplink(added, removed).relationUpdateMsg
    assert [update.msgType for update in updates] == [0, 2]
    assert orjson.loads(updates[0].entity) == {**body, "version": None}


def test_numbers_at_the_borders():
    body = {"ts": TS, "data": {"low": -(1 << 63), "high": (1 << 63) - 1, "beyond": 1 << 63, "whole": 5.0}}
    low, high, beyond, whole = uplink(event("TIMESERIES_UPDATED", body)).entityData[0].postTelemetryMsg.tsKvList[0].kv
    assert (low.long_v, high.long_v) == (-(1 << 63), (1 << 63) - 1)
    assert (beyond.type, beyond.string_v) == (queue_pb2.STRING_V, "9223372036854775808")
    assert (whole.type, whole.double_v) == (queue_pb2.DOUBLE_V, 5.0)


def test_times_are_always_set():
    telemetry, attributes = uplink(
        event("TIMESERIES_UPDATED", {"data": {"t": 1}}), event("ATTRIBUTES_UPDATED", {"kv": {"a": 1}})
    ).entityData
    assert telemetry.postTelemetryMsg.tsKvList[0].ts == TS
    assert attributes.attributeTs == TS
    assert attributes.postAttributeScope == "SERVER_SCOPE"


@pytest.mark.parametrize(
    "bad",
    [
        event("TIMESERIES_UPDATED", b"{not json"),
        event("TIMESERIES_UPDATED", {"ts": "yesterday", "data": {"t": 1}}),
        event("TIMESERIES_UPDATED", b"[]"),
        event("ATTRIBUTES_UPDATED", {"kv": {"a": 1}, "scope": "NO_SCOPE"}),
        event("RPC_CALL", {"requestId": 1}),
        event("RPC_CALL", {"requestId": 1, "requestUUID": "x", "response": "{}"}),
        event("ALARM_ACK", {"type": "a"}, type_="ALARM", id_=None),
    ],
    ids=range(7),
)
def test_a_damaged_event_is_rejected(bad):
    with pytest.raises(RejectedError):
        encode_uplink(1, [bad], State())


def test_a_device_cannot_go_up_before_the_tenant_is_known():
    with pytest.raises(RejectedError, match="tenant"):
        encode_uplink(1, [event("ADDED")], State(device(), is_known=False))


def test_the_first_moment_of_the_epoch_is_a_time_like_any_other():
    [data] = uplink(event("TIMESERIES_UPDATED", {"ts": 0, "data": {"t": 1}})).entityData
    assert data.postTelemetryMsg.tsKvList[0].ts == 0


ALARM = {
    "id": {"entityType": "ALARM", "id": str(DEVICE_ID)},
    "type": "Overheat",
    "customerId": {"entityType": "CUSTOMER", "id": str(NULL_UUID)},
}


@pytest.mark.parametrize("action", ["ADDED", "UPDATED", "ALARM_ACK", "ALARM_CLEAR"])
def test_an_alarm_without_a_body_goes_up_as_it_is_now(action):
    state = State(entities={("ALARM", str(DEVICE_ID)): ALARM})
    (update,) = uplink(event(action, type_="ALARM"), state=state).alarmUpdateMsg
    assert orjson.loads(update.entity) == {**ALARM, "customerId": None}
    assert encode_uplink(1, [event(action, type_="ALARM")], State()) is None  # gone


def test_an_alarm_from_before_the_first_connect_gets_its_tenant():
    state = State(entities={("ALARM", str(DEVICE_ID)): {**ALARM, "tenantId": None}})
    (update,) = uplink(event("ADDED", type_="ALARM"), state=state).alarmUpdateMsg
    assert orjson.loads(update.entity)["tenantId"] == {"entityType": "TENANT", "id": str(TENANT_ID)}


def test_a_deleted_alarm_is_only_in_its_event():
    state = State(entities={("ALARM", str(DEVICE_ID)): ALARM})
    assert encode_uplink(1, [event("ALARM_DELETE", type_="ALARM")], state) is None


@pytest.mark.parametrize(("action", "kind"), [("ADDED_COMMENT", 0), ("UPDATED_COMMENT", 1), ("DELETED_COMMENT", 2)])
def test_comments_of_alarms(action, kind):
    body = {"id": {"id": str(DEVICE_ID)}, "comment": {"text": "valve closed"}}
    (update,) = uplink(event(action, body, type_="ALARM_COMMENT")).alarmCommentUpdateMsg
    assert (update.msgType, orjson.loads(update.entity)) == (kind, body)


def test_each_deleted_relation_has_a_part_of_its_own():
    one, two = ({"from": {"id": "a"}, "to": {"id": to}, "type": "Contains", "typeGroup": "COMMON"} for to in "bc")
    other = {**one, "typeGroup": "DASHBOARD"}
    updates = uplink(event("RELATIONS_DELETED", {"relations": [one, other, two]})).relationUpdateMsg
    assert [(update.msgType, orjson.loads(update.entity)) for update in updates] == [
        (2, {**one, "version": None}),
        (2, {**two, "version": None}),
    ]
    assert encode_uplink(1, [event("RELATIONS_DELETED", {"relations": []})], State()) is None


@pytest.mark.parametrize(
    ("type_", "field"),
    [
        ("ASSET", "assetUpdateMsg"),
        ("ASSET_PROFILE", "assetProfileUpdateMsg"),
        ("ENTITY_VIEW", "entityViewUpdateMsg"),
        ("DASHBOARD", "dashboardUpdateMsg"),
    ],
)
def test_entities_that_are_kept_as_json(type_, field):
    json = {"id": {"entityType": type_, "id": str(DEVICE_ID)}, "name": "Hall B", "version": 7}
    state = State(entities={(type_, str(DEVICE_ID)): json})
    added, updated = getattr(uplink(event("ADDED", type_=type_), event("UPDATED", type_=type_), state=state), field)
    assert (added.msgType, updated.msgType) == (0, 1)
    assert (added.idMSB, added.idLSB) == halves(DEVICE_ID)
    assert orjson.loads(added.entity) == {**json, "version": None}
    assert encode_uplink(1, [event("UPDATED", type_=type_)], State()) is None  # gone
    if type_ == "ASSET_PROFILE":
        assert encode_uplink(1, [event("DELETED", type_=type_)], state) is None
    else:
        (removed,) = getattr(uplink(event("DELETED", type_=type_), state=state), field)
        assert (removed.msgType, removed.entity) == (2, "")


@pytest.mark.parametrize("action", ["ASSIGNED_TO_CUSTOMER", "UNASSIGNED_FROM_CUSTOMER"])
def test_another_customer_is_an_update(action):
    message = uplink(event(action), state=State(device()))
    assert message.deviceUpdateMsg[0].msgType == 1
    assert not message.deviceProfileUpdateMsg
    assert encode_uplink(1, [event(action, type_="DEVICE_PROFILE")], State(device())) is None


def test_queues_that_servers_keep_as_assets_stay_here():
    state = State(entities={("ASSET", str(DEVICE_ID)): {"type": "TbServiceQueue"}})
    assert encode_uplink(1, [event("ADDED", type_="ASSET")], state) is None


def test_no_customer_is_null_on_the_way_up():
    json = {"customerId": {"entityType": "CUSTOMER", "id": str(NULL_UUID)}, "version": 1}
    message = uplink(event("UPDATED"), state=State(device(json=json)))
    assert orjson.loads(message.deviceUpdateMsg[0].entity)["customerId"] is None


def test_a_request_for_calculated_fields():
    (request,) = uplink(event("CALCULATED_FIELD_REQUEST")).calculatedFieldRequestMsg
    assert (request.entityIdMSB, request.entityIdLSB, request.entityType) == (*halves(DEVICE_ID), "DEVICE")


def test_events_of_a_device_that_moved_go_up_under_its_present_id_whenever_the_setting_changes():
    state = State()
    moved: dict[str, str] | None = None
    state.setting = lambda name: moved if name == "moved_devices" else None
    reading = event("TIMESERIES_UPDATED", {"ts": TS, "data": {"t": 1}})

    def address():
        (data,) = uplink(reading, state=state).entityData
        return uuid_of(data.entityIdMSB, data.entityIdLSB)

    assert address() == DEVICE_ID
    for target in (SECOND_ID, TENANT_ID):
        moved = {str(DEVICE_ID): str(target)}
        assert (address(), address()) == (target, target)
    moved = {str(SECOND_ID): str(TENANT_ID)}
    assert address() == DEVICE_ID
    moved = None
    assert address() == DEVICE_ID
