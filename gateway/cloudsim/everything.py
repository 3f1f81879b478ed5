"""One downlink for every field of `DownlinkMsg`, each in a message of its own.

For a gateway to meet all of them at least once, whatever the release that is played.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.cloudsim import entities
from gateway.cloudsim.downlinks import edge_configuration
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.world import Entity, World
from gateway.domain.entity import Json, time_uuid
from gateway.errors import RejectedError

_OF_AN_ENTITY: Final = {
    "deviceProfileUpdateMsg": "DEVICE_PROFILE",
    "assetProfileUpdateMsg": "ASSET_PROFILE",
    "deviceUpdateMsg": "DEVICE",
    "deviceCredentialsUpdateMsg": "DEVICE",
    "ruleChainUpdateMsg": "RULE_CHAIN",
    "ruleChainMetadataUpdateMsg": "RULE_CHAIN",
    "dashboardUpdateMsg": "DASHBOARD",
    "assetUpdateMsg": "ASSET",
    "entityViewUpdateMsg": "ENTITY_VIEW",
    "userUpdateMsg": "USER",
    "userCredentialsUpdateMsg": "USER",
    "customerUpdateMsg": "CUSTOMER",
    "widgetTypeUpdateMsg": "WIDGET_TYPE",
    "widgetsBundleUpdateMsg": "WIDGETS_BUNDLE",
    "adminSettingsUpdateMsg": "ADMIN_SETTINGS",
    "otaPackageUpdateMsg": "OTA_PACKAGE",
    "queueUpdateMsg": "QUEUE",
    "resourceUpdateMsg": "TB_RESOURCE",
    "oAuth2ClientUpdateMsg": "OAUTH2_CLIENT",
    "oAuth2DomainUpdateMsg": "DOMAIN",
    "notificationRuleUpdateMsg": "NOTIFICATION_RULE",
    "notificationTargetUpdateMsg": "NOTIFICATION_TARGET",
    "notificationTemplateUpdateMsg": "NOTIFICATION_TEMPLATE",
    "calculatedFieldUpdateMsg": "CALCULATED_FIELD",
    "aiModelUpdateMsg": "AI_MODEL",
    "apiKeyUpdateMsg": "API_KEY",
}


def every_field(world: World, options: CloudSimOptions, rpc_body: JsonObject, now_ms: int) -> Iterator[EdgeEvent]:
    """The events, in an order in which what is referred to comes first.

    Raises:
        RejectedError: There is no device or no widget type.
    """
    device = _first(world, "DEVICE")
    alarm = entities.alarm(time_uuid(), now_ms, world.tenant_id, device.json["id"], "Everything")
    comment: JsonObject = {
        "id": {"id": str(time_uuid())},
        "createdTime": now_ms,
        "alarmId": alarm["id"],
        "userId": None,
        "type": "OTHER",
        "comment": {"text": "seen"},
    }
    hall = _first(world, "ASSET")
    for field, type_ in _OF_AN_ENTITY.items():
        yield _event(field, type_, "ADDED", _first(world, type_), None, now_ms)
    for field in ("tenantUpdateMsg", "tenantProfileUpdateMsg"):
        yield _event(field, "TENANT", "UPDATED", _first(world, "TENANT"), None, now_ms)
    series = {"ts": now_ms, "data": {"everything": 1}}
    yield _event("entityData", "DEVICE", "TIMESERIES_UPDATED", device, series, now_ms)
    yield _event("deviceCredentialsRequestMsg", "DEVICE", "CREDENTIALS_REQUEST", device, None, now_ms)
    yield _event("deviceRpcCallMsg", "DEVICE", "RPC_CALL", device, rpc_body, now_ms)
    yield _event("alarmUpdateMsg", "ALARM", "ADDED", device, alarm, now_ms)
    yield _event("alarmCommentUpdateMsg", "ALARM_COMMENT", "ADDED_COMMENT", device, comment, now_ms)
    relation = entities.relation(hall.json["id"], device.json["id"], "Everything")
    yield _event("relationUpdateMsg", "RELATION", "ADDED", device, relation, now_ms)
    configuration = edge_configuration(world, options.routing_key, options.routing_secret, options.cloud_type)
    edge: JsonObject = {"configuration": configuration.SerializeToString().hex()}
    yield _event("edgeConfiguration", "EDGE", "UPDATED", _first(world, "EDGE"), edge, now_ms)
    yield _event("syncCompletedMsg", "EDGE", "UPDATED", _first(world, "EDGE"), None, now_ms)


def _event(field: str, type_: str, action: str, about: Entity, body: Json, now_ms: int) -> EdgeEvent:
    return EdgeEvent("FIELD", field, about.id, {"type": type_, "action": action, "body": body}, now_ms)


def _first(world: World, type_: str) -> Entity:
    for entity in world.of_type(type_):
        if entity.is_assigned:
            return entity
    raise RejectedError(f"there is no {type_} to send")
