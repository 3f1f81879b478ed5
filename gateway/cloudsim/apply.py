"""What the cloud does with an `UplinkMsg`.

The parts of a message are applied in the server's order, not in that of the wire. The first part that fails
fails the message; what came before it stays done. There is no detection of repeated messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.arrivals import Arrivals
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.faults import Faults
from gateway.cloudsim.provision import Provisioning, read_json
from gateway.cloudsim.rpc import RpcCalls, RpcRecord
from gateway.cloudsim.strict import DATA_TYPES, PartCheck, StreamCheck
from gateway.cloudsim.values import Report, check_halves, check_value, read_values, uuid_of
from gateway.cloudsim.world import SCOPES, STATE_KEYS, Entity, World
from gateway.domain.alarm import with_status
from gateway.domain.entity import NULL_UUID, Json
from gateway.domain.telemetry import Attribute, Value
from gateway.errors import RejectedError
from gateway.supervise import Counters

ReplyMaker = Callable[[Json], Json]

_ENTITY_TYPES: Final = frozenset(
    [
        "TENANT",
        "CUSTOMER",
        "USER",
        "DASHBOARD",
        "ASSET",
        "DEVICE",
        "ALARM",
        "RULE_CHAIN",
        "RULE_NODE",
        "ENTITY_VIEW",
        "WIDGETS_BUNDLE",
        "WIDGET_TYPE",
        "TENANT_PROFILE",
        "DEVICE_PROFILE",
        "ASSET_PROFILE",
        "API_USAGE_STATE",
        "TB_RESOURCE",
        "OTA_PACKAGE",
        "EDGE",
        "RPC",
        "QUEUE",
    ]
)
_CREATED, _UPDATED, _DELETED, _ALARM_ACK, _ALARM_CLEAR = range(5)


class Uplink:
    """Applies uplink messages to the world."""

    def __init__(
        self,
        world: World,
        release: tuple[int, int],
        arrivals: Arrivals,
        faults: Faults,
        rpc: RpcCalls,
        counters: Counters,
        push: Callable[[EdgeEvent], None],
        push_priority: Callable[[EdgeEvent], None],
        now_ms: Callable[[], int],
        report: Report,
    ) -> None:
        self._world, self.release, self._arrivals = world, release, arrivals
        self._report, self.parts = report, PartCheck(world, report)
        self._faults, self._rpc, self._counters = faults, rpc, counters
        self._push, self._push_priority, self._now_ms = push, push_priority, now_ms
        self.provisioning = Provisioning(world, release, faults, counters, push, now_ms)
        self._stream: StreamCheck | None = None
        self._uplink_id = 0
        self.replies: dict[str, ReplyMaker] = {}
        """Methods that a rule of the cloud answers when a device calls them; others stay unanswered."""
        self._answers = True
        made: list[tuple[str, Callable[[Any], None]]] = [
            ("deviceProfileUpdateMsg", lambda msg: self.provisioning.profile("DEVICE_PROFILE", msg)),
            ("deviceUpdateMsg", self.provisioning.device),
            ("deviceCredentialsUpdateMsg", self.provisioning.credentials),
            ("assetProfileUpdateMsg", lambda msg: self.provisioning.profile("ASSET_PROFILE", msg)),
            ("assetUpdateMsg", self.provisioning.asset),
            ("ruleChainUpdateMsg", self._rule_chain),
            ("ruleChainMetadataUpdateMsg", self._rule_chain_metadata),
            ("entityViewUpdateMsg", self.provisioning.entity_view),
            ("entityData", self._entity_data),
            ("alarmUpdateMsg", self._alarm),
            ("relationUpdateMsg", self._relation),
            ("ruleChainMetadataRequestMsg", self._metadata_request),
            ("attributesRequestMsg", self._attributes_request),
            ("relationRequestMsg", self._relation_request),
            ("calculatedFieldRequestMsg", self._calculated_field_request),
            ("userCredentialsRequestMsg", self._user_credentials_request),
            ("deviceCredentialsRequestMsg", self._device_credentials_request),
            ("deviceRpcCallMsg", self._rpc_call),
        ]
        self._order = made
        self._handled = {name for name, _ in made} | {"uplinkMsgId"}

    def apply(self, msg: edge_pb2.UplinkMsg, stream: StreamCheck | None = None) -> bool:
        """Do everything that the message says. False: the server never answers this one.

        Raises:
            RejectedError: A part failed; its text is the answer's.
        """
        self._answers = True
        self._stream, self._uplink_id = stream, msg.uplinkMsgId
        parts = {field.name: value for field, value in msg.ListFields()}
        if "entityData" in parts and len(parts) <= 2 and not self._faults.has_match:
            take = self._entity_data
            for data in parts["entityData"]:
                take(data)
            return self._answers
        has_match = self._faults.has_match
        for name, handle in self._order:
            for part in parts.get(name, ()):
                if has_match and self._faults.check(self._texts(part)):
                    self._answers = False
                if name != "entityData":
                    self.parts.check(name, part)
                handle(part)
        for name in parts.keys() - self._handled:
            for part in parts[name]:
                self.parts.check(name, part)
        return self._answers

    def _texts(self, part: Any) -> Iterable[str]:
        """What a fault may match: id, name and keys."""
        if isinstance(part, edge_pb2.EntityDataProto):
            yield str(uuid_of(part.entityIdMSB, part.entityIdLSB))
            entity = self._world.subject(part.entityIdMSB, part.entityIdLSB, part.entityType)
            if entity is not None:
                yield entity.name
            for item in part.postTelemetryMsg.tsKvList:
                yield from (kv.key for kv in item.kv)
            yield from (kv.key for kv in part.postAttributesMsg.kv)
            yield from (kv.key for kv in part.attributesUpdatedMsg.kv)
            yield from part.attributeDeleteMsg.attributeNames
            return
        if isinstance(part, edge_pb2.DeviceRpcCallMsg):
            device_id = uuid_of(part.deviceIdMSB, part.deviceIdLSB)
            yield from (str(device_id), self._name(device_id), part.requestMsg.method)
            return
        if hasattr(part, "idMSB"):
            yield str(uuid_of(part.idMSB, part.idLSB))
        if getattr(part, "entity", ""):
            json = read_json(part.entity)
            yield str(json.get("name") or json.get("title") or json.get("type") or "")

    # ── telemetry and attributes ──

    def _entity_data(self, data: edge_pb2.EntityDataProto) -> None:
        type_ = data.entityType
        entity = self._world.subject(data.entityIdMSB, data.entityIdLSB, type_)
        if entity is None:
            self._no_subject(data)
            if type_ not in _ENTITY_TYPES:
                raise RejectedError(f"No enum constant EntityType.{type_}")
            self._counters.add("dropped_unknown")
            return
        if data.HasField("postTelemetryMsg"):
            lists = data.postTelemetryMsg.tsKvList
            if lists:
                self._arrivals.take(entity.series, lists)
            else:
                self._counters.add("empty_telemetry")
                self._report("empty_telemetry", f"{entity.name!r}: postTelemetryMsg without a list is never answered")
                self._answers = False
        if data.HasField("postAttributesMsg"):
            self._attributes(entity, data, data.postAttributesMsg.kv, is_post=True)
        if data.HasField("attributesUpdatedMsg"):
            self._attributes(entity, data, data.attributesUpdatedMsg.kv, is_post=False)
        if data.HasField("attributeDeleteMsg"):
            held = entity.attributes[_scope(data.attributeDeleteMsg.scope)]
            for key in data.attributeDeleteMsg.attributeNames:
                held.pop(key, None)
            self._counters.add("attribute_deletes")
            return
        entity.last_activity_ms = self._now_ms()

    def _no_subject(self, data: edge_pb2.EntityDataProto) -> None:
        msb, lsb, type_ = data.entityIdMSB, data.entityIdLSB, data.entityType
        check_halves(self._report, f"entityData of {type_}", msb, lsb)
        id_ = uuid_of(msb, lsb)
        if type_ not in DATA_TYPES:
            self._report("entity_type", f"{type_!r} of {id_}")
        elif not self._world.was_removed(id_):
            self._report("unknown_entity", f"data of {type_} {id_} before it exists: dropped, answered with success")

    def _attributes(self, entity: Entity, data: edge_pb2.EntityDataProto, kvs: Any, *, is_post: bool) -> None:
        scope_name = data.postAttributeScope
        if scope_name not in SCOPES:
            self._report("attribute_scope", f"{entity.name!r}: postAttributeScope is {scope_name!r}")
        if is_post and self.release < (4, 0):
            scope_name = "CLIENT_SCOPE"  # the rule node's own scope counts there
        held = entity.attributes[_scope(scope_name)]
        ts_ms = self._now_ms()
        if self.release >= (4, 0) and data.HasField("attributeTs"):
            ts_ms = data.attributeTs
        elif self.release >= (4, 0):
            self._report("attribute_ts_missing", f"{entity.name!r}: {', '.join(kv.key for kv in kvs)}")
        for kv in kvs:
            check_value(self._report, kv)
        for key, value in read_values(kvs).items():
            known = held.get(key)
            if known is not None and self.release >= (4, 0) and ts_ms == known.ts_ms and value != known.value:
                self._report(
                    "attribute_ts_constant", f"{entity.name!r}: {key} has another value at the same time {ts_ms}: lost"
                )
            if known is not None and self.release >= (4, 0) and ts_ms <= known.ts_ms:
                self._counters.add("stale_attributes")
                continue
            held[key] = Attribute(ts_ms, value)
            self._counters.add("attributes")

    # ── other entities ──

    def _rule_chain(self, msg: edge_pb2.RuleChainUpdateMsg) -> None:
        if self.release < (4, 0):
            return  # older servers do not know the field
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        if msg.msgType == _DELETED:
            self._world.remove("RULE_CHAIN", id_)
            return
        json = read_json(msg.entity)
        self._world.add("RULE_CHAIN", id_, {**json, "type": "EDGE"})
        if json.get("root") is True:
            self._world.root_chain_id = id_

    def _rule_chain_metadata(self, msg: edge_pb2.RuleChainMetadataUpdateMsg) -> None:
        if self.release >= (4, 0):
            json = read_json(msg.entity)
            self._world.metadata[UUID(json["ruleChainId"]["id"])] = json

    def _alarm(self, msg: edge_pb2.AlarmUpdateMsg) -> None:
        json = read_json(msg.entity)
        if json.get("originator") is None:
            return
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        known = self._world.get("ALARM", id_)
        if msg.msgType == _CREATED:
            self._check_customer(json)
            same = self._active_alarm(json)
            target = same.id if same is not None else id_
            self._world.add("ALARM", target, {**json, "id": {"entityType": "ALARM", "id": str(target)}})
        elif known is None:
            return
        elif msg.msgType == _UPDATED:
            known.json = json
        elif msg.msgType == _DELETED:
            self._world.remove("ALARM", id_)
        elif msg.msgType == _ALARM_ACK:
            known.json = with_status({**known.json, "acknowledged": True, "ackTs": json.get("ackTs", 0)})
        elif msg.msgType == _ALARM_CLEAR:
            clear = {"cleared": True, "clearTs": json.get("clearTs", 0), "details": json.get("details")}
            known.json = with_status({**known.json, **clear})

    def _check_customer(self, json: JsonObject) -> None:
        customer = (json.get("customerId") or {}).get("id")
        originator = self._world.get(json["originator"]["entityType"], UUID(json["originator"]["id"]))
        owner = ((originator.json.get("customerId") or {}) if originator else {}).get("id")
        if customer not in (None, str(NULL_UUID), owner):
            raise RejectedError("the alarm's customer is not that of its originator")

    def _active_alarm(self, json: JsonObject) -> Entity | None:
        wanted = (json["originator"]["id"], json.get("type"))
        for held in self._world.of_type("ALARM"):
            if (held.json["originator"]["id"], held.json.get("type")) == wanted and not held.json.get("cleared"):
                return held
        return None

    def _relation(self, msg: edge_pb2.RelationUpdateMsg) -> None:
        json = read_json(msg.entity)
        if msg.msgType == _DELETED:
            self._world.unrelate(json)
        elif self._world.has(json["from"]) and self._world.has(json["to"]):
            self._world.relate(json)

    # ── requests: the answer is a later downlink ──

    def _attributes_request(self, msg: edge_pb2.AttributesRequestMsg) -> None:
        entity = self._world.subject(msg.entityIdMSB, msg.entityIdLSB, msg.entityType)
        if entity is None:
            return
        held = entity.attributes[_scope(msg.scope)]
        kv = {key: attribute.value for key, attribute in held.items() if key not in STATE_KEYS - {"inactivityTimeout"}}
        if kv:
            updated = {"kv": kv, "scope": msg.scope}
            self._push(EdgeEvent(entity.type, "ATTRIBUTES_UPDATED", entity.id, updated, self._now_ms()))
        by_ts: dict[int, dict[str, Value]] = {}
        for key, (ts_ms, value) in entity.series.latest.items():
            if key not in STATE_KEYS:
                by_ts.setdefault(ts_ms, {})[key] = value
        for ts_ms, data in by_ts.items():
            body = {"ts": ts_ms, "data": data}
            self._push(EdgeEvent(entity.type, "TIMESERIES_UPDATED", entity.id, body, self._now_ms()))

    def _relation_request(self, msg: edge_pb2.RelationRequestMsg) -> None:
        for json in self._world.relations_of(uuid_of(msg.entityIdMSB, msg.entityIdLSB)):
            self._push(EdgeEvent("RELATION", "ADDED", None, json))

    def _calculated_field_request(self, msg: edge_pb2.CalculatedFieldRequestMsg) -> None:
        owner = str(uuid_of(msg.entityIdMSB, msg.entityIdLSB))
        for field in list(self._world.of_type("CALCULATED_FIELD")):
            if field.json["entityId"]["id"] == owner:
                self._push(EdgeEvent("CALCULATED_FIELD", "ADDED", field.id))

    def _metadata_request(self, msg: edge_pb2.RuleChainMetadataRequestMsg) -> None:
        self._push(EdgeEvent("RULE_CHAIN_METADATA", "ADDED", uuid_of(msg.ruleChainIdMSB, msg.ruleChainIdLSB)))

    def _user_credentials_request(self, msg: edge_pb2.UserCredentialsRequestMsg) -> None:
        self._push(EdgeEvent("USER", "CREDENTIALS_UPDATED", uuid_of(msg.userIdMSB, msg.userIdLSB)))

    def _device_credentials_request(self, msg: edge_pb2.DeviceCredentialsRequestMsg) -> None:
        self._push(EdgeEvent("DEVICE", "CREDENTIALS_UPDATED", uuid_of(msg.deviceIdMSB, msg.deviceIdLSB)))

    # ── RPC ──

    def _rpc_call(self, msg: edge_pb2.DeviceRpcCallMsg) -> None:
        if msg.HasField("responseMsg"):
            self._rpc.take_answer(msg, self._stream, self._uplink_id)
        elif msg.HasField("requestMsg"):
            self._call_by_device(msg)

    def _call_by_device(self, msg: edge_pb2.DeviceRpcCallMsg) -> None:
        device_id = uuid_of(msg.deviceIdMSB, msg.deviceIdLSB)
        method = msg.requestMsg.method
        self._counters.add("device_rpc_calls")
        reply = self.replies.get(method)
        self._rpc.recent.append(
            RpcRecord(self._name(device_id), f"{method} (from device)", "" if reply else "no reply")
        )
        if reply is None:
            return
        try:
            params = orjson.loads(msg.requestMsg.params or "null")
        except orjson.JSONDecodeError:
            params = msg.requestMsg.params
        body = {
            "requestId": msg.requestId,
            "serviceId": msg.serviceId,
            "sessionId": msg.sessionId,
            "response": orjson.dumps(reply(params)).decode(),
        }
        self._push_priority(EdgeEvent("DEVICE", "RPC_CALL", device_id, body))

    def _name(self, device_id: UUID) -> str:
        device = self._world.get("DEVICE", device_id)
        return device.name if device is not None else str(device_id)


def _scope(name: str) -> str:
    if name not in SCOPES:
        raise RejectedError(f"No enum constant AttributeScope.{name}")
    return name
