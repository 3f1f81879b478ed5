"""Cloud events → `RequestMsg` bytes. Entities are serialised as they are now, not as they were when queued.

Every telemetry event becomes one `EntityDataProto` with one list, never several lists in one: the server
confirms a message when the *first* list of an entity has been taken, so that a confirmation would say
nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloud.codec import halves
from gateway.cloud.entities import alarm_id, credentials_json, device_json, profile_json, sendable
from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.domain.cloud_event import Action, StoredEvent
from gateway.domain.downlink import LAST_GATEWAY, MOVED_DEVICES
from gateway.domain.entity import Device, Json, Origin
from gateway.domain.rpc import RpcError
from gateway.domain.telemetry import AttributeScope
from gateway.errors import RejectedError
from gateway.ports import StateReader

_BOOLEAN: Final = queue_pb2.BOOLEAN_V
_LONG: Final = queue_pb2.LONG_V
_DOUBLE: Final = queue_pb2.DOUBLE_V
_STRING: Final = queue_pb2.STRING_V
_JSON: Final = queue_pb2.JSON_V
_CREATED: Final = edge_pb2.ENTITY_CREATED_RPC_MESSAGE
_UPDATED: Final = edge_pb2.ENTITY_UPDATED_RPC_MESSAGE
_DELETED: Final = edge_pb2.ENTITY_DELETED_RPC_MESSAGE
_LONG_MIN, _LONG_MAX = -(1 << 63), (1 << 63) - 1

_DATA_TYPES: Final = frozenset({"DEVICE", "ASSET", "ENTITY_VIEW", "DASHBOARD", "TENANT", "CUSTOMER", "USER", "EDGE"})
_SCOPES: Final = frozenset(AttributeScope)
_RPC_ERRORS: Final = frozenset(error.value for error in RpcError)
_ALARM_KINDS: Final[Mapping[str, Any]] = {
    Action.ADDED: _CREATED,
    Action.UPDATED: _UPDATED,
    Action.ALARM_ACK: edge_pb2.ALARM_ACK_RPC_MESSAGE,
    Action.ALARM_CLEAR: edge_pb2.ALARM_CLEAR_RPC_MESSAGE,
    Action.ALARM_DELETE: _DELETED,
    Action.DELETED: _DELETED,
}
_COMMENT_KINDS: Final[Mapping[str, Any]] = {
    Action.ADDED_COMMENT: _CREATED,
    Action.UPDATED_COMMENT: _UPDATED,
    Action.DELETED_COMMENT: _DELETED,
}
_WITH_CUSTOMER: Final = frozenset({"DEVICE", "ASSET", "ENTITY_VIEW", "DASHBOARD"})
_DOCUMENTS: Final[Mapping[str, str]] = {
    "ASSET": "assetUpdateMsg",
    "ASSET_PROFILE": "assetProfileUpdateMsg",
    "ENTITY_VIEW": "entityViewUpdateMsg",
    "DASHBOARD": "dashboardUpdateMsg",
}
"""Entities that are kept as their JSON. An asset does not bring its profile along: all profiles of assets that
we know are the cloud's own. A CUSTOMER has no message on the way up."""


class _Moves:
    """`MOVED_DEVICES` as ids. Remembers the last one: a setting is never changed, another value takes its place."""

    def __init__(self) -> None:
        self._setting: Any = None
        self._ids: Mapping[UUID | None, UUID] = {}

    def of(self, setting: Mapping[str, str]) -> Mapping[UUID | None, UUID]:
        """From which id to which."""
        if setting is not self._setting:
            self._ids = {UUID(old): UUID(new) for old, new in setting.items()}
            self._setting = setting
        return self._ids


_moves: Final = _Moves()


def encode_connect(key: str, secret: str, release: str, max_inbound_bytes: int) -> bytes:
    """The first message. `release` is like "3.7.0"; unknown numbers select an ancient dialect on old servers."""
    return edge_pb2.RequestMsg(
        msgType=edge_pb2.CONNECT_RPC_MESSAGE,
        connectRequestMsg=edge_pb2.ConnectRequestMsg(
            edgeRoutingKey=key,
            edgeSecret=secret,
            edgeVersion="V_" + release.replace(".", "_"),
            maxInboundMessageSize=max_inbound_bytes,
        ),
    ).SerializeToString()


def encode_sync(is_full: bool) -> bytes:
    """Ask for what the cloud has assigned to us."""
    return edge_pb2.RequestMsg(
        msgType=edge_pb2.SYNC_REQUEST_RPC_MESSAGE, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=is_full)
    ).SerializeToString()


def encode_probe(uplink_id: int) -> bytes:
    """A message without content: every server answers it with success and does nothing else."""
    return edge_pb2.RequestMsg(
        msgType=edge_pb2.UPLINK_RPC_MESSAGE, uplinkMsg=edge_pb2.UplinkMsg(uplinkMsgId=uplink_id)
    ).SerializeToString()


def encode_ack(downlink_id: int) -> bytes:
    """Acknowledge one downlink; the type is UPLINK, another one would be ignored.

    Always as a success: a server may repeat what is refused for two minutes, and hold back what stands behind it.
    """
    return edge_pb2.RequestMsg(
        msgType=edge_pb2.UPLINK_RPC_MESSAGE,
        downlinkResponseMsg=edge_pb2.DownlinkResponseMsg(success=True, downlinkMsgId=downlink_id),
    ).SerializeToString()


def encode_uplink(uplink_id: int, events: Sequence[StoredEvent], state: StateReader) -> bytes | None:
    """One message with these events; None when nothing is left to send (entity gone, empty data).

    Raises:
        RejectedError: An event's body cannot be read, or says what the wire cannot carry.
    """
    request = edge_pb2.RequestMsg(msgType=edge_pb2.UPLINK_RPC_MESSAGE)
    message = request.uplinkMsg
    message.uplinkMsgId = uplink_id
    is_empty = True
    setting = state.setting(MOVED_DEVICES)
    moved = _moves.of(setting) if setting else None
    for event in events:
        if moved and event.entity_id in moved:
            event = replace(event, entity_id=moved[event.entity_id])
        write = _WRITERS.get(event.action)
        if write is None:
            continue
        try:
            if write(message, event, state):
                is_empty = False
        except RejectedError:
            raise
        # What a damaged body can cause; one event must not end the link.
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RejectedError(
                f"{event.type} {event.action} (event {event.seq_id}) cannot be encoded: {type(error).__name__} {error}"
            ) from error
    return None if is_empty else request.SerializeToString()


def _telemetry(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type not in _DATA_TYPES or event.entity_id is None:
        return False
    body = orjson.loads(event.body or b"{}")
    values = body.get("data")
    if not values or (None in values.values() and all(value is None for value in values.values())):
        return False  # the cloud never answers empty telemetry
    data = _entity_data(message, event.type, event.entity_id)
    ts_ms = body.get("ts")
    series = data.postTelemetryMsg.tsKvList.add(ts=event.created_ms if ts_ms is None else ts_ms)
    _add_values(series.kv.add, values)
    return True


def _attributes(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type not in _DATA_TYPES or event.entity_id is None:
        return False
    body = orjson.loads(event.body or b"{}")
    values = body.get("kv")
    if not values or all(value is None for value in values.values()):
        return False
    scope = _scope(body)
    data = _entity_data(message, event.type, event.entity_id)
    is_post = event.action == Action.POST_ATTRIBUTES or body.get("isPostAttributes")
    _add_values((data.postAttributesMsg if is_post else data.attributesUpdatedMsg).kv.add, values)
    data.postAttributeScope = scope
    data.attributeTs = body.get("ts") or event.created_ms
    return True


def _attributes_deleted(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type not in _DATA_TYPES or event.entity_id is None:
        return False
    body = orjson.loads(event.body or b"{}")
    keys = body.get("keys")
    if not keys:
        return False
    scope = _scope(body)
    removed = _entity_data(message, event.type, event.entity_id).attributeDeleteMsg
    removed.scope = scope
    removed.attributeNames.extend(keys)
    return True


def _scope(body: Mapping[str, Any]) -> str:
    scope = body.get("scope") or AttributeScope.SERVER_SCOPE.value
    if scope not in _SCOPES:  # the cloud would refuse it with a stack trace
        raise RejectedError(f"attribute scope {scope!r} is none of {', '.join(sorted(_SCOPES))}")
    return str(scope)


def _entity_data(message: edge_pb2.UplinkMsg, type_: str, id_: UUID) -> edge_pb2.EntityDataProto:
    high, low = halves(id_)
    return message.entityData.add(entityIdMSB=high, entityIdLSB=low, entityType=type_)


def _add_values(add: Callable[..., Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        kind = type(value)
        if kind is float:
            add(key=key, type=_DOUBLE, double_v=value)
        elif kind is int:
            if _LONG_MIN <= value <= _LONG_MAX:
                add(key=key, type=_LONG, long_v=value)
            else:
                add(key=key, type=_STRING, string_v=str(value))
        elif kind is str:
            add(key=key, type=_STRING, string_v=value)
        elif kind is bool:
            add(key=key, type=_BOOLEAN, bool_v=value)
        elif value is not None:
            add(key=key, type=_JSON, json_v=orjson.dumps(value).decode())


def _added(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type == "ALARM":
        return _alarm(message, event, state)
    return _entity(message, event, state, _CREATED)


def _updated(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type == "ALARM":
        return _alarm(message, event, state)
    return _entity(message, event, state, _UPDATED)


def _customer_changed(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    return event.type in _WITH_CUSTOMER and _entity(message, event, state, _UPDATED)


def _entity(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader, kind: Any) -> bool:
    if event.entity_id is None:
        return False
    high, low = halves(event.entity_id)
    if event.type == "DEVICE_PROFILE":
        return _profile(message, event.entity_id, state, kind)
    if event.type in _DOCUMENTS:
        json = state.entity_json(event.type, str(event.entity_id))
        if not isinstance(json, Mapping) or (event.type == "ASSET" and json.get("type") == "TbServiceQueue"):
            return False
        entity = orjson.dumps(sendable(json)).decode()
        getattr(message, _DOCUMENTS[event.type]).add(msgType=kind, idMSB=high, idLSB=low, entity=entity)
        return True
    device = state.device(event.entity_id) if event.type == "DEVICE" else None
    if device is None:
        return False
    if kind == _CREATED and device.profile_id is not None:
        _profile(message, device.profile_id, state, _CREATED)
    gateway = _last_gateway(device, state)
    json = device_json(device, state.identity(), gateway, customer=_customer(gateway, state) if gateway else None)
    entity = orjson.dumps(json).decode()
    message.deviceUpdateMsg.add(msgType=kind, idMSB=high, idLSB=low, entity=entity)
    _credentials(message, device)
    return True


def _last_gateway(device: Device, state: StateReader) -> str | None:
    kept = state.setting(f"{LAST_GATEWAY}{device.id}")
    return (state.setting(MOVED_DEVICES) or {}).get(kept, kept) if kept else None


def _customer(gateway: str, state: StateReader) -> Mapping[str, Json] | None:
    """Whose the gateway is; nobody's is None."""
    device = state.device(UUID(gateway))
    held = None if device is None or device.json is None else sendable(device.json).get("customerId")
    return held if isinstance(held, Mapping) else None


def _profile(message: edge_pb2.UplinkMsg, id_: UUID, state: StateReader, kind: Any) -> bool:
    """A profile that the cloud knows is never echoed: it would lose its edge rule chain there."""
    profile = state.profile(id_)
    if profile is None or profile.origin != Origin.EDGE:
        return False
    high, low = halves(id_)
    entity = orjson.dumps(profile_json(profile, state.identity())).decode()
    message.deviceProfileUpdateMsg.add(msgType=kind, idMSB=high, idLSB=low, entity=entity)
    return True


def _credentials(message: edge_pb2.UplinkMsg, device: Device) -> bool:
    if device.credentials is None:
        return False
    entity = orjson.dumps(credentials_json(device, device.credentials)).decode()
    message.deviceCredentialsUpdateMsg.add(entity=entity)
    return True


def _deleted(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type == "ALARM":
        return _alarm(message, event, state)
    field = "deviceUpdateMsg" if event.type == "DEVICE" else _DOCUMENTS.get(event.type)
    if field is None or event.type == "ASSET_PROFILE" or event.entity_id is None:
        return False  # the cloud refuses the deletion of profiles
    high, low = halves(event.entity_id)
    getattr(message, field).add(msgType=_DELETED, idMSB=high, idLSB=low)
    return True


def _credentials_updated(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    device = state.device(event.entity_id) if event.type == "DEVICE" and event.entity_id else None
    return device is not None and _credentials(message, device)


def _rpc(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type != "DEVICE" or event.entity_id is None:
        return False
    body = orjson.loads(event.body or b"{}")
    high, low = halves(event.entity_id)
    call = edge_pb2.DeviceRpcCallMsg(deviceIdMSB=high, deviceIdLSB=low, requestId=int(body.get("requestId") or 0))
    if "response" in body or "error" in body:
        if body.get("requestUUID"):
            call.requestUuidMSB, call.requestUuidLSB = halves(UUID(body["requestUUID"]))
        call.expirationTime = body.get("expirationTime") or 0
        call.oneway = bool(body.get("oneway"))
        call.responseMsg.SetInParent()
        call.responseMsg.response = _text(body.get("response"))
        call.responseMsg.error = _rpc_error(body.get("error"))
    else:
        call.requestMsg.method = body["method"]
        call.requestMsg.params = _text(body.get("params"))
        if body.get("serviceId"):
            call.serviceId = body["serviceId"]
        if body.get("sessionId"):
            call.sessionId = body["sessionId"]
    message.deviceRpcCallMsg.append(call)
    return True


def _rpc_error(value: Any) -> str:
    """One of the five names that the cloud takes; another text would fail the message, and the caller would wait."""
    if not value:
        return ""
    return value if value in _RPC_ERRORS else RpcError.INTERNAL.value


def _text(value: Any) -> str:
    """JSON text stays as it is; anything else becomes JSON text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _attributes_request(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    """About one entity, or about those in the body."""
    if event.entity_id is not None:
        _ask_attributes(message, event.type, event.entity_id)
        return True
    entities = orjson.loads(event.body or b"{}").get("entities") or ()
    for type_, id_ in entities:
        _ask_attributes(message, type_, UUID(id_))
    return bool(entities)


def _ask_attributes(message: edge_pb2.UplinkMsg, type_: str, id_: UUID) -> None:
    high, low = halves(id_)
    scopes = [AttributeScope.SERVER_SCOPE]
    if type_ == "DEVICE":
        scopes.append(AttributeScope.SHARED_SCOPE)
    for scope in scopes:
        message.attributesRequestMsg.add(entityIdMSB=high, entityIdLSB=low, entityType=type_, scope=scope.value)


def _relation_request(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.entity_id is None:
        return False
    high, low = halves(event.entity_id)
    message.relationRequestMsg.add(entityIdMSB=high, entityIdLSB=low, entityType=event.type)
    return True


def _calculated_field_request(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.entity_id is None:
        return False
    high, low = halves(event.entity_id)
    message.calculatedFieldRequestMsg.add(entityIdMSB=high, entityIdLSB=low, entityType=event.type)
    return True


def _metadata_request(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.entity_id is None:
        return False
    high, low = halves(event.entity_id)
    message.ruleChainMetadataRequestMsg.add(ruleChainIdMSB=high, ruleChainIdLSB=low)
    return True


def _credentials_request(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.entity_id is None or event.type != "DEVICE":
        return False
    high, low = halves(event.entity_id)
    message.deviceCredentialsRequestMsg.add(deviceIdMSB=high, deviceIdLSB=low)
    return True


def _alarm(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    """From the event's body, else as the alarm is now; a deleted one is only in its event."""
    kind = _ALARM_KINDS[event.action]
    body = orjson.loads(event.body) if event.body else None
    if body is None and event.entity_id is not None and kind != _DELETED:
        body = state.entity_json("ALARM", str(event.entity_id))
    if event.type != "ALARM" or body is None:
        return False
    high, low = halves(alarm_id(body, event.entity_id))
    # Made before the first connect it has a tenant that is null.
    if body.get("tenantId", "") is None and (identity := state.identity()) is not None:
        body = {**body, "tenantId": {"entityType": "TENANT", "id": str(identity.tenant_id)}}
    message.alarmUpdateMsg.add(msgType=kind, idMSB=high, idLSB=low, entity=orjson.dumps(sendable(body)).decode())
    return True


def _comment(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type != "ALARM_COMMENT" or not event.body:
        return False
    body = orjson.loads(event.body)
    if not isinstance(body, dict):
        raise RejectedError("an alarm's comment is a JSON object")
    message.alarmCommentUpdateMsg.add(msgType=_COMMENT_KINDS[event.action], entity=orjson.dumps(body).decode())
    return True


def _relation(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    if event.type != "RELATION" or not event.body:
        return False
    kind = _DELETED if event.action == Action.RELATION_DELETED else _CREATED
    relation = orjson.loads(event.body)
    moved = state.setting(MOVED_DEVICES) or {}
    for name in ("from", "to") if moved else ():
        if (successor := moved.get(relation[name]["id"])) is not None:
            relation[name]["id"] = successor
    return _relation_update(message, relation, kind)


def _relations_deleted(message: edge_pb2.UplinkMsg, event: StoredEvent, state: StateReader) -> bool:
    relations = orjson.loads(event.body or b"{}").get("relations") or ()
    written = 0
    for relation in relations:
        written += _relation_update(message, relation, _DELETED)
    return written > 0


def _relation_update(message: edge_pb2.UplinkMsg, relation: Any, kind: Any) -> bool:
    if not isinstance(relation, dict):
        raise RejectedError("a relation is a JSON object")
    if relation.get("typeGroup", "COMMON") != "COMMON":
        return False  # servers exchange no others
    message.relationUpdateMsg.add(msgType=kind, entity=orjson.dumps({**relation, "version": None}).decode())
    return True


_WRITERS: Final[Mapping[str, Callable[[edge_pb2.UplinkMsg, StoredEvent, StateReader], bool]]] = {
    Action.TIMESERIES_UPDATED: _telemetry,
    Action.ATTRIBUTES_UPDATED: _attributes,
    Action.POST_ATTRIBUTES: _attributes,
    Action.ATTRIBUTES_DELETED: _attributes_deleted,
    Action.ADDED: _added,
    Action.UPDATED: _updated,
    Action.DELETED: _deleted,
    Action.ASSIGNED_TO_CUSTOMER: _customer_changed,
    Action.UNASSIGNED_FROM_CUSTOMER: _customer_changed,
    Action.CREDENTIALS_UPDATED: _credentials_updated,
    Action.RPC_CALL: _rpc,
    Action.ATTRIBUTES_REQUEST: _attributes_request,
    Action.RELATION_REQUEST: _relation_request,
    Action.CALCULATED_FIELD_REQUEST: _calculated_field_request,
    Action.RULE_CHAIN_METADATA_REQUEST: _metadata_request,
    Action.CREDENTIALS_REQUEST: _credentials_request,
    Action.ALARM_ACK: _alarm,
    Action.ALARM_CLEAR: _alarm,
    Action.ALARM_DELETE: _alarm,
    Action.RELATION_ADD_OR_UPDATE: _relation,
    Action.RELATION_DELETED: _relation,
    Action.RELATIONS_DELETED: _relations_deleted,
    Action.ADDED_COMMENT: _comment,
    Action.UPDATED_COMMENT: _comment,
    Action.DELETED_COMMENT: _comment,
}
"""By action; what is not here (TIMESERIES_DELETED …) has no message and stays local."""
