"""Each node, a row a behaviour."""

import json
import logging

import pytest

from gateway.domain.changes import DeleteAttributes, SaveAttributes, SaveTelemetry
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Attribute
from tests.unit.rules.kit import DEVICE, DEVICE_ID, PROFILE_ID, PUSH, Rules, bodies, js, message

NOW = 1_700_000_000_000
T = "POST_TELEMETRY_REQUEST"
A = "POST_ATTRIBUTES_REQUEST"
ENDS = ("success", "failure", "true", "false", "other")


def answers(node, data=None, type_=T, rules=None, **more):
    """The relation that a node answers, and the message behind it."""
    rules = rules or Rules([node])
    seen = []
    compiled = rules.engine._root.nodes[0]
    for label in (*ENDS, "device", "press", "entity view"):
        compiled.edges[label] = (_End(compiled, label, seen),)
    outcome = rules.run(data, type_, **more)
    return seen, outcome


class _End:
    """Stands where the next node would."""

    def __init__(self, node, label, seen):
        self.chain, self.name, self.type, self.edges = node.chain, label, "", {}
        self.messages = self.failures = 0
        self.run = lambda msg, out: seen.append((label, msg))


def label_of(node, data=None, type_=T, **more):
    seen, _ = answers(node, data, type_, **more)
    return [label for label, _ in seen]


def result_of(node, data=None, type_=T, **more):
    seen, _ = answers(node, data, type_, **more)
    ((label, msg),) = seen
    return label, msg.data, msg.metadata


# ── filters ──


@pytest.mark.parametrize(
    ("kind", "config", "data", "more", "expected"),
    [
        ("TbMsgTypeFilterNode", {"messageTypes": ["X"]}, {}, {"type_": "X"}, "true"),
        ("TbMsgTypeFilterNode", {"messageTypes": ["X"]}, {}, {"type_": "x"}, "false"),
        ("TbMsgTypeFilterNode", {}, {}, {}, "true"),
        ("TbOriginatorTypeFilterNode", {}, {}, {}, "true"),
        ("TbOriginatorTypeFilterNode", {"originatorTypes": ["ASSET"]}, {}, {}, "false"),
        ("TbOriginatorTypeSwitchNode", {}, {}, {}, "device"),
        (
            "TbOriginatorTypeSwitchNode",
            {},
            {},
            {"originator": EntityId("ENTITY_VIEW", DEVICE_ID)},
            "entity view",
        ),
        ("TbDeviceTypeSwitchNode", {}, {}, {}, "press"),
        ("TbDeviceTypeSwitchNode", {}, {}, {"originator": EntityId("DEVICE", PROFILE_ID)}, "failure"),
        ("TbCheckMessageNode", {"messageNames": ["a"], "checkAllKeys": True}, {"a": None}, {}, "true"),
        ("TbCheckMessageNode", {"messageNames": ["a", "b"], "checkAllKeys": True}, {"a": 1}, {}, "false"),
        ("TbCheckMessageNode", {"messageNames": ["a", "b"], "checkAllKeys": "false"}, {"a": 1}, {}, "true"),
        (
            "TbCheckMessageNode",
            {"messageNames": ["a"], "metadataNames": ["nope"], "checkAllKeys": True},
            {"a": 1},
            {},
            "false",
        ),
        ("TbCheckMessageNode", {"checkAllKeys": True}, {}, {}, "true"),
        ("TbCheckMessageNode", {"checkAllKeys": False}, {}, {}, "false"),
        ("TbCheckMessageNode", {"metadataNames": ["ts"]}, [1], {}, "true"),
        ("TbCheckMessageNode", {"messageNames": ["a"]}, [1], {}, "failure"),
    ],
)
def test_filter(kind, config, data, more, expected):
    assert label_of(("filter." + kind, "n", config), data, **more) == [expected]


@pytest.mark.parametrize(
    ("type_", "label"),
    [
        ("POST_TELEMETRY_REQUEST", "Post Telemetry"),
        ("TO_SERVER_RPC_REQUEST", "RPC Request from Device"),
        ("RPC_CALL_FROM_SERVER_TO_DEVICE", "RPC Request to Device"),
        ("ALARM_ACK", "Alarm Acknowledged"),
        ("ENTITY_ASSIGNED_FROM_TENANT", "Entity Assigned From Tenant"),
        ("RELATIONS_DELETED", "All Relations Deleted"),
        ("REST_API_REQUEST", "REST API request"),
        ("ALARM_DELETE", "Other"),
        ("ENTITY_ASSIGNED_TO_EDGE", "Other"),
        ("anything", "Other"),
    ],
)
def test_message_type_switch(type_, label):
    end = ("transaction.TbSynchronizationEndNode", "end", {})
    rules = Rules([("filter.TbMsgTypeSwitchNode", "s", {"version": 0}), end], (0, 1, label))
    rules.run({}, type_)
    assert rules.passed("end") == 1


# ── save time series ──


def saved(data, config=None, version=1, **more):
    return Rules([("telemetry.TbMsgTimeseriesNode", "save", config or {}, version)]).run(data, **more)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": 1, "b": 5.0, "c": "17", "d": True, "e": {"x": [1]}}, [(1000, None)]),
        ({"ts": 5, "values": {"a": 1}}, [(5, {"a": 1})]),
        ([{"ts": 5, "values": {"a": 1}}, {"b": 2}], [(5, {"a": 1}), (1000, {"b": 2})]),
        ({"values": 3}, [(1000, None)]),
        ({"ts": 5, "values": 3}, [(1000, None)]),
        ({"big": 2**63, "ok": 2**63 - 1}, [(1000, {"big": "9223372036854775808", "ok": 2**63 - 1})]),
    ],
)
def test_telemetry_bodies(data, expected):
    outcome = saved(data)
    assert outcome.changes == [SaveTelemetry(DEVICE, ts, data if values is None else values) for ts, values in expected]
    assert outcome.errors == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "the body is empty"),
        ({"ts": 5, "values": {}}, "the body is empty"),
        ({"a": None}, "the value of 'a' is null"),
        ("text", "the body is no object"),
        ([1], "the body is no object"),
        ({"ts": "5", "values": {"a": 1}}, "'ts' must be a number"),
    ],
)
def test_telemetry_that_cannot_be_saved(data, text):
    outcome = saved(data)
    assert outcome.changes == []
    assert text in outcome.errors[0]


def test_telemetry_refuses_other_types_and_an_empty_object():
    assert "are no telemetry" in saved({"a": 1}, type_=A).errors[0]
    rules = Rules([("telemetry.TbMsgTimeseriesNode", "save", {})])
    assert "the body is empty" in rules.engine.process(message({})).errors[0]


def test_time_of_telemetry():
    assert saved({"a": 1}, {"useServerTs": "true"}).changes[0].ts_ms == NOW
    assert saved({"a": 1}, metadata={}).changes[0].ts_ms == 2000
    assert "64 bits" in saved({"a": 1}, metadata={"ts": str(2**70)}).errors[0]
    for key in ("", "  ", "k" * 256):
        assert "a key has" in saved({key: 1, "b": 2**70}).errors[0]


ON, SKIP = {"type": "ON_EVERY_MESSAGE"}, {"type": "SKIP"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ON, [True]),
        ({"type": "WEBSOCKETS_ONLY"}, []),
        ({"type": "ADVANCED", "timeseries": ON, "latest": ON}, [True]),
        ({"type": "ADVANCED", "timeseries": SKIP, "latest": ON}, [False]),
        ({"type": "ADVANCED", "timeseries": ON, "latest": SKIP}, [True]),
        ({"type": "ADVANCED", "timeseries": SKIP, "latest": SKIP}, []),
    ],
)
def test_what_is_kept(settings, expected):
    outcome = saved({"a": 1}, {"processingSettings": settings})
    assert [change.keep_history for change in outcome.changes] == expected
    assert outcome.errors == []


def test_deduplicate_keeps_the_first_of_each_interval_and_passes_all():
    settings = {"type": "DEDUPLICATE", "deduplicationIntervalSecs": 10}
    rules = Rules(
        [("telemetry.TbMsgTimeseriesNode", "save", {"processingSettings": settings}), PUSH], (0, 1, "Success")
    )
    kept, pushed = [], 0
    for ts in (1_000, 9_999, 10_000, 5_000, 19_999, 20_000):
        outcome = rules.run({"a": 1}, metadata={"ts": str(ts)})
        kept += [change.ts_ms for change in outcome.changes if isinstance(change, SaveTelemetry)]
        pushed += len(bodies(outcome))
    assert kept == [1_000, 10_000, 20_000]
    assert pushed == 6


def test_a_strategy_that_is_not_understood_is_listed():
    rules = Rules([("telemetry.TbMsgTimeseriesNode", "save", {"processingSettings": {"type": "MAGIC"}})])
    assert rules.texts() == ["processing strategy 'MAGIC' is not known"]
    assert len(rules.run().errors) == 1


# ── attributes ──


def attributes(config, data, meta=None, version=3, held=None):
    rules = Rules([("telemetry.TbMsgAttributesNode", "save", config, version)])
    for key, value in (held or {}).items():
        rules.state.attributes[DEVICE, "SERVER_SCOPE", key] = Attribute(1, value)
    return rules.run(data, A, metadata=meta or {})


def test_attributes_scope_and_time():
    assert attributes({}, {"a": 1}).changes == [SaveAttributes(DEVICE, "SERVER_SCOPE", NOW, {"a": 1})]
    assert attributes({}, {"a": 1}, {"scope": "SHARED_SCOPE"}).changes[0].scope == "SHARED_SCOPE"
    assert "is no attribute scope" in attributes({"scope": "MY_SCOPE"}, {"a": 1}).errors[0]
    assert "null" in attributes({}, {"a": None}).errors[0]
    assert "no object" in attributes({}, [1]).errors[0]
    outcome = Rules([("telemetry.TbMsgAttributesNode", "save", {})]).engine.process(message({}, A))
    assert (outcome.changes, outcome.errors) == ([], [])


@pytest.mark.parametrize(
    ("held", "value", "is_saved"),
    [(1, 1, False), (1, 2, True), (1, 1.0, True), (1, True, True), ("1", 1, True), ({"a": 1}, {"a": True}, True)],
)
def test_only_changed_values_by_value_and_type(held, value, is_saved):
    config = {"updateAttributesOnlyOnValueChange": True}
    assert bool(attributes(config, {"k": value}, held={"k": held}).changes) == is_saved


def test_a_value_that_goes_back_before_the_first_change_is_durable_is_saved():
    rules = Rules([("telemetry.TbMsgAttributesNode", "save", {"updateAttributesOnlyOnValueChange": True})])
    rules.state.attributes[DEVICE, "SERVER_SCOPE", "k"] = Attribute(1, 1)
    for value in (2, 1):
        assert rules.run({"k": value}, A, metadata={}).changes[0].values == {"k": value}
    assert rules.run({"k": 1}, A, metadata={}).changes == []


@pytest.mark.parametrize(
    ("config", "meta", "is_told"),
    [
        ({"notifyDevice": False}, {"notifyDevice": "false"}, False),
        ({"notifyDevice": True}, {"notifyDevice": "false"}, True),
        ({"notifyDevice": "false"}, {"notifyDevice": "true"}, True),
        ({"notifyDevice": False}, {}, True),
        ({"notifyDevice": False}, {"notifyDevice": ""}, True),
    ],
)
def test_the_device_is_told_of_shared_attributes(config, meta, is_told):
    notices = attributes({**config, "scope": "SHARED_SCOPE"}, {"a": 1}, meta).notices
    assert [(n.entity, n.values) for n in notices] == ([(DEVICE, {"a": 1})] if is_told else [])
    assert attributes({**config, "scope": "SERVER_SCOPE"}, {"a": 1}, meta).notices == []


def test_notification_makes_a_message():
    config = {"sendAttributesUpdatedNotification": True, "updateAttributesOnlyOnValueChange": True}
    (told,) = attributes(config, {"a": 1, "b": 2}, {"x": "y"}, held={"b": 2}).emitted
    assert (told.type, told.data, told.metadata) == (
        "ATTRIBUTES_UPDATED",
        {"a": 1},
        {"x": "y", "scope": "SERVER_SCOPE"},
    )
    assert attributes(config, {"b": 2}, held={"b": 2}).emitted == []
    assert attributes({**config, "scope": "CLIENT_SCOPE"}, {"a": 1}).emitted == []


def test_delete_attributes():
    def deleted(config, meta):
        return Rules([("telemetry.TbMsgDeleteAttributesNode", "del", config)]).run({"k": "c"}, metadata=meta)

    keys = ["a", " ", "a", "$[k]", "${m}", "${nope}"]
    outcome = deleted({"keys": keys, "sendAttributesDeletedNotification": True}, {"m": "d"})
    assert outcome.changes == [DeleteAttributes(DEVICE, "SERVER_SCOPE", ["a", "c", "d", "${nope}"])]
    assert outcome.notices == []
    assert (outcome.emitted[0].type, outcome.emitted[0].data) == (
        "ATTRIBUTES_DELETED",
        {"attributes": ["a", "c", "d", "${nope}"]},
    )
    outcome = deleted({"keys": ["a"]}, {"scope": "SHARED_SCOPE", "notifyDevice": "true"})
    assert [(n.values, n.deleted) for n in outcome.notices] == [(None, ["a"])]
    assert deleted({"keys": ["a"]}, {"scope": "SHARED_SCOPE"}).notices == []
    assert deleted({"keys": [" "]}, {}).changes == []


# ── enrichment ──


def test_originator_attributes():
    rules = Rules(
        [
            (
                "metadata.TbGetAttributesNode",
                "get",
                {
                    "clientAttributeNames": ["fw"],
                    "sharedAttributeNames": ["$[which]"],
                    "serverAttributeNames": ["on", "obj"],
                    "tellFailureIfAbsent": True,
                },
            )
        ]
    )
    held = {("CLIENT_SCOPE", "fw"): "1.2", ("SHARED_SCOPE", "lim"): 5, ("SERVER_SCOPE", "on"): True}
    for (scope, key), value in held.items():
        rules.state.attributes[DEVICE, scope, key] = Attribute(1, value)
    found = {"cs_fw": "1.2", "shared_lim": "5", "ss_on": "true"}
    seen, _ = answers(None, {"which": "lim"}, rules=rules, metadata={})
    assert [(label, msg.metadata) for label, msg in seen] == [("failure", found)]  # enriched all the same
    rules.state.attributes[DEVICE, "SERVER_SCOPE", "obj"] = Attribute(1, {"a": 1})
    seen, _ = answers(None, {"which": "lim"}, rules=rules, metadata={})
    assert [(label, msg.metadata) for label, msg in seen] == [("success", {**found, "ss_obj": '{"a":1}'})]


def test_originator_attributes_into_the_body_and_absent_ones():
    node = ("metadata.TbGetAttributesNode", "get", {"fetchTo": "DATA", "serverAttributeNames": ["x"]})
    rules = Rules([node])
    rules.state.attributes[DEVICE, "SERVER_SCOPE", "x"] = Attribute(1, 1.5)
    seen, _ = answers(None, {"a": 1}, rules=rules)
    assert seen[0][1].data == {"a": 1, "ss_x": 1.5}
    assert label_of(node, {"a": 1}) == ["success"]
    assert label_of(node, [1]) == ["failure"]
    old = ("metadata.TbGetAttributesNode", "get", {"fetchToData": "true", "serverAttributeNames": ["x"]}, 0)
    rules = Rules([old])
    rules.state.attributes[DEVICE, "SERVER_SCOPE", "x"] = Attribute(1, 2)
    seen, _ = answers(None, {"a": 1}, rules=rules)
    assert seen[0][1].data == {"a": 1, "ss_x": 2}


def test_originator_fields():
    mapping = {"name": "n", "label": "l_${x}", "additionalInfo.gateway": "g", "nope": "no", "a.b.c": "deep"}
    node = ("metadata.TbGetOriginatorFieldsNode", "get", {"dataMapping": mapping})
    assert result_of(node, metadata={"x": "1"}) == (
        "success",
        {"temperature": 21.5},
        {"x": "1", "n": "Press 1", "l_1": "Hall 2", "g": "false"},
    )
    default = ("metadata.TbGetOriginatorFieldsNode", "get", {})
    assert result_of(default, metadata={})[2] == {"originatorName": "Press 1", "originatorType": "press"}
    assert label_of(default, originator=EntityId("DEVICE", PROFILE_ID)) == ["failure"]
    old = ("metadata.TbGetOriginatorFieldsNode", "get", {"fieldsMapping": {"type": "t"}}, 0)
    assert result_of(old, metadata={})[2] == {"t": "press"}


def test_fields_of_other_entities_and_nulls():
    asset = EntityId("ASSET", PROFILE_ID)
    config = {"dataMapping": {"label": "l", "tenantId": "t"}, "fetchTo": "DATA"}
    for ignores, expected in ((False, {"l": "null", "t": "id-1"}), (True, {"t": "id-1"})):
        rules = Rules([("metadata.TbGetOriginatorFieldsNode", "get", {**config, "ignoreNullStrings": ignores})])
        rules.state.entities["ASSET", str(PROFILE_ID)] = {
            "label": None,
            "tenantId": {"entityType": "TENANT", "id": "id-1"},
        }
        seen, _ = answers(None, {"a": 1}, rules=rules, originator=asset)
        assert seen[0][1].data == {"a": 1, **expected}


# ── transformation ──


@pytest.mark.parametrize(
    ("kind", "config", "data", "meta"),
    [
        ("CopyKeys", {"keys": ["a", "t.*"]}, {"a": 1, "t1": {"x": 1}, "xt": 2}, {"m": "1", "a": "1", "t1": '{"x":1}'}),
        ("CopyKeys", {"keys": ["nope"]}, {"a": 1}, {"m": "1"}),
        ("CopyKeys", {"keys": ["a"]}, [1], {"m": "1"}),
        ("DeleteKeys", {"deleteFrom": "METADATA", "keys": ["m"]}, {"a": 1}, {}),
        ("DeleteKeys", {"keys": ["a"]}, [1], {"m": "1"}),
        ("RenameKeys", {"renameIn": "METADATA", "renameKeysMapping": {"m": "n"}}, {"a": 1}, {"n": "1"}),
    ],
)
def test_metadata_after_keys(kind, config, data, meta):
    assert result_of((f"transform.Tb{kind}Node", "n", config), data, metadata={"m": "1"}) == ("success", data, meta)


@pytest.mark.parametrize(
    ("kind", "config", "data", "expected", "version"),
    [
        ("CopyKeys", {"copyFrom": "METADATA", "keys": ["m"]}, {"a": 1}, {"a": 1, "m": "1"}, 2),
        ("CopyKeys", {"fromMetadata": True, "keys": ["m"]}, {"a": 1}, {"a": 1, "m": "1"}, 0),
        ("CopyKeys", {"fromMetadata": "METADATA", "keys": ["m"]}, {"a": 1}, {"a": 1, "m": "1"}, 1),
        ("DeleteKeys", {"keys": ["a", "b.+"]}, {"a": 1, "b": 2, "bc": 3}, {"b": 2}, 2),
        ("DeleteKeys", {"dataToFetch": "DATA", "keys": ["a"]}, {"a": 1, "b": 2}, {"b": 2}, 1),
        ("RenameKeys", {}, {"temperatureCelsius": 5, "z": 1}, {"z": 1, "temperature": 5}, 2),
        ("RenameKeys", {"renameKeysMapping": {"a": "b", "b": "c"}}, {"a": 1, "b": 2}, {"c": 1}, 2),
        ("RenameKeys", {"fromMetadata": "false", "renameKeysMapping": {"a": "b"}}, {"a": 1}, {"b": 1}, 0),
    ],
)
def test_body_after_keys(kind, config, data, expected, version):
    label, body, _ = result_of((f"transform.Tb{kind}Node", "n", config, version), data, metadata={"m": "1"})
    assert (label, list(body.items())) == ("success", list(expected.items()))


def test_keys_that_cannot_work_are_listed():
    assert "is empty" in Rules([("transform.TbRenameKeysNode", "n", {"renameKeysMapping": {}})]).texts()[0]
    assert "no regular expression" in Rules([("transform.TbCopyKeysNode", "n", {"keys": ["("]})]).texts()[0]
    wrong = Rules([("transform.TbCopyKeysNode", "n", {"keys": 5})])
    assert "its configuration is wrong: keys" in wrong.texts()[0]


def test_split_array():
    node = ("transform.TbSplitArrayMsgNode", "split", {})
    seen, _ = answers(node, [{"a": 1}, {"a": 2}, 3])
    assert [(label, msg.data) for label, msg in seen] == [("success", {"a": 1}), ("success", {"a": 2}), ("success", 3)]
    assert len({msg.id for _, msg in seen}) == 3
    assert label_of(node, []) == []
    assert label_of(node, [5]) == ["success"]
    assert label_of(node, {"a": 1}) == ["failure"]
    assert label_of(node, [0] * 10_001) == ["failure"]


# ── RPC, flow, log, profile ──


def test_rpc_reply():
    node = ("rpc.TbSendRPCReplyNode", "reply", {})
    meta = {"serviceId": "s", "sessionId": "abc", "requestId": "7"}
    (reply,) = Rules([node]).run({"now": 5}, metadata=meta).replies
    assert (reply.device_id, reply.session_id, reply.request_id, reply.response) == (DEVICE_ID, "abc", 7, '{"now":5}')
    for key in meta:
        assert label_of(node, {"a": 1}, metadata={k: v for k, v in meta.items() if k != key}) == ["failure"]
    assert label_of(node, {"a": 1}, metadata={**meta, "requestId": "x"}) == ["failure"]
    assert label_of(node, "", metadata=meta) == ["failure"]
    assert label_of(node, {"a": 1}, metadata=meta, originator=EntityId("ASSET", DEVICE_ID)) == ["failure"]
    named = ("rpc.TbSendRPCReplyNode", "reply", {"requestIdMetaDataAttribute": "rid"})
    assert Rules([named]).run({}, metadata={**meta, "rid": "9"}).replies[0].request_id == 9


@pytest.mark.parametrize(
    ("data", "more"),
    [
        ({"params": 1}, {}),
        ({"method": "m"}, {}),
        ({"method": 5, "params": 1}, {}),
        ([1], {}),
        ({"method": "m", "params": 1}, {"originator": EntityId("ASSET", DEVICE_ID)}),
    ],
)
def test_rpc_call_that_cannot_be_made(data, more):
    assert label_of(("rpc.TbSendRPCRequestNode", "call", {}), data, **more) == ["failure"]


@pytest.mark.parametrize(
    ("params", "expected"), [('{"a":1}', {"a": 1}), ("on", "on"), ('"on"', "on"), ("5", 5), ([1], [1]), (None, None)]
)
def test_rpc_parameters(params, expected):
    config = {"timeoutInSeconds": "5"}
    rules = Rules([("rpc.TbSendRPCRequestNode", "call", config)])
    meta = {"oneway": "true", "expirationTime": "9" * 30, "requestUUID": "no uuid", "retries": "2"}
    (call,) = rules.run(
        {"method": "m", "params": params, "requestId": 2**31}, "RPC_CALL_FROM_SERVER_TO_DEVICE", metadata=meta
    ).calls
    assert call.request.params == expected
    assert call.request.retries == 2
    assert (call.request.is_oneway, call.request.is_persisted) == (True, False)
    assert call.request.expires_ms == NOW + 5000
    assert (call.request.request_uuid, call.request.is_from_cloud) == (None, False)
    assert 0 <= call.request.request_id < 2**31


@pytest.mark.parametrize(
    "kind",
    [
        "flow.TbAckNode",
        "flow.TbCheckpointNode",
        "transaction.TbSynchronizationBeginNode",
        "transaction.TbSynchronizationEndNode",
        "telemetry.TbCalculatedFieldsNode",
        "profile.TbDeviceProfileNode",
    ],
)
def test_pass_through(kind):
    assert label_of((kind, "n", {})) == ["success"]


def test_alarm_rules_that_cannot_be_read_are_listed_once():
    rules = Rules([("profile.TbDeviceProfileNode", "profile", {}), PUSH], (0, 1, "Success"))
    rules.run()
    assert rules.texts() == []
    rules.state.add_device(profile_json={"profileData": {"alarms": [{"id": "1"}]}})
    assert len(rules.run().changes) == 1
    rules.run()
    assert rules.texts() == ["profile 'Press': alarms[0] (without a type) is not evaluated: alarmType must be a text"]


def test_log_writes_one_line_and_not_too_many(caplog):
    caplog.set_level(logging.INFO)
    rules = Rules([js("say", "return 'a\\nb\\u001b' + msg.t;", "action.TbLogNode")])
    for _ in range(15):
        rules.run({"t": 1})
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("action")]
    assert lines == ["Root / say: a b 1"] * 10
    assert rules.counters.get("rules.log_lines_left_out") == 5
    caplog.clear()
    Rules([("action.TbLogNode", "plain", {})]).run({"t": 1}, metadata={})
    assert 'Root / plain: ["POST_TELEMETRY_REQUEST",{"t":1},{}]' in caplog.messages


def test_log_is_silent_and_does_not_run_below_info(caplog):
    caplog.set_level(logging.WARNING)
    assert Rules([js("say", "return nope;", "action.TbLogNode")]).run().errors == []
    caplog.set_level(logging.INFO)
    assert "nope is not defined" in Rules([js("say", "return nope;", "action.TbLogNode")]).run().errors[0]
    assert "must give a text" in Rules([js("say", "return 5;", "action.TbLogNode")]).run().errors[0]


# ── older configurations ──


@pytest.mark.parametrize(
    ("version", "config", "only_changed", "is_told"),
    [
        (0, {}, False, True),
        (0, {"notifyDevice": "false"}, False, False),
        (1, {}, True, True),
        (1, {"updateAttributesOnlyOnValueChange": "false", "notifyDevice": False}, False, False),
        (3, {}, False, False),
    ],
)
def test_save_attributes_upgrades(version, config, only_changed, is_told):
    rules = Rules([("telemetry.TbMsgAttributesNode", "save", {**config, "scope": "SHARED_SCOPE"}, version)])
    rules.state.attributes[DEVICE, "SHARED_SCOPE", "a"] = Attribute(1, 1)
    outcome = rules.run({"a": 1}, A, metadata={"notifyDevice": "false"})
    assert bool(outcome.changes) != only_changed
    outcome = rules.run({"a": 2}, A, metadata={"notifyDevice": "false"})
    assert bool(outcome.notices) == is_told


def test_attributes_without_end_stay_out_of_memory_and_go_up_all_the_same(monkeypatch):
    monkeypatch.setattr("gateway.rules.nodes.telemetry.MAX_ATTRIBUTES_BYTES", 100)
    rules = Rules([("telemetry.TbMsgAttributesNode", "save", {"scope": "CLIENT_SCOPE"}), PUSH], (0, 1, "Success"))
    assert [type(change).__name__ for change in rules.run({"a": "bc"}, A).changes] == ["SaveAttributes", "AppendEvent"]
    rules.state.attributes[DEVICE, "CLIENT_SCOPE", "a"] = Attribute(1, "bc")
    saved_, event = rules.run({"a": "de", "new": 1}, A).changes
    assert saved_.values == {"a": "de"}
    assert json.loads(event.event.body)["kv"] == {"a": "de", "new": 1}
    for body in ({"a": "longer"}, {"new": 1}, {"a": {"much": [1, 2]}}):
        (event,) = rules.run(body, A).changes
        assert json.loads(event.event.body)["kv"] == body
    assert rules.counters.get("rules.attributes_no_room") == 4


def test_save_telemetry_upgrades():
    assert saved({"a": 1}, {"skipLatestPersistence": "true"}, version=0).changes[0].keep_history is True
    assert len(saved({"a": 1}, {"processingSettings": {"type": "WEBSOCKETS_ONLY"}}, version=0).changes) == 1
