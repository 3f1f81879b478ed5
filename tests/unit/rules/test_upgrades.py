"""Older configurations: a row of the reference, a row here (rule-engine §4.9)."""

import pytest

from gateway.rules.upgrade import upgraded

EVERY = {"type": "ON_EVERY_MESSAGE"}
SKIPPED = {"type": "ADVANCED", "timeseries": EVERY, "latest": {"type": "SKIP"}, "webSockets": EVERY}
SAVED = {"notifyDevice": True, "sendAttributesUpdatedNotification": False, "processingSettings": EVERY}


@pytest.mark.parametrize(
    ("kind", "version", "old", "new"),
    [
        ("telemetry.TbMsgTimeseriesNode", 0, {"skipLatestPersistence": "true"}, {"processingSettings": SKIPPED}),
        ("telemetry.TbMsgTimeseriesNode", 0, {"skipLatestPersistence": True}, {"processingSettings": SKIPPED}),
        ("telemetry.TbMsgTimeseriesNode", 0, {"skipLatestPersistence": "false"}, {"processingSettings": EVERY}),
        ("telemetry.TbMsgTimeseriesNode", 0, {}, {"processingSettings": EVERY}),
        ("telemetry.TbMsgTimeseriesNode", 1, {"skipLatestPersistence": True}, {"skipLatestPersistence": True}),
        ("telemetry.TbMsgAttributesNode", 0, {}, {**SAVED, "updateAttributesOnlyOnValueChange": False}),
        ("telemetry.TbMsgAttributesNode", 1, {}, {**SAVED, "updateAttributesOnlyOnValueChange": True}),
        (
            "telemetry.TbMsgAttributesNode",
            1,
            {"notifyDevice": "false", "updateAttributesOnlyOnValueChange": None},
            {**SAVED, "notifyDevice": "false", "updateAttributesOnlyOnValueChange": True},
        ),
        ("telemetry.TbMsgAttributesNode", 2, {}, {"processingSettings": EVERY}),
        ("telemetry.TbMsgAttributesNode", 3, {}, {}),
        ("metadata.TbGetAttributesNode", 0, {"fetchToData": True}, {"fetchTo": "DATA"}),
        ("metadata.TbGetAttributesNode", 0, {"fetchToData": None}, {"fetchTo": "METADATA"}),
        ("metadata.TbGetDeviceAttrNode", 0, {"fetchToData": "true"}, {"fetchTo": "DATA"}),
        ("metadata.TbGetDeviceAttrNode", 0, {}, {"fetchTo": "METADATA"}),
        (
            "metadata.TbGetTelemetryNode",
            0,
            {"fetchMode": "FIRST", "orderBy": "DESC", "aggregation": "MAX"},
            {"fetchMode": "FIRST", "orderBy": "ASC", "aggregation": "NONE", "limit": 1000},
        ),
        (
            "metadata.TbGetTelemetryNode",
            0,
            {"fetchMode": "LAST", "limit": 7},
            {"fetchMode": "LAST", "orderBy": "DESC", "aggregation": "NONE", "limit": 7},
        ),
        (
            "metadata.TbGetTelemetryNode",
            0,
            {"fetchMode": "ALL", "orderBy": "", "aggregation": "MIN"},
            {"fetchMode": "ALL", "orderBy": "ASC", "aggregation": "MIN", "limit": 1000},
        ),
        (
            "metadata.TbGetTelemetryNode",
            0,
            {"fetchMode": "SOME"},
            {"fetchMode": "LAST", "orderBy": "DESC", "aggregation": "NONE", "limit": 1000},
        ),
        (
            "metadata.TbGetTelemetryNode",
            1,
            {"fetchMode": "ALL"},
            {"fetchMode": "ALL", "limit": 1000, "orderBy": "ASC", "aggregation": "NONE"},
        ),
        ("metadata.TbGetTelemetryNode", 1, {"fetchMode": "LAST"}, {"fetchMode": "LAST", "limit": 1000}),
        (
            "metadata.TbGetOriginatorFieldsNode",
            0,
            {"fieldsMapping": {"name": "n"}},
            {"dataMapping": {"name": "n"}, "fetchTo": "METADATA"},
        ),
        (
            "metadata.TbGetCustomerAttributeNode",
            0,
            {"attrMapping": {"a": "b"}, "telemetry": True},
            {"dataMapping": {"a": "b"}, "dataToFetch": "LATEST_TELEMETRY", "fetchTo": "METADATA"},
        ),
        (
            "metadata.TbGetTenantAttributeNode",
            0,
            {"attrMapping": {"a": "b"}, "telemetry": "false"},
            {"dataMapping": {"a": "b"}, "dataToFetch": "ATTRIBUTES", "fetchTo": "METADATA"},
        ),
        (
            "metadata.TbGetRelatedAttributeNode",
            0,
            {"attrMapping": {"a": "b"}, "telemetry": "true"},
            {"dataMapping": {"a": "b"}, "dataToFetch": "LATEST_TELEMETRY", "fetchTo": "METADATA"},
        ),
        ("metadata.TbGetCustomerDetailsNode", 0, {"addToMetadata": True}, {"fetchTo": "METADATA"}),
        ("metadata.TbGetTenantDetailsNode", 0, {"addToMetadata": "false"}, {"fetchTo": "DATA"}),
        ("metadata.TbFetchDeviceCredentialsNode", 0, {"fetchToMetadata": True}, {"fetchTo": "METADATA"}),
        ("metadata.TbFetchDeviceCredentialsNode", 0, {"fetchToMetadata": False}, {"fetchTo": "DATA"}),
        ("metadata.CalculateDeltaNode", 0, {}, {"excludeZeroDeltas": False}),
        ("metadata.CalculateDeltaNode", 0, {"excludeZeroDeltas": True}, {"excludeZeroDeltas": True}),
        ("transform.TbCopyKeysNode", 0, {"fromMetadata": True}, {"copyFrom": "METADATA"}),
        ("transform.TbRenameKeysNode", 0, {"fromMetadata": "false"}, {"renameIn": "DATA"}),
        ("transform.TbDeleteKeysNode", 0, {"fromMetadata": False}, {"deleteFrom": "DATA"}),
        ("transform.TbCopyKeysNode", 1, {"fromMetadata": "METADATA"}, {"copyFrom": "METADATA"}),
        ("transform.TbRenameKeysNode", 1, {"fromMetadata": "DATA"}, {"renameIn": "DATA"}),
        ("transform.TbDeleteKeysNode", 1, {"dataToFetch": "METADATA"}, {"deleteFrom": "METADATA"}),
        (
            "transform.TbDeleteKeysNode",
            1,
            {"dataToFetch": "METADATA", "deleteFrom": "DATA"},
            {"dataToFetch": "METADATA", "deleteFrom": "DATA"},
        ),
        ("filter.TbCheckRelationNode", 0, {"direction": "FROM"}, {"direction": "TO"}),
        ("filter.TbCheckRelationNode", 0, {"direction": "TO"}, {"direction": "FROM"}),
        ("filter.TbCheckRelationNode", 1, {"direction": "TO"}, {"direction": "TO"}),
        ("action.TbCreateRelationNode", 0, {"direction": "TO"}, {"direction": "TO"}),
        ("action.TbCreateRelationNode", 0, {"direction": "TO", "entityCacheExpiration": 300}, {"direction": "FROM"}),
        ("action.TbDeleteRelationNode", 0, {"direction": "FROM", "entityCacheExpiration": 1}, {"direction": "TO"}),
        ("deduplication.TbMsgDeduplicationNode", 0, {"queueName": "Main", "interval": 5}, {"interval": 5}),
        ("flow.TbCheckpointNode", 0, {"queueName": "Main"}, {}),
        ("flow.TbRuleChainInputNode", 0, {}, {"forwardMsgToDefaultRuleChain": False}),
        (
            "profile.TbDeviceProfileNode",
            0,
            {"persistAlarmRulesState": False, "fetchAlarmRulesStateOnStart": True},
            {"persistAlarmRulesState": False, "fetchAlarmRulesStateOnStart": False},
        ),
        (
            "profile.TbDeviceProfileNode",
            0,
            {"persistAlarmRulesState": "true", "fetchAlarmRulesStateOnStart": True},
            {"persistAlarmRulesState": "true", "fetchAlarmRulesStateOnStart": True},
        ),
        (
            "geo.TbGpsGeofencingActionNode",
            0,
            {"perimeterType": "CIRCLE"},
            {"perimeterType": "CIRCLE", "reportPresenceStatusOnEachMessage": False},
        ),
    ],
)
def test_upgrade(kind, version, old, new):
    before = dict(old)
    assert upgraded(kind, version, old) == new
    assert old == before
