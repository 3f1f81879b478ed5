"""`ResponseMsg` bytes → what the cloud said (`session.LinkEvent`), its commands in the order of application.

Unknown fields and kinds are tolerated. A part that cannot be read does not take its neighbours with it:
the others are applied, and the broken one is named. Of entity data a broken value or a null is left out and
counted as ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import UUID

import orjson
from google.protobuf.message import DecodeError

from gateway.cloud.codec import optional_uuid, required_uuid, uuid_of
from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloud.session import (
    Accepted,
    DownlinkReceived,
    EdgeChanged,
    LinkEvent,
    Refusal,
    Refused,
    Unknown,
    UplinkAnswered,
)
from gateway.domain.downlink import (
    AttributesReceived,
    AttributesRemoved,
    Command,
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
from gateway.domain.entity import EdgeIdentity, EntityId, Json
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import AttributeScope, TsKv, Value
from gateway.errors import RejectedError, TransientError
from gateway.ports import UplinkAnswer

_DEFAULT_LIMIT: Final = 4_194_304  # of a server that does not announce its own
_SCOPES: Final = frozenset(AttributeScope)


def decode_response(data: bytes) -> LinkEvent:
    """What one message of the cloud means.

    Raises:
        TransientError: Not a message of this protocol; the stream cannot be trusted any more.
    """
    try:
        response = edge_pb2.ResponseMsg.FromString(data)
    except DecodeError as error:
        raise TransientError("the cloud sent something that is not a message of the edge protocol") from error
    if response.HasField("uplinkResponseMsg"):
        answer = response.uplinkResponseMsg
        return UplinkAnswered(answer.uplinkMsgId, UplinkAnswer(answer.success, answer.errorMsg))
    if response.HasField("downlinkMsg"):
        return _downlink(response.downlinkMsg)
    if response.HasField("connectResponseMsg"):
        return _verdict(response.connectResponseMsg)
    if response.HasField("edgeUpdateMsg"):
        return EdgeChanged(_identity(response.edgeUpdateMsg.configuration))
    return Unknown()


_REFUSALS: Final = (
    ("Failed to find the edge!", Refusal.UNKNOWN_KEY),
    ("Failed to validate the edge!", Refusal.WRONG_SECRET),
)
"""How the server's text begins; the rest of it repeats the key or the secret."""


def _verdict(answer: edge_pb2.ConnectResponseMsg) -> LinkEvent:
    if answer.responseCode == edge_pb2.ACCEPTED:
        return Accepted(_identity(answer.configuration), answer.maxInboundMessageSize or _DEFAULT_LIMIT)
    if answer.responseCode != edge_pb2.BAD_CREDENTIALS:
        return Refused(Refusal.UNAVAILABLE)
    for sign, reason in _REFUSALS:
        if answer.errorMsg.startswith(sign):
            return Refused(reason)
    return Refused(Refusal.BAD_CREDENTIALS)


def _identity(configuration: edge_pb2.EdgeConfiguration) -> EdgeIdentity:
    return EdgeIdentity(
        edge_id=uuid_of(configuration.edgeIdMSB, configuration.edgeIdLSB),
        tenant_id=uuid_of(configuration.tenantIdMSB, configuration.tenantIdLSB),
        customer_id=optional_uuid(configuration.customerIdMSB, configuration.customerIdLSB),
        name=configuration.name,
        type=configuration.type,
        cloud_type=configuration.cloudType,
    )


def _downlink(message: edge_pb2.DownlinkMsg) -> DownlinkReceived:
    commands: list[Command] = []
    broken: list[str] = []
    if message.HasField("syncCompletedMsg"):
        commands.append(SyncCompleted())
    if message.HasField("edgeConfiguration"):
        commands.append(EdgeConfigured(_identity(message.edgeConfiguration)))
    for data in message.entityData:
        _entity_data(data, commands)
    for name, read in _READERS:
        for part in getattr(message, name):
            try:
                command = read(part)
            except RejectedError as error:
                broken.append(f"{name}: {error}")
            else:
                if command is not None:
                    commands.append(command)
    return DownlinkReceived(Downlink(message.downlinkMsgId, commands), "; ".join(broken))


def _entity_data(data: edge_pb2.EntityDataProto, commands: list[Command]) -> None:
    try:
        entity = EntityId(data.entityType, required_uuid(data.entityIdMSB, data.entityIdLSB, "entity data"))
        if data.HasField("postTelemetryMsg"):
            series = [TsKv(item.ts, _values(item.kv, commands)) for item in data.postTelemetryMsg.tsKvList]
            commands.append(TelemetryReceived(entity, [item for item in series if item.values]))
        ts_ms = data.attributeTs if data.HasField("attributeTs") else None
        if data.HasField("postAttributesMsg"):
            scope = data.postAttributeScope or AttributeScope.CLIENT_SCOPE.value  # 3.7 leaves it out
            values = _values(data.postAttributesMsg.kv, commands)
            posted = AttributesReceived(entity, _checked(scope), values, ts_ms, is_post=True)
            commands += [posted] if values else []
        if data.HasField("attributesUpdatedMsg"):
            values = _values(data.attributesUpdatedMsg.kv, commands)
            updated = AttributesReceived(entity, _checked(data.postAttributeScope), values, ts_ms)
            commands += [updated] if values else []
        if data.HasField("attributeDeleteMsg"):
            removed = data.attributeDeleteMsg
            commands.append(AttributesRemoved(entity, _checked(removed.scope), list(removed.attributeNames)))
    except RejectedError as error:
        commands.append(Ignored(f"entityData: {error}"))


def _checked(scope: str) -> str:
    if scope not in _SCOPES:
        raise RejectedError(f"{scope!r} is not an attribute scope")
    return scope


def _values(pairs: Iterable[queue_pb2.KeyValueProto], commands: list[Command]) -> dict[str, Value]:
    """By key. A null is no value (nothing is stored, what was there stays), and neither is JSON that is broken."""
    values: dict[str, Value] = {}
    for pair in pairs:
        try:
            value = _value(pair)
        except RejectedError as error:
            commands.append(Ignored(f"entityData: {error}"))
            continue
        if value is None:
            commands.append(Ignored(f"entityData: the value of {pair.key!r} is null"))
        else:
            values[pair.key] = value
    return values


def _value(pair: queue_pb2.KeyValueProto) -> Value | None:
    match pair.type:
        case queue_pb2.BOOLEAN_V:
            return pair.bool_v
        case queue_pb2.LONG_V:
            return pair.long_v
        case queue_pb2.DOUBLE_V:
            return pair.double_v
        case queue_pb2.JSON_V:
            value: Value | None = _json(pair.json_v, f"value of {pair.key!r}")
            return value
        case _:
            return pair.string_v


def _json(text: str, what: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RejectedError(f"{what} is not JSON") from None


def _rpc(call: edge_pb2.DeviceRpcCallMsg) -> Command | None:
    device_id = required_uuid(call.deviceIdMSB, call.deviceIdLSB, "the call")
    if call.HasField("responseMsg"):
        session_id = call.sessionId if call.HasField("sessionId") else None
        return RpcAnswered(device_id, call.requestId, session_id, call.responseMsg.response, call.responseMsg.error)
    if not call.HasField("requestMsg"):
        return None
    return RpcCalled(
        RpcRequest(
            device_id=device_id,
            method=call.requestMsg.method,
            params=_params(call.requestMsg.params),
            request_id=call.requestId,
            expires_ms=call.expirationTime,
            is_oneway=call.oneway,
            is_persisted=call.persisted,
            request_uuid=optional_uuid(call.requestUuidMSB, call.requestUuidLSB),
            retries=max(0, call.retries),
        )
    )


def _params(text: str) -> Json:
    """Whatever the caller gave: JSON text, or text that is none and then stays as it is."""
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return text


def _credentials_request(request: edge_pb2.DeviceCredentialsRequestMsg) -> Command:
    return CredentialsRequested(required_uuid(request.deviceIdMSB, request.deviceIdLSB, "the request"))


def _credentials(update: edge_pb2.DeviceCredentialsUpdateMsg) -> Command:
    json = _json(update.entity, "the entity")
    device = json.get("deviceId") if isinstance(json, dict) else None
    if not isinstance(device, dict):
        raise RejectedError("credentials without a deviceId")
    return CredentialsUpdated(_uuid(device.get("id")), json)


def _uuid(text: Json) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise RejectedError(f"{text!r} is not an id") from None


def _entity(type_: str, *, has_id: bool = True) -> Callable[[Any], Command]:
    def read(update: Any) -> Command:
        try:
            kind = UpdateKind(update.msgType)
        except ValueError:
            raise RejectedError(f"unknown kind of update {update.msgType}") from None
        json = _json(update.entity, "the entity") if update.entity else None
        id_ = optional_uuid(update.idMSB, update.idLSB) if has_id else _own_id(json)
        return EntityUpdated(type_, kind, id_, json, len(update.entity))

    return read


def _own_id(json: Json) -> UUID | None:
    """The id in an entity's JSON, where the message has none beside it (tenants); None: relations have none."""
    id_ = json.get("id") if isinstance(json, dict) else None
    return _uuid(id_.get("id")) if isinstance(id_, dict) else None


def _ignored(name: str) -> Callable[[Any], Command]:
    """Known, acknowledged, never read: some of these hold password hashes and mail secrets."""
    return lambda _: Ignored(name)


_READERS: Final[tuple[tuple[str, Callable[[Any], Command | None]], ...]] = (
    ("deviceRpcCallMsg", _rpc),
    ("deviceCredentialsRequestMsg", _credentials_request),
    ("deviceProfileUpdateMsg", _entity("DEVICE_PROFILE")),
    ("deviceUpdateMsg", _entity("DEVICE")),
    ("deviceCredentialsUpdateMsg", _credentials),
    ("assetProfileUpdateMsg", _entity("ASSET_PROFILE")),
    ("assetUpdateMsg", _entity("ASSET")),
    ("entityViewUpdateMsg", _entity("ENTITY_VIEW")),
    ("ruleChainUpdateMsg", _entity("RULE_CHAIN")),
    ("ruleChainMetadataUpdateMsg", _entity("RULE_CHAIN_METADATA", has_id=False)),
    ("dashboardUpdateMsg", _entity("DASHBOARD")),
    ("alarmUpdateMsg", _entity("ALARM")),
    ("alarmCommentUpdateMsg", _ignored("alarmCommentUpdateMsg")),
    ("customerUpdateMsg", _entity("CUSTOMER")),
    ("relationUpdateMsg", _entity("RELATION", has_id=False)),
    ("widgetsBundleUpdateMsg", _entity("WIDGETS_BUNDLE")),
    ("widgetTypeUpdateMsg", _entity("WIDGET_TYPE")),
    *((name, _ignored(name)) for name in ("userUpdateMsg", "userCredentialsUpdateMsg", "adminSettingsUpdateMsg")),
    ("otaPackageUpdateMsg", _entity("OTA_PACKAGE")),
    ("queueUpdateMsg", _ignored("queueUpdateMsg")),
    ("tenantProfileUpdateMsg", _entity("TENANT_PROFILE", has_id=False)),
    *(
        (name, _ignored(name))
        for name in (
            "notificationTemplateUpdateMsg",
            "notificationTargetUpdateMsg",
            "notificationRuleUpdateMsg",
            "oAuth2ClientUpdateMsg",
            "oAuth2DomainUpdateMsg",
        )
    ),
    ("tenantUpdateMsg", _entity("TENANT", has_id=False)),
    ("resourceUpdateMsg", _entity("TB_RESOURCE")),
    ("calculatedFieldUpdateMsg", _entity("CALCULATED_FIELD")),
    *((name, _ignored(name)) for name in ("aiModelUpdateMsg", "apiKeyUpdateMsg")),
)
"""Field and reader, in the order in which ThingsBoard Edge applies the fields of one message."""
