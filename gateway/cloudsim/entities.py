"""The JSON of entities, as the server writes it; one function makes one kind.

Source: the edge protocol's table of entity keys and ThingsBoard's default edge root chain.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.entity import NULL_UUID, Json

JsonObject = dict[str, Any]

PASSWORD_HASH: Final = "$2a$10$SimulatedCloudAdministratorPasswordHashNotForKeeping"
"""In the credentials of every simulated user; a gateway has no use for it and should not keep it."""

MAIL_PASSWORD: Final = "simulated-mail-server-password"
"""In the mail settings; likewise."""


OAUTH2_SECRET: Final = "simulated-oauth2-client-secret"
"""In the OAuth2 client; likewise."""

API_KEY: Final = "simulated-api-key-value"
"""In the API key; likewise."""


def reference(type_: str, id_: UUID) -> JsonObject:
    """An entity id."""
    return {"entityType": type_, "id": str(id_)}


def no_customer() -> JsonObject:
    """The customer id that means none."""
    return reference("CUSTOMER", NULL_UUID)


def _base(type_: str, id_: UUID, created_ms: int, tenant_id: UUID | None) -> JsonObject:
    made: JsonObject = {"id": reference(type_, id_), "createdTime": created_ms}
    if tenant_id is not None:
        made["tenantId"] = reference("TENANT", tenant_id)
    return made


def device(
    id_: UUID, created_ms: int, tenant_id: UUID, name: str, profile_id: UUID, profile: str, label: str | None = None
) -> JsonObject:
    """DEVICE."""
    return _base("DEVICE", id_, created_ms, tenant_id) | {
        "customerId": no_customer(),
        "name": name,
        "type": profile,
        "label": label,
        "deviceProfileId": reference("DEVICE_PROFILE", profile_id),
        "deviceData": {"configuration": {"type": "DEFAULT"}, "transportConfiguration": {"type": "DEFAULT"}},
        "firmwareId": None,
        "softwareId": None,
        "externalId": None,
        "additionalInfo": {"gateway": False, "overwriteActivityTime": False, "description": ""},
        "version": 1,
    }


def credentials(
    id_: UUID, created_ms: int, device_id: UUID, type_: str, credentials_id: str, value: Json
) -> JsonObject:
    """Device credentials: their id is not an entity's."""
    return {
        "id": {"id": str(id_)},
        "createdTime": created_ms,
        "deviceId": reference("DEVICE", device_id),
        "credentialsType": type_,
        "credentialsId": credentials_id,
        "credentialsValue": value,
        "version": 1,
    }


def computed_credentials_id(type_: str, credentials_id: str, value: str | None) -> str:
    """The id under which credentials are looked up; the server computes it again for two of the types.

    Raises:
        ValueError: MQTT_BASIC with neither client id nor user name, or with a client id and a password only.
    """
    if type_ == "X509_CERTIFICATE" and value:
        lines = (line.strip() for line in value.splitlines())
        return _sha3("".join(line for line in lines if line and not line.startswith("-----")))
    if type_ != "MQTT_BASIC":
        return credentials_id
    basic = orjson.loads(value or "{}")
    client_id, user_name, password = basic.get("clientId"), basic.get("userName"), basic.get("password")
    if not client_id and not user_name:
        raise ValueError("both client id and user name are empty")
    if client_id and password and not user_name:
        raise ValueError("a password needs a user name")
    if not client_id:
        return str(user_name)
    return _sha3(f"{client_id}|{user_name}" if user_name else client_id)


def _sha3(text: str) -> str:
    return hashlib.sha3_256(text.encode()).hexdigest()


def device_profile(id_: UUID, created_ms: int, tenant_id: UUID, name: str, *, is_default: bool) -> JsonObject:
    """DEVICE_PROFILE."""
    return _base("DEVICE_PROFILE", id_, created_ms, tenant_id) | {
        "name": name,
        "description": None,
        "image": None,
        "default": is_default,
        "type": "DEFAULT",
        "transportType": "DEFAULT",
        "provisionType": "DISABLED",
        "defaultRuleChainId": None,
        "defaultDashboardId": None,
        "defaultQueueName": "Main",
        "profileData": {
            "configuration": {"type": "DEFAULT"},
            "transportConfiguration": {"type": "DEFAULT"},
            "provisionConfiguration": {"type": "DISABLED", "provisionDeviceSecret": None},
            "alarms": [],
        },
        "provisionDeviceKey": None,
        "firmwareId": None,
        "softwareId": None,
        "defaultEdgeRuleChainId": None,
        "externalId": None,
        "version": 1,
    }


def asset_profile(id_: UUID, created_ms: int, tenant_id: UUID, name: str, *, is_default: bool) -> JsonObject:
    """ASSET_PROFILE."""
    return _base("ASSET_PROFILE", id_, created_ms, tenant_id) | {
        "name": name,
        "description": None,
        "image": None,
        "default": is_default,
        "defaultRuleChainId": None,
        "defaultDashboardId": None,
        "defaultQueueName": None,
        "defaultEdgeRuleChainId": None,
        "externalId": None,
        "version": 1,
    }


def asset(id_: UUID, created_ms: int, tenant_id: UUID, name: str, profile_id: UUID, profile: str) -> JsonObject:
    """ASSET."""
    return _base("ASSET", id_, created_ms, tenant_id) | {
        "customerId": no_customer(),
        "name": name,
        "type": profile,
        "label": None,
        "assetProfileId": reference("ASSET_PROFILE", profile_id),
        "externalId": None,
        "additionalInfo": None,
        "version": 1,
    }


def relation(from_: JsonObject, to: JsonObject, type_: str) -> JsonObject:
    """A COMMON relation."""
    return {"from": from_, "to": to, "type": type_, "typeGroup": "COMMON", "additionalInfo": None, "version": 1}


def customer(id_: UUID, created_ms: int, tenant_id: UUID, title: str) -> JsonObject:
    """CUSTOMER."""
    return _base("CUSTOMER", id_, created_ms, tenant_id) | {
        "title": title,
        "name": title,
        "email": None,
        "additionalInfo": {"isPublic": False},
        "externalId": None,
        "version": 1,
    }


def tenant(id_: UUID, created_ms: int, profile_id: UUID, title: str) -> JsonObject:
    """TENANT."""
    return _base("TENANT", id_, created_ms, None) | {
        "title": title,
        "name": title,
        "region": "Global",
        "tenantProfileId": reference("TENANT_PROFILE", profile_id),
        "additionalInfo": None,
        "version": 1,
    }


def tenant_profile(id_: UUID, created_ms: int) -> JsonObject:
    """TENANT_PROFILE."""
    return _base("TENANT_PROFILE", id_, created_ms, None) | {
        "name": "Default",
        "description": None,
        "default": True,
        "isolatedTbRuleEngine": False,
        "profileData": {"configuration": {"type": "DEFAULT"}, "queueConfiguration": None},
    }


def user(id_: UUID, created_ms: int, tenant_id: UUID, email: str) -> JsonObject:
    """USER, an administrator of the tenant."""
    return _base("USER", id_, created_ms, tenant_id) | {
        "customerId": no_customer(),
        "email": email,
        "name": email,
        "authority": "TENANT_ADMIN",
        "firstName": None,
        "lastName": None,
        "phone": None,
        "additionalInfo": None,
        "version": 1,
    }


def user_credentials(id_: UUID, created_ms: int, user_id: UUID) -> JsonObject:
    """User credentials, password hash included: the server does send it."""
    return {
        "id": {"id": str(id_)},
        "createdTime": created_ms,
        "userId": reference("USER", user_id),
        "enabled": True,
        "password": PASSWORD_HASH,
        "activateToken": None,
        "resetToken": None,
        "additionalInfo": None,
    }


def admin_settings(id_: UUID, created_ms: int, tenant_id: UUID) -> JsonObject:
    """ADMIN_SETTINGS: the mail server's."""
    return _base("ADMIN_SETTINGS", id_, created_ms, tenant_id) | {
        "key": "mail",
        "jsonValue": {"smtpHost": "localhost", "smtpPort": "25", "username": "", "password": MAIL_PASSWORD},
    }


def queue(id_: UUID, created_ms: int) -> JsonObject:
    """QUEUE: Main, which belongs to the system tenant."""
    return _base("QUEUE", id_, created_ms, NULL_UUID) | {
        "name": "Main",
        "topic": "tb_rule_engine.main",
        "pollInterval": 25,
        "partitions": 10,
        "consumerPerPartition": True,
        "packProcessingTimeout": 2000,
        "submitStrategy": {"type": "BURST", "batchSize": 1000},
        "processingStrategy": {
            "type": "SKIP_ALL_FAILURES",
            "retries": 3,
            "failurePercentage": 0.0,
            "pauseBetweenRetries": 3,
            "maxPauseBetweenRetries": 3,
        },
        "additionalInfo": None,
    }


def widget_type(id_: UUID, created_ms: int, name: str) -> JsonObject:
    """WIDGET_TYPE."""
    return _base("WIDGET_TYPE", id_, created_ms, NULL_UUID) | {
        "fqn": name.lower().replace(" ", "_"),
        "name": name,
        "deprecated": False,
        "descriptor": {"type": "latest", "templateHtml": "", "templateCss": "", "controllerScript": ""},
    }


def widgets_bundle(id_: UUID, created_ms: int, title: str) -> JsonObject:
    """WIDGETS_BUNDLE."""
    return _base("WIDGETS_BUNDLE", id_, created_ms, NULL_UUID) | {
        "alias": title.lower(),
        "title": title,
        "name": title,
        "image": None,
        "order": None,
    }


def dashboard(id_: UUID, created_ms: int, tenant_id: UUID, title: str) -> JsonObject:
    """DASHBOARD."""
    return _base("DASHBOARD", id_, created_ms, tenant_id) | {
        "title": title,
        "name": title,
        "image": None,
        "mobileHide": False,
        "mobileOrder": None,
        "assignedCustomers": None,
        "configuration": {"widgets": {}},
        "resources": None,
        "externalId": None,
        "version": 1,
    }


def rule_chain(id_: UUID, created_ms: int, tenant_id: UUID, name: str) -> JsonObject:
    """RULE_CHAIN of type EDGE; `root` is set when it is sent."""
    return _base("RULE_CHAIN", id_, created_ms, tenant_id) | {
        "name": name,
        "type": "EDGE",
        "firstRuleNodeId": None,
        "root": False,
        "debugMode": False,
        "configuration": None,
        "externalId": None,
        "additionalInfo": None,
        "version": 1,
    }


def other(type_: str, id_: UUID, created_ms: int, tenant_id: UUID | None, **keys: Json) -> JsonObject:
    """An entity that no rule of the simulator looks into."""
    return _base(type_, id_, created_ms, tenant_id) | keys


def mean_of(owner: JsonObject) -> JsonObject:
    """A calculated field: the mean of two keys."""
    arguments = {name: {"refEntityKey": {"key": name, "type": "TS_LATEST"}} for name in ("low", "high")}
    output = {"type": "TIME_SERIES", "name": "mean", "decimalsByDefault": 2}
    configuration = {"type": "SIMPLE", "arguments": arguments, "expression": "(low + high) / 2", "output": output}
    return {"name": "Mean", "type": "SIMPLE", "entityId": owner, "configuration": configuration}


def alarm(id_: UUID, created_ms: int, tenant_id: UUID, originator: JsonObject, type_: str) -> JsonObject:
    """ALARM, active and not acknowledged."""
    return _base("ALARM", id_, created_ms, tenant_id) | {
        "customerId": None,
        "type": type_,
        "name": type_,
        "originator": originator,
        "severity": "MAJOR",
        "acknowledged": False,
        "cleared": False,
        "assigneeId": None,
        "startTs": created_ms,
        "endTs": created_ms,
        "ackTs": 0,
        "clearTs": 0,
        "assignTs": 0,
        "details": None,
        "propagate": False,
        "propagateToOwner": False,
        "propagateToTenant": False,
        "propagateRelationTypes": [],
        "status": "ACTIVE_UNACK",
    }


_EVERY_MESSAGE: Final = {"type": "ON_EVERY_MESSAGE"}
_LOG_SCRIPT: Final = (
    "return '\\nIncoming message:\\n' + JSON.stringify(msg) + '\\nIncoming metadata:\\n' + JSON.stringify(metadata);"
)


def root_chain_metadata(chain_id: UUID, release: tuple[int, int]) -> JsonObject:
    """RULE_CHAIN_METADATA of the default edge root chain, as the given release has it."""
    save: JsonObject = {"defaultTTL": 0, "useServerTs": False}
    save_attributes: JsonObject = {
        "scope": "CLIENT_SCOPE",
        "notifyDevice": False,
        "sendAttributesUpdatedNotification": False,
        "updateAttributesOnlyOnValueChange": True,
    }
    if release >= (4, 0):
        save["processingSettings"] = _EVERY_MESSAGE
        save_attributes["processingSettings"] = _EVERY_MESSAGE
    log: JsonObject = {"scriptLang": "JS", "jsScript": _LOG_SCRIPT, "tbelScript": _LOG_SCRIPT}
    push_saved = {"scope": "CLIENT_SCOPE" if release >= (4, 0) else "SERVER_SCOPE"}
    nodes = [
        _node("telemetry.TbMsgTimeseriesNode", "Save Timeseries", 1, save),
        _node("telemetry.TbMsgAttributesNode", "Save Client Attributes", 3, save_attributes),
        _node("filter.TbMsgTypeSwitchNode", "Message Type Switch", 0, {"version": 0}),
        _node("action.TbLogNode", "Log RPC from Device", 0, log),
        _node("action.TbLogNode", "Log Other", 0, log),
        _node("rpc.TbSendRPCRequestNode", "RPC Call Request", 0, {"timeoutInSeconds": 60}),
        _node("edge.TbMsgPushToCloudNode", "Push to cloud", 0, push_saved),
        _node("edge.TbMsgPushToCloudNode", "Push to cloud", 0, {"scope": "SERVER_SCOPE"}),
    ]
    links = [
        (2, 0, "Post telemetry"),
        (2, 1, "Post attributes"),
        (2, 3, "RPC Request from Device"),
        (2, 4, "Other"),
        (2, 5, "RPC Request to Device"),
        (2, 7, "Attributes Updated"),
        (2, 7, "Attributes Deleted"),
        (0, 6, "Success"),
        (1, 6, "Success"),
    ]
    first = 2
    if release <= (4, 2):  # these begin with a device profile node
        rules = {"persistAlarmRulesState": False, "fetchAlarmRulesStateOnStart": False}
        nodes.insert(0, _node("profile.TbDeviceProfileNode", "Device Profile Node", 0, rules))
        links = [(start + 1, end + 1, label) for start, end, label in links] + [(0, 3, "Success")]
        first = 0
    return {
        "ruleChainId": reference("RULE_CHAIN", chain_id),
        "version": 1,
        "firstNodeIndex": first,
        "nodes": nodes,
        "connections": [{"fromIndex": start, "toIndex": end, "type": label} for start, end, label in links],
        "ruleChainConnections": None,
    }


def _node(class_: str, name: str, version: int, configuration: JsonObject) -> JsonObject:
    return {
        "type": f"org.thingsboard.rule.engine.{class_}",
        "name": name,
        "debugSettings": None,
        "singletonMode": False,
        "queueName": None,
        "configurationVersion": version,
        "configuration": configuration,
        "externalId": None,
        "additionalInfo": {"description": "", "layoutX": 300, "layoutY": 150},
    }
