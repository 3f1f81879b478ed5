"""One event of the server's queue becomes one `DownlinkMsg`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.values import key_of, write_values
from gateway.cloudsim.world import Entity, World

CREATED, UPDATED, DELETED = 0, 1, 2
_KINDS: Final = {
    "DELETED": DELETED,
    "UNASSIGNED_FROM_EDGE": DELETED,
    "RELATION_DELETED": DELETED,
    "ADDED": CREATED,
    "ASSIGNED_TO_EDGE": CREATED,
}
_OLD_ANNOUNCED: Final = (7, 8, 9)  # V_3_7_0 … V_3_9_0: these edges do not know `processingSettings`


def new_message() -> edge_pb2.DownlinkMsg:
    """Empty, under a random id: 0 … 2^31 - 2, as the server picks them."""
    return edge_pb2.DownlinkMsg(downlinkMsgId=random.randrange(2_147_483_647))


def edge_configuration(
    world: World, routing_key: str, secret: str, cloud_type: str = "CE"
) -> edge_pb2.EdgeConfiguration:
    """The EDGE entity as connect answers and updates carry it."""
    edge = world.get("EDGE", world.edge_id)
    assert edge is not None
    customer = (0, 0) if world.customer_id is None else key_of(world.customer_id)
    edge_key, tenant_key = key_of(world.edge_id), key_of(world.tenant_id)
    return edge_pb2.EdgeConfiguration(
        edgeIdMSB=edge_key[0],
        edgeIdLSB=edge_key[1],
        tenantIdMSB=tenant_key[0],
        tenantIdLSB=tenant_key[1],
        customerIdMSB=customer[0],
        customerIdLSB=customer[1],
        name=edge.name,
        type=str(edge.json["type"]),
        routingKey=routing_key,
        secret=secret,
        additionalInfo="null",
        cloudType=cloud_type,
    )


class Converter:
    """Events into messages, with each entity as it is at this moment."""

    def __init__(self, world: World, release: tuple[int, int], now_ms: Callable[[], int]) -> None:
        self._world, self.release, self._now_ms = world, release, now_ms
        self.brand = "org.thingsboard."
        self.announced = 99_999
        """The number of the edge's announced version."""

    def convert(self, event: EdgeEvent) -> edge_pb2.DownlinkMsg | None:
        """None when the entity is gone and there is nothing to say."""
        if event.type == "FIELD":
            return self._only(event)
        msg = new_message()
        make = _BY_ACTION.get(event.action) or _BY_TYPE.get(event.type)
        if make is not None:
            make(self, msg, event)
        return msg if len(msg.ListFields()) > (1 if msg.downlinkMsgId else 0) else None

    def _only(self, event: EdgeEvent) -> edge_pb2.DownlinkMsg:
        """One field of `DownlinkMsg` and nothing else; the event has its name and what it is made of."""
        whole, field = new_message(), event.action
        type_, action, id_ = event.body["type"], event.body["action"], event.entity_id
        if field == "syncCompletedMsg":
            whole.syncCompletedMsg.SetInParent()
        else:
            source = EdgeEvent(type_, action, id_, event.body["body"], event.ts_ms)
            make = _BY_FIELD.get(field) or _BY_ACTION.get(action) or _BY_TYPE[type_]
            make(self, whole, source)
        for other, _ in whole.ListFields():
            if other.name not in ("downlinkMsgId", field):
                whole.ClearField(other.name)
        return whole

    # ── what happened to an entity ──

    def _device(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        entity = self._fill(msg.deviceUpdateMsg, event)
        if entity is None:
            return
        if self.release >= (3, 8):
            self._credentials(msg, event)
        if _kind(event) == CREATED:
            profile_id = UUID(entity.json["deviceProfileId"]["id"])
            self._fill(msg.deviceProfileUpdateMsg, EdgeEvent("DEVICE_PROFILE", "ADDED", profile_id))

    def _asset(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        entity = self._fill(msg.assetUpdateMsg, event)
        if entity is not None and _kind(event) == CREATED:
            profile_id = UUID(entity.json["assetProfileId"]["id"])
            self._fill(msg.assetProfileUpdateMsg, EdgeEvent("ASSET_PROFILE", "ADDED", profile_id))

    def _credentials(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        if event.type == "USER":
            held = self._world.user_credentials.get(_id(event))
            if held is not None:
                msg.userCredentialsUpdateMsg.add(entity=_text(held))
            return
        held = self._world.credentials.get(_id(event))
        if held is not None:
            msg.deviceCredentialsUpdateMsg.add(entity=_text(held))

    def _credentials_request(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        msb, lsb = key_of(_id(event))
        msg.deviceCredentialsRequestMsg.add(deviceIdMSB=msb, deviceIdLSB=lsb)

    def _rule_chain(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        entity = self._fill(msg.ruleChainUpdateMsg, event)
        if entity is not None and self.release >= (3, 8):
            self._rule_chain_metadata(msg, event)

    def _rule_chain_metadata(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        held = self._world.metadata.get(_id(event))
        if held is None:
            return
        if self.release >= (4, 0) and self.announced in _OLD_ANNOUNCED:
            held = {**held, "nodes": [_without_processing(node) for node in held["nodes"]]}
        if self.brand != "org.thingsboard.":
            held = {**held, "nodes": [{**node, "type": self._branded(node)} for node in held["nodes"]]}
        msg.ruleChainMetadataUpdateMsg.add(msgType=_kind(event), entity=_text(held))

    def _branded(self, node: JsonObject) -> str:
        return str(node["type"]).replace("org.thingsboard.", self.brand, 1)

    def _user(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        entity = self._fill(msg.userUpdateMsg, event)
        if entity is not None and self.release >= (3, 8):
            self._credentials(msg, event)
        if entity is not None and self.release >= (4, 3):
            for key in self._world.of_type("API_KEY"):
                if key.json["userId"]["id"] == str(entity.id):
                    self._fill(msg.apiKeyUpdateMsg, EdgeEvent("API_KEY", "ADDED", key.id))

    def _tenant(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        tenant = self._world.get("TENANT", self._world.tenant_id)
        assert tenant is not None
        msg.tenantUpdateMsg.add(msgType=UPDATED, entity=_text(tenant.json))
        for profile in self._world.of_type("TENANT_PROFILE"):
            msg.tenantProfileUpdateMsg.add(msgType=UPDATED, entity=_text(profile.json))

    def _admin_settings(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        held = self._world.get("ADMIN_SETTINGS", _id(event))
        if held is not None:
            msg.adminSettingsUpdateMsg.add(entity=_text(held.json))

    def _relation(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        msg.relationUpdateMsg.add(msgType=_kind(event), entity=_text(event.body))

    def _widgets_bundle(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        if self._fill(msg.widgetsBundleUpdateMsg, event) is not None:
            names = [str(widget.json["fqn"]) for widget in self._world.of_type("WIDGET_TYPE")]
            msg.widgetsBundleUpdateMsg[0].widgets = orjson.dumps(names).decode()

    def _alarm(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        msb, lsb = key_of(_id(event))
        kind = {"ALARM_ACK": 3, "ALARM_CLEAR": 4}.get(event.action, _kind(event))
        held = self._world.get("ALARM", _id(event))
        json = event.body if held is None else held.json
        if json is not None:
            msg.alarmUpdateMsg.add(msgType=kind, idMSB=msb, idLSB=lsb, entity=_text(json))

    def _alarm_comment(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        kind = {"ADDED_COMMENT": CREATED, "DELETED_COMMENT": DELETED}.get(event.action, UPDATED)
        msg.alarmCommentUpdateMsg.add(msgType=kind, entity=_text(event.body))

    def _oauth2(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        """The old shape of field 30: a text under number 1, where the new message has a number."""
        text = _text({"enabled": True, "edgeEnabled": True, "oauth2ParamsInfos": []}).encode()
        assert len(text) < 128  # one byte of length
        msg.oAuth2ClientUpdateMsg.add().MergeFromString(b"\x0a" + bytes([len(text)]) + text)

    def _oauth2_client(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        if self.release < (3, 8):
            self._oauth2(msg, event)
        elif not self._is_older_than_3_8:
            self._fill(msg.oAuth2ClientUpdateMsg, event)

    def _domain(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        if self._is_older_than_3_8:
            return
        entity = self._fill(msg.oAuth2DomainUpdateMsg, event)
        if entity is not None:
            for info in entity.json["oauth2ClientInfos"]:
                self._fill(msg.oAuth2ClientUpdateMsg, EdgeEvent("OAUTH2_CLIENT", "ADDED", UUID(info["id"]["id"])))

    @property
    def _is_older_than_3_8(self) -> bool:
        return self.announced < 8  # the numbers up to here are in the order of the versions

    def _fill(self, target: Any, event: EdgeEvent) -> Entity | None:
        """One update message of the common shape; a delete carries the id only."""
        id_ = _id(event)
        msb, lsb = key_of(id_)
        if _kind(event) == DELETED:
            target.add(msgType=DELETED, idMSB=msb, idLSB=lsb)
            return None
        entity = self._world.get(event.type, id_)
        if entity is None:
            return None
        json = entity.json
        if event.type == "RULE_CHAIN":
            json = {**json, "root": id_ == self._world.root_chain_id}
        target.add(msgType=_kind(event), idMSB=msb, idLSB=lsb, entity=_text(json))
        return entity

    # ── data ──

    def _timeseries(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        data = self._entity_data(msg, event)
        series = queue_pb2.TsKvListProto(ts=event.body["ts"], kv=write_values(event.body["data"]))
        data.postTelemetryMsg.tsKvList.append(series)

    def _attributes(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        data = self._entity_data(msg, event)
        data.attributesUpdatedMsg.kv.extend(write_values(event.body["kv"]))
        data.postAttributeScope = event.body["scope"]
        if self.release >= (4, 0):
            data.attributeTs = event.body.get("ts") or self._now_ms()

    def _attributes_deleted(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        removed = self._entity_data(msg, event).attributeDeleteMsg
        removed.scope = event.body["scope"]
        removed.attributeNames.extend(event.body["keys"])

    def _entity_data(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> edge_pb2.EntityDataProto:
        msb, lsb = key_of(_id(event))
        return msg.entityData.add(entityIdMSB=msb, entityIdLSB=lsb, entityType=event.type)

    def _rpc(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        body = event.body
        msb, lsb = key_of(_id(event))
        call = msg.deviceRpcCallMsg.add(deviceIdMSB=msb, deviceIdLSB=lsb, requestId=body["requestId"])
        if "response" in body:  # to a call that the device made
            call.responseMsg.response = body["response"]
            call.serviceId, call.sessionId = body["serviceId"], body["sessionId"]
            return
        call.requestUuidMSB, call.requestUuidLSB = key_of(UUID(body["requestUUID"]))
        call.expirationTime, call.oneway = body["expirationTime"], body["oneway"]
        call.persisted, call.retries, call.additionalInfo = body["persisted"], 0, "null"
        call.requestMsg.method, call.requestMsg.params = body["method"], body["params"]

    def _edge(self, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        msg.edgeConfiguration.ParseFromString(bytes.fromhex(event.body["configuration"]))


_BY_ACTION: Final[dict[str, Callable[[Converter, edge_pb2.DownlinkMsg, EdgeEvent], None]]] = {
    "TIMESERIES_UPDATED": Converter._timeseries,
    "ATTRIBUTES_UPDATED": Converter._attributes,
    "ATTRIBUTES_DELETED": Converter._attributes_deleted,
    "CREDENTIALS_UPDATED": Converter._credentials,
    "CREDENTIALS_REQUEST": Converter._credentials_request,
    "RPC_CALL": Converter._rpc,
}


def _plain(field: str) -> Callable[[Converter, edge_pb2.DownlinkMsg, EdgeEvent], None]:
    def make(converter: Converter, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        converter._fill(getattr(msg, field), event)

    return make


_BY_TYPE: Final[dict[str, Callable[[Converter, edge_pb2.DownlinkMsg, EdgeEvent], None]]] = {
    "DEVICE": Converter._device,
    "ASSET": Converter._asset,
    "RULE_CHAIN": Converter._rule_chain,
    "RULE_CHAIN_METADATA": Converter._rule_chain_metadata,
    "USER": Converter._user,
    "TENANT": Converter._tenant,
    "ADMIN_SETTINGS": Converter._admin_settings,
    "RELATION": Converter._relation,
    "WIDGETS_BUNDLE": Converter._widgets_bundle,
    "ALARM": Converter._alarm,
    "EDGE": Converter._edge,
    "DEVICE_PROFILE": _plain("deviceProfileUpdateMsg"),
    "ASSET_PROFILE": _plain("assetProfileUpdateMsg"),
    "CUSTOMER": _plain("customerUpdateMsg"),
    "DASHBOARD": _plain("dashboardUpdateMsg"),
    "ENTITY_VIEW": _plain("entityViewUpdateMsg"),
    "QUEUE": _plain("queueUpdateMsg"),
    "WIDGET_TYPE": _plain("widgetTypeUpdateMsg"),
}


def _nameless(field: str) -> Callable[[Converter, edge_pb2.DownlinkMsg, EdgeEvent], None]:
    """Notification messages carry their id in deletes only."""

    def make(converter: Converter, msg: edge_pb2.DownlinkMsg, event: EdgeEvent) -> None:
        target = getattr(msg, field)
        if converter._fill(target, event) is not None:
            target[0].ClearField("idMSB")
            target[0].ClearField("idLSB")

    return make


_BY_TYPE.update(
    {
        "ALARM_COMMENT": Converter._alarm_comment,
        "OAUTH2": Converter._oauth2,
        "OAUTH2_CLIENT": Converter._oauth2_client,
        "DOMAIN": Converter._domain,
        "OTA_PACKAGE": _plain("otaPackageUpdateMsg"),
        "TB_RESOURCE": _plain("resourceUpdateMsg"),
        "CALCULATED_FIELD": _plain("calculatedFieldUpdateMsg"),
        "AI_MODEL": _plain("aiModelUpdateMsg"),
        "API_KEY": _plain("apiKeyUpdateMsg"),
        "NOTIFICATION_RULE": _nameless("notificationRuleUpdateMsg"),
        "NOTIFICATION_TARGET": _nameless("notificationTargetUpdateMsg"),
        "NOTIFICATION_TEMPLATE": _nameless("notificationTemplateUpdateMsg"),
    }
)
_BY_FIELD: Final[dict[str, Callable[[Converter, edge_pb2.DownlinkMsg, EdgeEvent], None]]] = {
    "deviceCredentialsUpdateMsg": Converter._credentials,
    "userCredentialsUpdateMsg": Converter._credentials,
    "ruleChainMetadataUpdateMsg": Converter._rule_chain_metadata,
}


def _id(event: EdgeEvent) -> UUID:
    assert event.entity_id is not None
    return event.entity_id


def _kind(event: EdgeEvent) -> int:
    return _KINDS.get(event.action, UPDATED)


def _text(json: JsonObject) -> str:
    return orjson.dumps(json).decode()


def _without_processing(node: JsonObject) -> JsonObject:
    configuration = {key: value for key, value in node["configuration"].items() if key != "processingSettings"}
    return {**node, "configuration": configuration}
